"""A log of an endpoint's answers, written as they come, so that no input is sent twice."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.nodes import short


class AnswerLog:
    """A file of JSON lines: first what the answers depend on, then one line per batch of answers.

    Args:
        path: the file; it is created where there is none.
        identity: what the answers depend on, as plain containers. A file with another identity
            holds other answers and is refused.

    Example:
        >>> log = AnswerLog(folder / "answers.jsonl", {"url": "http://127.0.0.1:8080"})
        >>> log.read(count=2)
        []
        >>> log.append(0, torch.eye(2))
        >>> log.read(count=2)
        [tensor([[1., 0.],
                [0., 1.]])]
    """

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path, self.identity = Path(path), identity

    def read(self, count: int) -> list[Tensor]:
        """Return the batches of answers to the first of ``count`` inputs, each (n, K), in order.

        Creates the file where there is none. A last line without an end was cut off while it was
        written, and is removed.

        Raises:
            InputError: for a file with another identity, a damaged line, or one that can't be
                read or written.
        """
        header = json.dumps(self.identity).encode() + b"\n"
        with self._reported_errors():
            content = self.path.read_bytes() if self.path.exists() else b""
            if header.startswith(content):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(header)
                return []
        complete = content[: content.rfind(b"\n") + 1]
        first_line, *lines = complete.splitlines() or [b""]
        self._check_identity(first_line)
        batches, start = [], 0
        for number, line in enumerate(lines, 2):
            try:
                entry = json.loads(line)
                answers = torch.tensor(entry["answers"], dtype=torch.float32)
                valid = entry["from"] == start and answers.ndim == 2
                valid = valid and start + len(answers) <= count
            # No JSON, JSON of another shape, rows of several lengths, no numbers, too large ones.
            except Exception:
                valid = False
            if not valid or (batches and answers.shape[1] != batches[0].shape[1]):
                raise InputError(
                    f"--answer-log={self.path}: line {number} is damaged; remove the file"
                )
            batches.append(answers)
            start += len(answers)
        with self._reported_errors():
            os.truncate(self.path, len(complete))
        return batches

    def append(self, start: int, answers: Tensor) -> None:
        """Add the ``answers`` (n, K) to the inputs from ``start`` on; they are on the disk then."""
        line = json.dumps({"from": start, "answers": answers.tolist()}) + "\n"
        with self._reported_errors(), self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _check_identity(self, first_line: bytes) -> None:
        try:
            identity = json.loads(first_line)
        except (ValueError, RecursionError):
            identity = None
        if not isinstance(identity, dict) or identity.keys() != self.identity.keys():
            raise InputError(
                f"--answer-log={self.path} holds no answers of an endpoint: name another file"
            )
        for name, value in self.identity.items():
            if identity[name] != value:
                difference = f"{name} {short(identity[name])}, not {value}"
                difference = "other inputs" if name == "inputs" else difference
                raise InputError(
                    f"--answer-log={self.path} holds the answers of {difference}: name another "
                    "file, or remove this one"
                )

    @contextlib.contextmanager
    def _reported_errors(self) -> Iterator[None]:
        """Turn an ``OSError`` into an ``InputError`` that names the file."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"--answer-log={self.path}: {error.strerror}; a file that can be written is needed"
            ) from error
