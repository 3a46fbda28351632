"""Answers in any form that interfaces give them in: scores by name, labels, texts, percentages."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.nodes import short

# What interfaces call the parts of an answer.
LABEL_KEYS = ("label", "class", "class_name", "className", "name", "category", "token")
LOG_KEYS = ("logprob", "log_prob")
SCORE_KEYS = ("score", "probability", "prob", "confidence", "p", "value", *LOG_KEYS)
ROW_KEYS = ("answers", "probabilities", "probs", "scores", "logits", "predictions", "outputs")
CLASSIFICATION = re.compile(r"([-+.\deE]+):(\d{1,9})(?::.*)?")  # Triton's "score:index:label"
MAX_CLASSES = 100_000
MAX_NAMES_BYTES = 1 << 26  # of a file of names


@dataclass(frozen=True)
class Classes:
    """The classes of a model, as far as they are known.

    Args:
        count: K; None where nobody knows it yet.
        names: of the classes, in the order of the labels; None for names that end with a number.

    Example:
        >>> Classes(3, ("cat", "dog", "frog")).index("dog", "the server")
        1
        >>> Classes(3).index("LABEL_2", "the server")
        2
    """

    count: int | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.names is None:
            return
        if len(set(self.names)) < len(self.names):
            raise InputError("class names: one is there twice")
        if self.count is not None and len(self.names) != self.count:
            raise InputError(f"class names: {len(self.names)}, and the model has {self.count}")

    @property
    def width(self) -> int | None:
        """K; None where it isn't known."""
        return self.count if self.names is None else len(self.names)

    def index(self, name: str, where: str) -> int:
        """Return the class of ``name``. Raise ``InputError`` for one that isn't known."""
        if self.names is not None:
            if name in self.names:
                return self.names.index(name)
            raise InputError(f"{where}: {short(name)} is none of the {len(self.names)} class names")
        number = number_at_end(name)
        if number is None:
            raise InputError(
                f"{where}: the classes have names ({short(name)}): --class-names FILE "
                "(class_names=[...]) gives them, in the order of the labels"
            )
        most = (self.width or MAX_CLASSES) - 1
        if number > most:
            raise InputError(
                f"{where}: {short(name)}, and the classes are 0 to {most}: where names count from "
                "1 on, --class-names FILE (class_names=[...]) is needed"
            )
        return number


def number_at_end(name: str) -> int | None:
    """Return the number at the end of ``name``, such as 3 of LABEL_3; None for none."""
    match = re.search(r"(?<!\d)(\d{1,9})$", name)
    return int(match[1]) if match else None


def order_by_number(names: Sequence[str]) -> list[int] | None:
    """Return the order in which the numbers at the end of ``names`` count from 0 or from 1 on.

    None where they don't.

    Example:
        >>> order_by_number(["p1", "p10", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9"])[:3]
        [0, 2, 3]
    """
    numbers = [number_at_end(name) for name in names]
    places = list(range(len(names)))
    if None in numbers or sorted(numbers) not in (places, [place + 1 for place in places]):
        return None
    return sorted(places, key=numbers.__getitem__)


def read_class_names(path: Path) -> tuple[str, ...]:
    """Return the class names in a file, in the order of the labels.

    One name a line, a JSON list, or a JSON object from number to name (``id2label``). Raises
    ``InputError`` for anything else.
    """
    try:
        if path.stat().st_size > MAX_NAMES_BYTES:
            raise InputError(f"{path}: {path.stat().st_size:,} bytes are no list of names")
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith(("[", "{")) else text.splitlines()
        if isinstance(content, dict):
            content = content.get("id2label", content)
            content = [content[str(place)] for place in range(len(content))]
    except (OSError, ValueError, KeyError, RecursionError, AttributeError) as error:
        raise InputError(f"{path}: no class names, one a line ({short(error)})") from error
    names = [name.strip() if isinstance(name, str) else name for name in content]
    names = names[:-1] if names and names[-1] == "" else names
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{path}: a text for each class is needed, one a line")
    return tuple(names)


