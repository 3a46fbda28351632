"""Replies of servers, parsed with care: the Open Inference Protocol (v2), and plain JSON."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.owner.suspects.forms import Classes, row_of

Metadata = dict[str, Any]  # of one tensor of v2: name, datatype, shape, data


def tensors_by_name(reply: Any, part: str) -> dict[str, Metadata]:
    """Return the tensors that a reply of v2 lists under ``part`` (inputs or outputs), by name."""
    entries = reply.get(part) if isinstance(reply, dict) else None
    entries = entries if isinstance(entries, list) else []
    tensors = [entry for entry in entries if isinstance(entry, dict)]
    return {tensor["name"]: tensor for tensor in tensors if isinstance(tensor.get("name"), str)}


def shape_of(tensor: Metadata) -> list[int]:
    """Return the shape of a tensor; empty if the server doesn't give it."""
    shape = tensor.get("shape")
    valid = isinstance(shape, list) and all(type(size) is int for size in shape)
    return shape if valid else []


def shape_fits(shape: list[int], expected: list[int]) -> bool:
    """Whether ``shape`` is the ``expected`` one, in which -1 stands for any size."""
    sizes = zip(shape, expected, strict=False)
    return len(shape) == len(expected) and all(wanted in (size, -1) for size, wanted in sizes)


def only_name(tensors: dict[str, Metadata]) -> str | None:
    """Return the name of the only tensor; None if there are several, or none."""
    return next(iter(tensors)) if len(tensors) == 1 else None


def describe(tensors: dict[str, Metadata]) -> str:
    """Return the names and shapes of ``tensors``, for a message."""
    return ", ".join(f"{name!r} {shape_of(one)}" for name, one in tensors.items()) or "none"


def of_rank(tensors: dict[str, Metadata], rank: int) -> dict[str, Metadata]:
    """Return the tensors with so many dimensions: 2 for probabilities, 1 for labels."""
    return {name: one for name, one in tensors.items() if len(shape_of(one)) == rank}


def value_at_path(reply: Any, path: str, where: str) -> Any:
    """Return what lies at the dotted ``path`` of ``reply``; ``""`` is the reply itself.

    A number picks an entry of a list, ``*`` goes on with each of them. Raises ``InputError``, which
    begins with ``where``, if the path leads nowhere.

    >>> value_at_path({"predictions": [{"p": 0.1}, {"p": 0.9}]}, "predictions.*.p", "the server")
    [0.1, 0.9]
    """
    for depth, step in enumerate(steps := path.split(".") if path else []):
        if isinstance(reply, list) and step == "*":
            remaining_path = ".".join(steps[depth + 1 :])
            return [value_at_path(entry, remaining_path, where) for entry in reply]
        if isinstance(reply, dict) and step in reply:
            reply = reply[step]
        elif isinstance(reply, list) and step.isdecimal() and int(step) < len(reply):
            reply = reply[int(step)]
        else:
            present = type(reply).__name__
            if isinstance(reply, dict):
                present = ", ".join(map(repr, reply))
            raise InputError(f"--answer={path}: {where} answers no {step!r}, but {present[:120]}")
    return reply


def rows_of(tensor: Metadata, where: str) -> Any:
    """Return the rows of a tensor of v2, or its labels; data of two dimensions may come flat."""
    data, (count, *others) = tensor.get("data"), shape_of(tensor)
    width = others[0] if others else 1
    if not isinstance(data, list) or (data and isinstance(data[0], list)):
        return data
    if width < 1 or len(data) != count * width:
        raise InputError(f"{where}: {len(data)} numbers for the shape [{count}, {width}]")
    return [data[start : start + width] for start in range(0, len(data), width)]


def join_batches(batches: list[Tensor]) -> Tensor:
    """Return all batches of answers as (N, K); as labels (N,) where K is 1."""
    answers = torch.cat(batches)
    return answers.squeeze(1) if answers.shape[1] == 1 else answers


def as_answers(rows: Any, count: int, where: str, classes: Classes | None = None) -> Tensor:
    """Return the answers to ``count`` inputs as float32 (count, K).

    Lists of numbers, or any form of ``forms.row_of``. Where there is one number for each input it
    is a label, and K is 1. null becomes NaN. Raises ``InputError``, which begins with ``where``,
    for anything else.
    """
    if count == 1 and _is_one_answer(rows):
        rows = [rows]
    if isinstance(rows, list) and all(type(row) in (int, float) for row in rows):
        rows = [[row] for row in rows]
    if isinstance(rows, list) and len(rows) == count and all(map(_has_names, rows)):
        rows = _equally_long([row_of(row, classes or Classes(), where) for row in rows])
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{where}: a list of numbers is needed for each input")
    if len(rows) != count:
        raise InputError(f"{where}: {len(rows)} rows for {count} inputs")
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1 or not widths[0]:
        raise InputError(f"{where}: rows of {widths} numbers; each needs one for every class")
    types = {type(value).__name__ for row in rows for value in row}
    if wrong_types := types - {"int", "float", "NoneType"}:
        raise InputError(f"{where}: {sorted(wrong_types)} among the answers; numbers are needed")
    try:
        numbers = [[math.nan if value is None else float(value) for value in row] for row in rows]
    except OverflowError as error:
        raise InputError(f"{where}: a number among the answers is too large") from error
    return torch.tensor(numbers, dtype=torch.float32)


def _has_names(row: Any) -> bool:
    """Whether an answer is anything but numbers: an object, a text, a list of them."""
    parts = row if isinstance(row, list) else [row]
    return bool(parts) and any(
        all(map(fits, parts))
        for fits in (
            _names_one,
            lambda part: isinstance(part, dict),
            lambda part: isinstance(part, str),
        )
    )


def _names_one(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and isinstance(part[0], str)


def _is_one_answer(rows: Any) -> bool:
    """Whether what a server gave for one input is the answer, and no list with it."""
    if isinstance(rows, dict | str | int | float) and not isinstance(rows, bool):
        return True
    if not isinstance(rows, list) or len(rows) < 2:
        return False
    return all(isinstance(part, dict | int | float) for part in rows) or all(map(_names_one, rows))


def _equally_long(rows: list[list[float]]) -> list[list[float]]:
    """Return rows of scores with 0 for the classes at the end that aren't named."""
    width = max(map(len, rows))
    return rows if width == 1 else [row + [0.0] * (width - len(row)) for row in rows]
