"""Tables of answers as texts: CSV of any kind, and sheets of Excel."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from softmark.console import report
from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.numpy_files import unpacked_limit

CSV_COLUMN_BYTES = 10_000  # what pyarrow takes for each column of a CSV, however few rows it has
BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16"}
BYTE_ORDER_MARKS |= {codecs.BOM_UTF16_BE: "utf-16"}
DELIMITERS = (";", "\t", "|", ",")
COMMA_NUMBER = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?\s*%?")


def read_text_table(path: Path, max_bytes: int | None, num_rows: int | None = None) -> pa.Table:
    """Return the table in a CSV: with ``,``, ``;``, tabs, ``|`` or blanks.

    Args:
        path: Of the file.
        max_bytes: As in ``files.read_predictions``.
        num_rows: How many rows it should have: tells whether numbers in the first line are one.

    Raises:
        InputError: for more columns than so few rows have.
    """
    content = as_text(path.read_bytes()).encode()
    line = content.partition(b"\n")[0].decode().strip("\r\n")
    delimiter = next((mark for mark in DELIMITERS if mark in line), ",")
    if delimiter == "," and len(cells := line.split(" ")) > 1 and all(map(_is_number, cells)):
        delimiter = " "  # as numpy.savetxt writes
    num_marks = line.count(delimiter)
    if num_marks * CSV_COLUMN_BYTES > unpacked_limit(len(content), max_bytes):
        raise InputError(f"{path}: {num_marks + 1:,} columns are too many for so few rows")
    cells = [cell.strip('" ') for cell in line.split(delimiter)]
    comma = delimiter != "," and any(
        COMMA_NUMBER.fullmatch(cell) for cell in _cells(content, delimiter)
    )
    num_lines = sum(1 for one in content.splitlines() if one.strip())
    has_no_names = not names_columns(cells, num_lines, num_rows, path)
    return csv.read_csv(
        io.BytesIO(content),
        csv.ReadOptions(autogenerate_column_names=has_no_names),
        csv.ParseOptions(delimiter=delimiter, newlines_in_values='"' in line),
        csv.ConvertOptions(decimal_point="," if comma else "."),
    )


def as_text(content: bytes) -> str:
    """Return the text in a file, in UTF-8, in UTF-16, or as Windows wrote it before (cp1252).

    Example:
        >>> as_text("Ä;B".encode("utf-16")), as_text("Ä;B".encode("cp1252"))
        ('Ä;B', 'Ä;B')
    """
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding)
    if content[1:2] == b"\0" and content[:1] != b"\0":  # UTF-16 without its mark
        return content.decode("utf-16-le")
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def _cells(content: bytes, delimiter: str) -> list[str]:
    """Return the cells of the first lines, without quotes."""
    lines = content[: 1 << 16].decode(errors="replace").splitlines()[:3]
    return [cell.strip('" ') for line in lines for cell in line.split(delimiter)]


def names_columns(cells: list[str], num_lines: int, num_rows: int | None, path: Path) -> bool:
    """Return whether ``cells``, a table's first line, are names: numbers may be a row of answers.

    Args:
        cells: Of the first line.
        num_lines: Of the table, with this one.
        num_rows: How many answers there should be, if that is known; else what was assumed is said.
        path: Of the file, for that line.
    """
    if not all(_is_number(cell) for cell in cells):
        return True
    if num_rows in (num_lines - 1, num_lines):
        return num_rows < num_lines
    if counts_classes(cells):
        report(f"{path}: the first line, {short(','.join(cells))}, counts as names, not as answers")
        return True
    return False


def counts_classes(cells: list[str]) -> bool:
    """Whether the first line names the classes by numbers: each from 0, or from 1 on, once.

    Three such numbers or more sum to more than any probabilities.
    """
    if not all(re.fullmatch(r"\d{1,9}", cell) for cell in cells):
        return False
    numbers, places = sorted(map(int, cells)), list(range(len(cells)))
    if len(cells) < 3:
        return [int(cell) for cell in cells] == places
    return numbers in (places, [place + 1 for place in places])


def _is_number(cell: str) -> bool:
    text = cell.removesuffix("%").strip()
    try:
        float(text.replace(",", ".") if COMMA_NUMBER.fullmatch(text) else text)
    except ValueError:
        return False
    return True


def read_sheet(path: Path, max_bytes: int | None, num_rows: int | None = None) -> pa.Table:
    """Return the table in the first sheet of an Excel file; arguments as in ``read_text_table``.

    Raises:
        InputError: where openpyxl isn't installed, and for a file that would unpack to too much.
    """
    try:
        from openpyxl import load_workbook
    except ImportError as error:
        raise InputError(f"{path}: pip install openpyxl, or save it as CSV") from error
    with zipfile.ZipFile(path) as archive:
        size = sum(member.file_size for member in archive.infolist())
    if size > unpacked_limit(path.stat().st_size, max_bytes and 20 * max_bytes):
        raise InputError(f"{path}: it would unpack to {size:,} bytes")
    book = load_workbook(path, read_only=True, data_only=True)
    rows = [list(row) for row in book.worksheets[0].iter_rows(values_only=True)]
    rows = [row for row in rows if any(cell is not None for cell in row)]
    if not rows:
        raise InputError(f"{path}: its first sheet is empty")
    head, *body = rows
    if not names_columns(list(map(str, head)), len(rows), num_rows, path):
        head, body = [f"f{place}" for place in range(len(head))], rows
    columns = zip(*body, strict=True)
    names = ["" if cell is None else str(cell) for cell in head]
    return pa.table([pa.array(column) for column in columns], names=names)
