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

PROBE_COLUMN = "probe"  # says which probe a row answers: a number, or the name of its file
FORMATS = (".csv", ".parquet", ".npy", ".npz", ".jsonl")
CSV_COLUMN_BYTES = 10_000  # what pyarrow takes for each column of a CSV, however few rows it has
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
MAX_NAME = 500  # letters of a column's name, or of a picture's with its folders


def read_predictions(path: Path, max_bytes: int | None = None) -> np.ndarray:
    """Return the answers in ``path``, one row for each probe, in the order of the probes.

    Tables have a column for each class; pandas' row numbers are left out. Where a column ``probe``
    says which probe a row answers (12 or 00012.png), rows are brought into that order. JSON lines
    hold a list each, or an object with ``answers`` and perhaps ``probe``. Nothing is unpickled.

    Args:
        path: a file with one of the ``FORMATS``.
        max_bytes: what the file, and what it unpacks to, may have (``max_answer_bytes``); None for
            no limit but ``numpy_files.unpacked_limit``.

    Returns:
        Floats (N, K), or labels (N,) where there is one column.

    Raises:
        InputError: for rows that are missing or there twice, columns that aren't numbers, and
            files that can't be read or would unpack to more than ``numpy_files.unpacked_limit``.
    """
    readers = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
        ".npy": _read_array,
        ".npz": _read_array,
        ".jsonl": _read_json_lines,
    }
    if path.suffix not in readers:
        raise InputError(f"{path}: predictions are {', '.join(FORMATS)}")
    try:
        if path.is_file() and max_bytes and path.stat().st_size > max_bytes:
            raise InputError(
                f"{path}: it has {path.stat().st_size:,} bytes; answers to these probes have "
                f"{max_bytes:,} at most"
            )
        return readers[path.suffix](path, max_bytes)
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    # A damaged file makes pyarrow, json and numpy raise whatever they have.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: it can't be read as {path.suffix[1:]} ({reason})") from error


def max_answer_bytes(rows: int, classes: int) -> int:
    """Return how many bytes a file of answers may have: 64 for each number, and 64 MiB more."""
    return 64 * rows * (classes + 1) + (64 << 20)


def _read_array(path: Path, max_bytes: int | None) -> np.ndarray:
    def choose(names: list[str]) -> str:
        if len(names) == 1 or "answers" in names:
            return "answers" if "answers" in names else names[0]
        raise InputError(f"{path}: it holds {short(', '.join(names))}; answers is needed")

    return read_array(path, choose, max_bytes)


def _read_csv(path: Path, max_bytes: int | None) -> np.ndarray:
    with path.open() as file:
        line = file.readline()
    if line.count(",") * CSV_COLUMN_BYTES > unpacked_limit(path.stat().st_size, max_bytes):
        raise InputError(f"{path}: {line.count(',') + 1:,} columns are too many for so few rows")
    cells = line.strip().split(",")
    # Numbers in the first line are a row, unless they count the classes.
    counts_classes = [cell.strip('" ') for cell in cells] == [str(i) for i in range(len(cells))]
    has_no_names = all(_is_number(cell) for cell in cells) and not counts_classes
    options = csv.ReadOptions(autogenerate_column_names=has_no_names)
    return _table_answers(csv.read_csv(path, options), path)


def _read_parquet(path: Path, max_bytes: int | None) -> np.ndarray:
    def check(schema: pa.Schema) -> None:
        _check_columns(schema, path)
        kind = schema.field(PROBE_COLUMN).type if PROBE_COLUMN in schema.names else pa.int64()
        if not (_is_numeric(kind) or kind in TEXT_TYPES or pa.types.is_dictionary(kind)):
            raise InputError(
                f"{path}: column {PROBE_COLUMN!r} holds {short(kind)}, not numbers or names"
            )

    return _table_answers(read_parquet(path, PROBE_COLUMN, check, max_bytes), path)


