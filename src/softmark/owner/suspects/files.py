"""A suspect's answers from a file: a table, an array, or JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from softmark.console import report
from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.numpy_files import read_array
from softmark.owner.suspects.forms import (
    LABEL_KEYS,
    SCORE_KEYS,
    Classes,
    number_of,
    order_by_number,
    row_of,
)
from softmark.owner.suspects.parquet import read_parquet
from softmark.owner.suspects.tables import as_text, read_sheet, read_text_table

PROBE_COLUMN = "probe"  # says which probe a row answers: a number, or the name of its file
FORMATS = (".csv", ".tsv", ".xlsx", ".parquet", ".npy", ".npz", ".jsonl", ".json")
TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
MAX_NAME = 500  # letters of a column's name, or of a picture's with its folders


def read_predictions(
    path: Path,
    max_bytes: int | None = None,
    classes: Classes | None = None,
    num_probes: int | None = None,
) -> np.ndarray:
    """Return the answers in ``path``, one row for each probe, in the order of the probes.

    Tables have a column for each class, or one of lists or labels; pandas' row numbers are left
    out. Where a column ``probe`` says which probe a row answers (12 or 00012.png), rows are brought
    into that order. JSON (lines, or one list) holds answers in any form of ``forms.row_of``,
    perhaps with ``probe``. Nothing is unpickled.

    Args:
        path: a file with one of the ``FORMATS``.
        max_bytes: what the file, and what it unpacks to, may have (``max_answer_bytes``).
        classes: number and names of the classes, where the columns or answers have names.
        num_probes: N, if it is known: tells whether numbers in a first line are an answer.

    Returns:
        Floats (N, K), or labels (N,) where there is one column.

    Raises:
        InputError: for rows that are missing or there twice, columns that aren't numbers, and
            files that can't be read or would unpack to more than ``numpy_files.unpacked_limit``.
    """
    classes, table = classes or Classes(), (path, max_bytes, num_probes)
    readers = dict.fromkeys(
        (".csv", ".tsv"), lambda: _table_answers(read_text_table(*table), path, classes)
    )
    readers |= {
        ".xlsx": lambda: _table_answers(read_sheet(*table), path, classes),
        ".parquet": lambda: _read_parquet(path, max_bytes, classes),
        **dict.fromkeys((".npy", ".npz"), lambda: _read_array(path, max_bytes)),
        ".jsonl": lambda: _json_answers(_json_lines(path), path, classes),
        ".json": lambda: _json_answers(_json_list(path), path, classes),
    }
    if path.suffix not in readers:
        raise InputError(f"{path}: predictions are {', '.join(FORMATS)}")
    try:
        if path.is_file() and max_bytes and path.stat().st_size > max_bytes:
            raise InputError(
                f"{path}: it has {path.stat().st_size:,} bytes; answers to these probes have "
                f"{max_bytes:,} at most"
            )
        return readers[path.suffix]()
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file") from error
    # A damaged file makes pyarrow, json and numpy raise whatever they have.
    except Exception as error:
        reason = short(error) or type(error).__name__
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


def _read_parquet(path: Path, max_bytes: int | None, classes: Classes) -> np.ndarray:
    def check(schema: pa.Schema) -> None:
        others = [field for field in schema if field.name != PROBE_COLUMN]
        lists = len(others) == 1 and pa.types.is_list(others[0].type)
        if not (lists and _is_numeric(others[0].type.value_type)):
            _check_numeric(schema, path)
        kind = schema.field(PROBE_COLUMN).type if PROBE_COLUMN in schema.names else pa.int64()
        if not (_is_numeric(kind) or kind in TEXT_TYPES or pa.types.is_dictionary(kind)):
            raise InputError(
                f"{path}: column {PROBE_COLUMN!r} holds {short(kind)}, not numbers or names"
            )

    return _table_answers(read_parquet(path, PROBE_COLUMN, check, max_bytes), path, classes)


def _is_numeric(kind: pa.DataType) -> bool:
    """Whether a column of this type holds floats or whole numbers."""
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)


def _check_numeric(schema: pa.Schema, path: Path) -> None:
    for field in schema:
        if len(field.name) > MAX_NAME:
            raise InputError(f"{path}: a column's name has {len(field.name):,} letters")
        if field.name != PROBE_COLUMN and not _is_numeric(field.type):
            raise _not_numeric(field, path)


def _not_numeric(field: pa.Field, path: Path) -> InputError:
    return InputError(
        f"{path}: column {field.name!r} holds {short(field.type)}, not numbers: leave all "
        f"columns out but those of the classes and {PROBE_COLUMN!r}"
    )


def _table_answers(table: pa.Table, path: Path, classes: Classes) -> np.ndarray:
    if longest := [name for name in table.column_names if len(name) > MAX_NAME]:
        raise InputError(f"{path}: a column's name has {len(longest[0]):,} letters")
    names = table.column_names
    probes = _as_list(table[PROBE_COLUMN]) if PROBE_COLUMN in names else None
    names = [name for name in names if name != PROBE_COLUMN and not _is_index(table, name)]
    if not names:
        raise InputError(f"{path}: there is no column of a class")
    texts = [name for name in names if not _is_numeric(table.schema.field(name).type)]
    is_pair = len(names) == 2 and names[0] in LABEL_KEYS and names[1] in SCORE_KEYS
    if is_pair or (texts and len(names) == 1):
        answers = _rows_of_texts(table.select(names), path, classes)
    else:
        answers = _columns(table.select(_by_class(names, path, classes)), path)
    return answers if probes is None else _sort_by_probe(answers, probes, path)


def _rows_of_texts(table: pa.Table, path: Path, classes: Classes) -> np.ndarray:
    """Return the answers in one column of lists, JSON or labels, or in a label and its score."""
    values = table.to_pylist() if table.num_columns == 2 else table.column(0).to_pylist()
    rows = []
    for value in values:
        is_json = isinstance(value, str) and value.lstrip().startswith(("[", "{"))
        rows.append(row_of(json.loads(value) if is_json else value, classes, str(path)))
    return _as_array(rows, path)


def _columns(table: pa.Table, path: Path) -> np.ndarray:
    """Return the columns of numbers, or of texts that say some, as (N, K), or (N,) of one."""
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        if field.type in TEXT_TYPES:
            try:
                column = [number_of(text, "") for text in column.to_pylist()]
            except InputError:
                raise _not_numeric(field, path) from None
        elif not (_is_numeric(field.type) or pa.types.is_null(field.type)):
            raise _not_numeric(field, path)
        else:
            column = column.to_numpy() if _is_numeric(field.type) else np.full(len(column), np.nan)
        columns.append(np.asarray(column))
    if len(columns) == 1:
        return columns[0]
    with np.errstate(invalid="ignore"):  # of NaNs that signal, in a damaged file
        answers = np.stack(columns, axis=1).astype(float)  # (N, K)
    # Who gives the likeliest classes alone leaves the others blank.
    blank = np.stack([column.is_null().to_numpy() for column in table.columns], axis=1)
    texts = np.array([field.type in TEXT_TYPES for field in table.schema])
    blank |= np.isnan(answers) & texts
    probable = np.where(blank, 0, answers)
    fits = (probable >= 0).all(1) & (probable <= 1).all(1) & ~blank.all(1)  # (N,)
    return np.where(fits[:, None], probable, answers)


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


def _by_class(names: list[str], path: Path, classes: Classes) -> list[str]:
    """Return the columns of the classes in the order of the labels; say what isn't certain."""
    if classes.names is not None and set(classes.names) <= set(names):
        return list(classes.names)
    if classes.names is not None:
        missing = [name for name in classes.names if name not in names]
        report(f"{path}: no column {short(missing[0])}: columns count in the order they stand in")
        return names
    order = order_by_number(names)
    if order is None and len(names) > 1:
        report(f"{path}: columns count in the order they stand in: {short(names[0])} is class 0")
    if order is None or order == list(range(len(names))):
        return names
    report(f"{path}: columns count in the order of the numbers in their names, not as they stand")
    return [names[place] for place in order]


