"""What servers reply, read with care: tensors of the Open Inference Protocol, and plain JSON."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from softmark.errors import InputError


def tensors_of(reply: Any, kind: str) -> dict[str, dict[str, Any]]:
    """The inputs or outputs that a server of v2 lists, by name."""
    there = reply.get(kind) if isinstance(reply, dict) else None
    there = [one for one in there if isinstance(one, dict)] if isinstance(there, list) else []
    return {one["name"]: one for one in there if isinstance(one.get("name"), str)}


def shape_of(tensor: dict[str, Any]) -> list[int]:
    """Its shape; empty where the server doesn't tell."""
    shape = tensor.get("shape")
    good = isinstance(shape, list) and all(type(size) is int for size in shape)
    return shape if good else []


def fits(ours: list[int], wanted: list[int]) -> bool:
    """Whether each size is the wanted one, or any (-1) is wanted."""
    pairs = zip(ours, wanted, strict=False)
    return len(ours) == len(wanted) and all(w in (size, -1) for size, w in pairs)


def only_name(tensors: dict[str, dict[str, Any]]) -> str | None:
    return next(iter(tensors)) if len(tensors) == 1 else None


def listed(tensors: dict[str, dict[str, Any]]) -> str:
    """The names and shapes of ``tensors``, for a message."""
    return ", ".join(f"{name!r} {shape_of(one)}" for name, one in tensors.items()) or "none"


def of_sizes(tensors: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """Those with so many sizes: 2 of probabilities, 1 of labels."""
    return {name: one for name, one in tensors.items() if len(shape_of(one)) == count}


def at_path(reply: Any, path: str, where: str) -> Any:
    """What lies at the dotted ``path`` of ``reply``.

    A number counts the entries of a list, ``*`` goes on with each of them.
    """
    for place, step in enumerate(steps := path.split(".") if path else []):
        if isinstance(reply, list) and step == "*":
            rest = ".".join(steps[place + 1 :])
            return [at_path(entry, rest, where) for entry in reply]
        if isinstance(reply, dict) and step in reply:
            reply = reply[step]
        elif isinstance(reply, list) and step.isdecimal() and int(step) < len(reply):
            reply = reply[int(step)]
        else:
            there = ", ".join(map(repr, reply)) if isinstance(reply, dict) else type(reply).__name__
            raise InputError(f"--answer={path}: {where} answers no {step!r}, but {there[:120]}")
    return reply


def table_of(tensor: dict[str, Any], where: str) -> Any:
    """The rows of a tensor of v2, or its labels; the data of two sizes may be flat."""
    data, (count, *others) = tensor.get("data"), shape_of(tensor)
    width = others[0] if others else 1
    if not isinstance(data, list) or (data and isinstance(data[0], list)):
        return data
    if width < 1 or len(data) != count * width:
        raise InputError(f"{where}: {len(data)} numbers for the shape [{count}, {width}]")
    return [data[start : start + width] for start in range(0, len(data), width)]


def joined(answers: list[Tensor]) -> Tensor:
    """All batches (N, K); of one number an input labels (N,)."""
    together = torch.cat(answers)
    return together.squeeze(1) if together.shape[1] == 1 else together


def as_rows(rows: Any, count: int, where: str) -> Tensor:
    """Lists of numbers, one for each of ``count`` inputs, as float32 (count, K).

    Where there is a number for each it is a label, and K is 1.
    """
    if isinstance(rows, list) and all(type(row) in (int, float) for row in rows):
        rows = [[row] for row in rows]
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise InputError(f"{where}: a list of numbers is needed for each input")
    if len(rows) != count:
        raise InputError(f"{where}: {len(rows)} rows for {count} inputs")
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1 or not widths[0]:
        raise InputError(f"{where}: rows of {widths} numbers; each needs one for every class")
    wrong = {type(x).__name__ for row in rows for x in row} - {"int", "float", "NoneType"}
    if wrong:
        raise InputError(f"{where}: {sorted(wrong)} among the answers, which are to be numbers")
    try:
        numbers = [[math.nan if x is None else float(x) for x in row] for row in rows]
    except OverflowError as error:
        raise InputError(f"{where}: a number among the answers is too large") from error
    return torch.tensor(numbers, dtype=torch.float32)