def _is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type holds floats or whole numbers."""
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _check_columns(schema: pa.Schema, path: Path) -> None:
    for field in schema:
        if len(field.name) > MAX_NAME:
            raise InputError(f"{path}: a column's name has {len(field.name):,} letters")
        if field.name != PROBE_COLUMN and not _is_numeric(field.type):
            raise InputError(
                f"{path}: column {field.name!r} holds {short(field.type)}, not numbers: leave all "
                f"columns out but those of the classes and {PROBE_COLUMN!r}"
            )


def _table_answers(table: pa.Table, path: Path) -> np.ndarray:
    _check_columns(table.schema, path)
    names = table.column_names
    probes = _as_list(table[PROBE_COLUMN]) if PROBE_COLUMN in names else None
    names = [name for name in names if name != PROBE_COLUMN and not _is_index(table, name)]
    names = _by_class(names)
    if not names:
        raise InputError(f"{path}: there is no column of a class")
    columns = [table[name].to_numpy() for name in names]
    with np.errstate(invalid="ignore"):  # of NaNs that signal, in a damaged file
        answers = columns[0] if len(columns) == 1 else np.stack(columns, axis=1).astype(float)
    return answers if probes is None else _sort_by_probe(answers, probes, path)


def _as_list(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of ``column``; what rows of a dictionary share is one object."""
    if not pa.types.is_dictionary(column.type):
        return column.to_pylist()
    values: list[Any] = []
    for chunk in column.chunks:
        entries = chunk.dictionary.to_pylist()
        values += [None if index is None else entries[index] for index in chunk.indices.to_pylist()]
    return values


def _is_index(table: pa.Table, name: str) -> bool:
    """Whether a column is the row's number, which pandas writes beside the data."""
    is_pandas_name = name in ("", "Unnamed: 0", "__index_level_0__")
    return is_pandas_name and table[name].to_pylist() == list(range(len(table)))


def _by_class(names: list[str]) -> list[str]:
    """Return the columns by the number at their end, if these numbers count the classes from 0."""
    matches = [re.search(r"(\d+)$", name) for name in names]
    if not all(matches):
        return names
    numbers = [int(match[1]) for match in matches]
    if sorted(numbers) != list(range(len(names))):
        return names
    return [name for _, name in sorted(zip(numbers, names, strict=True))]


def _read_json_lines(path: Path, max_bytes: int | None) -> np.ndarray:
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
                names = short(", ".join(row))
                raise InputError(f"{path}: line {number} has no answers, only {names}")
            probes.append(row.get(PROBE_COLUMN))
            row = row["answers"]
        rows.append(row)
    try:
        answers = np.array(rows, dtype=float)
    except (ValueError, TypeError, OverflowError) as error:
        reason = short(error)
        raise InputError(f"{path}: the rows aren't equally many numbers ({reason})") from error
    named_probes = [probe for probe in probes if probe is not None]
    if not named_probes:
        return answers
    if len(named_probes) < len(rows):
        unnamed = len(rows) - len(named_probes)
        raise InputError(f"{path}: {unnamed} of {len(rows)} rows name no probe")
    return _sort_by_probe(answers, named_probes, path)


def _sort_by_probe(answers: np.ndarray, probes: list[Any], path: Path) -> np.ndarray:
    """Return ``answers`` sorted by the probes that they name, each of which must be named once."""
    numbers = []
    for name in probes:
        # A longer one is no name of a file, and would keep the search busy.
        text = str(name)[: MAX_NAME + 1]
        match = re.fullmatch(r"(?:.*[/\\])?0*(\d{1,18})(?:\.\w+)?", text)
        if len(text) > MAX_NAME or not match:
            raise InputError(
                f"{path}: {PROBE_COLUMN}={short(text)}: a number, or a name such as 00012.png"
            )
        numbers.append(int(match[1]))
    distinct, count = set(numbers), len(numbers)
    if len(distinct) < count:
        twice = min(number for number, times in Counter(numbers).items() if times > 1)
        raise InputError(f"{path}: probe {twice} is answered more than once")
    if max(numbers) >= count:
        missing = next(number for number in range(count) if number not in distinct)
        raise InputError(f"{path}: probe {missing} isn't answered, and probe {max(numbers)} is")
    return answers[np.argsort(numbers)]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