def number_of(value: Any, where: str) -> float:
    """Return a number, or the number that a text says: ``0,12``, ``12 %``. None is NaN."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    if isinstance(value, str):
        text, percent = value.strip(), 1.0
        if text.endswith("%"):
            text, percent = text[:-1].strip(), 100.0
        if re.fullmatch(r"[-+]?\d*,\d+([eE][-+]?\d+)?", text):
            text = text.replace(",", ".")
        try:
            return float(text) / percent
        except ValueError:
            raise InputError(f"{where}: {short(value)} is no number") from None
    if type(value) not in (int, float):
        raise InputError(f"{where}: {type(value).__name__} among the answers; numbers are needed")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"{where}: a number among the answers is too large") from error


def row_of(answer: Any, classes: Classes, where: str) -> list[float]:
    """Return one answer as a score for each class, or as a single number: a label.

    Args:
        answer: a list of numbers or of texts that say numbers, a label or its name, scores by name
            (``{"cat": 0.9}``), labels with their scores (``[{"label": "cat", "score": 0.9}]``,
            ``["0.9:0:cat"]``), or an object with a row under one of the ``ROW_KEYS``. A class that
            isn't named has 0.
        classes: as far as they are known.
        where: what messages begin with.

    Raises:
        InputError: for anything else, with what it looks like and what to pass.

    Example:
        >>> row_of([{"label": "LABEL_1", "score": 0.9}], Classes(3), "the server")
        [0.0, 0.9, 0.0]
        >>> row_of("dog", Classes(names=("cat", "dog")), "the server")
        [1.0]
    """
    if isinstance(answer, dict):
        return _row_of_object(answer, classes, where)
    if isinstance(answer, str) and not _says_number(answer):
        return [float(classes.index(answer.strip(), where))]
    if not isinstance(answer, list):
        return [number_of(answer, where)]
    if len(answer) == 1 and isinstance(answer[0], list):
        answer = answer[0]  # a batch of one, in each answer
    if answer and all(isinstance(part, dict) for part in answer):
        pairs = [_label_and_score(part, where) for part in answer]
        return _by_name(pairs, classes, where)
    if answer and all(_is_pair(part) for part in answer):
        return _by_name([(part[0], part[1]) for part in answer], classes, where)
    if answer and all(isinstance(part, str) and CLASSIFICATION.fullmatch(part) for part in answer):
        scores = [CLASSIFICATION.fullmatch(part).groups() for part in answer]
        return _by_name([(index, score) for score, index in scores], classes, where)
    if any(isinstance(part, list | dict) for part in answer):
        raise InputError(f"{where}: {short(answer)}: a list of numbers is needed for each input")
    return [number_of(value, where) for value in answer]


def _row_of_object(answer: dict[str, Any], classes: Classes, where: str) -> list[float]:
    if holders := [name for name in ROW_KEYS if isinstance(answer.get(name), list | dict)]:
        return row_of(answer[holders[0]], classes, where)
    if any(name in answer for name in LABEL_KEYS) and (
        any(name in answer for name in SCORE_KEYS) or len(answer) == 1
    ):
        name, score = _label_and_score({"score": 1.0, **answer}, where)
        if score == 1.0 and isinstance(name, str | int):
            return row_of(name, classes, where)
        return _by_name([(name, score)], classes, where)
    values = list(answer.values())
    if not values or any(isinstance(value, list | dict | bool) for value in values):
        raise InputError(f"{where} has no answers, only {short(', '.join(answer))}")
    return _by_name(answer.items(), classes, where)


def _by_name(pairs: Iterable[tuple[Any, Any]], classes: Classes, where: str) -> list[float]:
    pairs = [(str(name), number_of(score, where)) for name, score in pairs]
    places = [classes.index(name, where) for name, _ in pairs]
    if len(set(places)) < len(places):
        raise InputError(f"{where}: a class is named twice in one answer")
    row = [0.0] * (classes.width or max(places, default=-1) + 1)
    for place, (_, score) in zip(places, pairs, strict=True):
        row[place] = score
    return row


def _label_and_score(part: dict[str, Any], where: str) -> tuple[Any, Any]:
    names = [key for key in LABEL_KEYS if key in part]
    scores = [key for key in SCORE_KEYS if key in part]
    if not names or not scores:
        raise InputError(f"{where}: an object of {short(', '.join(part))}: label and score needed")
    score = part[scores[0]]
    if scores[0] in LOG_KEYS:
        score = math.exp(min(0.0, number_of(score, where)))
    return part[names[0]], score


def _is_pair(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], str)


def _says_number(text: str) -> bool:
    try:
        number_of(text, "")
    except InputError:
        return False
    return bool(text.strip())
