"""A suspect's answers from a file: CSV, Parquet, NPY, NPZ or JSON lines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from softmark.errors import InputError

PROBE = "probe"  # the column that says which probe a row answers: a number, or a file's name
FORMATS = (".csv", ".parquet", ".npy", ".npz", ".jsonl")


def read_predictions(path: Path) -> np.ndarray:
    """The answers in ``path``: float (N, K), or labels (N,), a row for each probe in its order.

    Tables have a column for each class; pandas' row numbers are left out. Where a column ``probe``
    says which probe a row answers (12 or 00012.png), rows are brought into that order. JSON lines
    hold a list each, or an object with ``answers`` and perhaps ``probe``. Nothing is unpickled.
    Raises ``InputError`` for rows that are missing or there twice, columns that aren't numbers, and
    files that can't be read.
    """
    read = {".csv": _csv, ".parquet": _parquet, ".npy": _array, ".npz": _array, ".jsonl": _lines}
    if path.suffix not in read:
        raise InputError(f"{path}: predictions are {', '.join(FORMATS)}")
    try:
        return read[path.suffix](path)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: it can't be read as {path.suffix[1:]} ({reason})") from error


def _array(path: Path) -> np.ndarray:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found
    with found:
        if len(found.files) != 1 and "answers" not in found.files:
            raise InputError(f"{path}: it holds {', '.join(found.files)}; answers is needed")
        return found["answers" if "answers" in found.files else found.files[0]]


def _csv(path: Path) -> np.ndarray:
    with path.open() as file:
        first = file.readline().strip().split(",")
    # Numbers in the first line are a row, unless they count the classes.
    counted = [cell.strip('" ') for cell in first] == [str(i) for i in range(len(first))]
    bare = all(_is_number(cell) for cell in first) and not counted
    options = csv.ReadOptions(autogenerate_column_names=bare)
    return _table(csv.read_csv(path, options), path)


def _parquet(path: Path) -> np.ndarray:
    return _table(parquet.read_table(path), path)


def _table(table: pa.Table, path: Path) -> np.ndarray:
    names = table.column_names
    probes = table[PROBE].to_pylist() if PROBE in names else None
    names = _ordered([name for name in names if name != PROBE and not _is_index(table, name)])
    for name in names:
        kind = table[name].type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InputError(
                f"{path}: column {name!r} holds {kind}, not numbers: only columns of classes and "
                f"{PROBE!r} are needed"
            )
    if not names:
        raise InputError(f"{path}: there is no column of a class")
    columns = [table[name].to_numpy() for name in names]
    answers = columns[0] if len(columns) == 1 else np.stack(columns, axis=1).astype(float)
    return answers if probes is None else _in_order(answers, probes, path)


def _is_index(table: pa.Table, name: str) -> bool:
    """Whether a column is the row's number, which pandas writes beside the data."""
    named = name in ("", "Unnamed: 0", "__index_level_0__")
    return named and table[name].to_pylist() == list(range(len(table)))


def _ordered(names: list[str]) -> list[str]:
    """Columns by the number at their end, where these count the classes from 0."""
    numbers = [re.search(r"(\d+)$", name) for name in names]
    if all(numbers) and sorted(int(found[1]) for found in numbers) == list(range(len(names))):
        return [
            name for _, name in sorted((int(f[1]), n) for f, n in zip(numbers, names, strict=True))
        ]
    return names


def _lines(path: Path) -> np.ndarray:
    rows: list[Any] = []
    probes: list[Any] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no JSON ({error})") from error
        if isinstance(row, dict):
            if "answers" not in row:
                raise InputError(f"{path}: line {number} has no answers, only {', '.join(row)}")
            probes.append(row.get(PROBE))
            row = row["answers"]
        rows.append(row)
    try:
        answers = np.array(rows, dtype=float)
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: the rows aren't equally many numbers ({error})") from error
    named = [each for each in probes if each is not None]
    if not named:
        return answers
    if len(named) < len(rows):
        raise InputError(f"{path}: {len(rows) - len(named)} of {len(rows)} rows name no probe")
    return _in_order(answers, named, path)


def _in_order(answers: np.ndarray, probes: list[Any], path: Path) -> np.ndarray:
    """``answers`` sorted by the probes that they name, each of which must be there once."""
    places = []
    for name in probes:
        found = re.fullmatch(r"(?:.*[/\\])?0*(\d+)(?:\.\w+)?", str(name))
        if not found:
            raise InputError(f"{path}: {PROBE}={name}: a number, or a name such as 00012.png")
        places.append(int(found[1]))
    count = len(places)
    if len(set(places)) < count:
        twice = next(place for place in sorted(places) if places.count(place) > 1)
        raise InputError(f"{path}: probe {twice} is answered more than once")
    if max(places) >= count:
        missing = next(place for place in range(count) if place not in set(places))
        raise InputError(f"{path}: probe {missing} isn't answered, and probe {max(places)} is")
    return answers[np.argsort(places)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
