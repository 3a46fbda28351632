"""Answers kept in a file as they come, so that nothing is asked twice."""

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
    """A file of JSON lines: what the answers depend on, then a batch of answers each."""

    def __init__(self, path: Path, identity: dict[str, Any]):
        self.path, self.identity = Path(path), identity

    def read(self, count: int) -> list[Tensor]:
        """The answers there are to the first of ``count`` inputs; begins a file that isn't there.

        A last line without an end was cut off while it was written, and goes.
        """
        head = json.dumps(self.identity).encode() + b"\n"
        with self._used():
            text = self.path.read_bytes() if self.path.exists() else b""
            if head.startswith(text):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.path.write_bytes(head)
                return []
        whole = text[: text.rfind(b"\n") + 1]
        first, *lines = whole.splitlines() or [b""]
        self._check(first)
        answers, start = [], 0
        for number, line in enumerate(lines, 2):
            try:
                batch = json.loads(line)
                rows = torch.tensor(batch["answers"], dtype=torch.float32)
                good = batch["from"] == start and rows.ndim == 2 and start + len(rows) <= count
            # No JSON, JSON of another shape, rows of several lengths, no numbers, too large ones.
            except Exception:
                good = False
            if not good or (answers and rows.shape[1] != answers[0].shape[1]):
                raise InputError(f"--kept={self.path}: line {number} is damaged; remove the file")
            answers.append(rows)
            start += len(rows)
        with self._used():
            os.truncate(self.path, len(whole))
        return answers

    def append(self, start: int, rows: Tensor) -> None:
        """Adds the answers to the inputs from ``start`` on; they are on the disk after that."""
        line = json.dumps({"from": start, "answers": rows.tolist()}) + "\n"
        with self._used(), self.path.open("a") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def _check(self, first: bytes) -> None:
        try:
            there = json.loads(first)
        except (ValueError, RecursionError):
            there = None
        if not isinstance(there, dict) or there.keys() != self.identity.keys():
            raise InputError(f"--kept={self.path} holds no answers of an endpoint: name another")
        for key, value in self.identity.items():
            if there[key] != value:
                which = f"{key} {short(there[key])}, not {value}"
                which = "other inputs" if key == "inputs" else which
                raise InputError(
                    f"--kept={self.path} holds the answers of {which}: name another file, or "
                    "remove this one"
                )

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = f"--kept={self.path}: {error.strerror}"
            raise InputError(f"{reason}; a file that can be written is needed") from error
