"""A suspect's answers from a file: CSV, Parquet, NPY, NPZ or JSON lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.numpy_files import read_array, unpacked_limit
from softmark.owner.suspects.parquet import read_parquet

PROBE = "probe"  # the column that says which probe a row answers: a number, or a file's name
FORMATS = (".csv", ".parquet", ".npy", ".npz", ".jsonl")
COLUMN = 10_000  # bytes that pyarrow takes for each column of CSV, however few rows there are
TEXTS = (pa.string(), pa.large_string(), pa.string_view())
LONGEST_NAME = 500  # letters of a column's name, or of a picture's with its folders


def read_predictions(path: Path) -> np.ndarray:
    """The answers in ``path``: float (N, K), or labels (N,), a row for each probe in its order.

    Tables have a column for each class; pandas' row numbers are left out. Where a column ``probe``
    says which probe a row answers (12 or 00012.png), rows are brought into that order. JSON lines
    hold a list each, or an object with ``answers`` and perhaps ``probe``. Nothing is unpickled.
    Raises ``InputError`` for rows that are missing or there twice, columns that aren't numbers, and
    files that can't be read, or that would unpack to more than ``numpy_files.unpacked_limit``.
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
    # A damaged file makes pyarrow, json and numpy raise whatever they have.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: it can't be read as {path.suffix[1:]} ({reason})") from error


def _array(path: Path) -> np.ndarray:
    def chosen(names: list[str]) -> str:
        if len(names) == 1 or "answers" in names:
            return "answers" if "answers" in names else names[0]
        raise InputError(f"{path}: it holds {short(', '.join(names))}; answers is needed")

    return read_array(path, chosen)


def _csv(path: Path) -> np.ndarray:
    with path.open() as file:
        line = file.readline()
    if line.count(",") * COLUMN > unpacked_limit(path.stat().st_size):
        raise InputError(f"{path}: {line.count(',') + 1:,} columns are too many for so few rows")
    first = line.strip().split(",")
    # Numbers in the first line are a row, unless they count the classes.
    counted = [cell.strip('" ') for cell in first] == [str(i) for i in range(len(first))]
    bare = all(_is_number(cell) for cell in first) and not counted
    options = csv.ReadOptions(autogenerate_column_names=bare)
    return _table(csv.read_csv(path, options), path)


def _parquet(path: Path) -> np.ndarray:
    def check(schema: pa.Schema) -> None:
        _check_columns(schema, path)
        kind = schema.field(PROBE).type if PROBE in schema.names else pa.int64()
        if not (_is_numbers(kind) or kind in TEXTS or pa.types.is_dictionary(kind)):
            raise InputError(f"{path}: column {PROBE!r} holds {short(kind)}, not numbers or names")

    return _table(read_parquet(path, PROBE, check), path)


def _is_numbers(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _check_columns(schema: pa.Schema, path: Path) -> None:
    for field in schema:
        if len(field.name) > LONGEST_NAME:
            raise InputError(f"{path}: a column's name has {len(field.name):,} letters")
        if field.name != PROBE and not _is_numbers(field.type):
            raise InputError(
                f"{path}: column {field.name!r} holds {short(field.type)}, not numbers: only "
                f"columns of classes and {PROBE!r} are needed"
            )


def _table(table: pa.Table, path: Path) -> np.ndarray:
    _check_columns(table.schema, path)
    names = table.column_names
    probes = _listed(table[PROBE]) if PROBE in names else None
    names = _ordered([name for name in names if name != PROBE and not _is_index(table, name)])
    if not names:
        raise InputError(f"{path}: there is no column of a class")
    columns = [table[name].to_numpy() for name in names]
    with np.errstate(invalid="ignore"):  # of NaNs that signal, in a damaged file
        answers = columns[0] if len(columns) == 1 else np.stack(columns, axis=1).astype(float)
    return answers if probes is None else _in_order(answers, probes, path)


def _listed(column: pa.ChunkedArray) -> list[Any]:
    """The values of ``column``; what rows of a dictionary share is one object."""
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    found: list[Any] = []
    for chunk in column.chunks:
        values = chunk.dictionary.to_pylist()
        found += [None if place is None else values[place] for place in chunk.indices.to_pylist()]
    return found


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
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no JSON ({short(error)})") from error
        if isinstance(row, dict):
            if "answers" not in row:
                there = short(", ".join(row))
                raise InputError(f"{path}: line {number} has no answers, only {there}")
            probes.append(row.get(PROBE))
            row = row["answers"]
        rows.append(row)
    try:
        answers = np.array(rows, dtype=float)
    except (ValueError, TypeError, OverflowError) as error:
        reason = short(error)
        raise InputError(f"{path}: the rows aren't equally many numbers ({reason})") from error
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
        # A longer one is no name of a file, and would keep the search busy.
        text = str(name)[: LONGEST_NAME + 1]
        found = re.fullmatch(r"(?:.*[/\\])?0*(\d{1,18})(?:\.\w+)?", text)
        if len(text) > LONGEST_NAME or not found:
            shown = short(text)
            raise InputError(f"{path}: {PROBE}={shown}: a number, or a name such as 00012.png")
        places.append(int(found[1]))
    there, count = set(places), len(places)
    if len(there) < count:
        twice = min(place for place, times in Counter(places).items() if times > 1)
        raise InputError(f"{path}: probe {twice} is answered more than once")
    if max(places) >= count:
        missing = next(place for place in range(count) if place not in there)
        raise InputError(f"{path}: probe {missing} isn't answered, and probe {max(places)} is")
    return answers[np.argsort(places)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