def _json_lines(path: Path) -> list[Any]:
    entries = []
    for number, line in enumerate(as_text(path.read_bytes()).splitlines(), 1):
        if not line.strip():
            continue
        try:
            entries.append((f"{path}: line {number}", json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no JSON ({short(error)})") from error
    return entries


def _json_list(path: Path) -> list[Any]:
    content = json.loads(as_text(path.read_bytes()))
    lists = (
        [part for part in content.values() if isinstance(part, list)]
        if isinstance(content, dict)
        else [content]
    )
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise InputError(f"{path}: one list, with an answer for each probe, is needed")
    return [(f"{path}: answer {number}", entry) for number, entry in enumerate(lists[0], 1)]


def _json_answers(entries: list[tuple[str, Any]], path: Path, classes: Classes) -> np.ndarray:
    """Return the answers in ``entries``, each with where it stands."""
    rows, probes = [], []
    for where, entry in entries:
        if isinstance(entry, dict) and PROBE_COLUMN in entry:
            probes.append(entry[PROBE_COLUMN])
            entry = {name: value for name, value in entry.items() if name != PROBE_COLUMN}
        rows.append(row_of(entry, classes, where))
    answers = _as_array(rows, path)
    named_probes = [probe for probe in probes if probe is not None]
    if not named_probes:
        return answers
    if len(named_probes) < len(rows):
        unnamed = len(rows) - len(named_probes)
        raise InputError(f"{path}: {unnamed} of {len(rows)} rows name no probe")
    return _sort_by_probe(answers, named_probes, path)


def _as_array(rows: list[list[float]], path: Path) -> np.ndarray:
    """Return ``rows`` as (N, K), or (N,) where each has one number."""
    try:
        answers = np.array(rows, dtype=float)
    except (ValueError, TypeError, OverflowError) as error:
        reason = short(error)
        raise InputError(f"{path}: the rows aren't equally many numbers ({reason})") from error
    return answers[:, 0] if answers.ndim == 2 and answers.shape[1] == 1 else answers


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
