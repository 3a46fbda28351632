"""Parquet files, read with care: what their pages unpack to is known before one is unpacked.

A Parquet file says thrice how much it holds: in its footer, in the header of each page, and by the
page itself. pyarrow believes the first two, and a few bytes can say a lot. They are read here, and
not by pyarrow's own objects for them: a damaged footer makes those end the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from softmark.owner.numpy_files import unpacked_limit

MAGIC = b"PAR1"
MAX_VALUE_BYTES = 8  # of a number, or of a text's index into its dictionary
# The encoding in which each text repeats the beginning of the one before: a few bytes of it can
# stand for gigabytes.
DELTA_BYTE_ARRAY = 7
MAX_DEPTH = 12  # of structures inside of each other; a footer has six
MAX_INT32 = 2**31 - 1
I32, I64, TEXT, LIST, STRUCT = 5, 6, 8, 9, 12
Fields = dict[int, Any]
# The format's structures by the numbers of their fields, as far as they are needed to read them as
# pyarrow does: the type of a field or of each entry of a list, and the fields of a structure.
SIZES: Fields = {2: I64, 3: I64}
COLUMN: Fields = {2: I32, 3: TEXT, 5: I64, 7: I64, 8: {}, 9: I64, 11: I64, 13: {}, 16: SIZES}
COLUMN |= {17: {2: I32}}
GROUP: Fields = {1: {3: COLUMN, 8: {2: {1: TEXT}}}, 3: I64, 4: {}}
FOOTER: Fields = {2: {}, 3: I64, 4: GROUP, 5: {}, 7: {}}
PAGE: Fields = {2: I32, 3: I32, 5: {2: I32}, 7: {1: I32}, 8: {4: I32}}


def read_parquet(
    path: Path,
    text_column: str,
    check: Callable[[pa.Schema], None],
    max_bytes: int | None = None,
) -> pa.Table:
    """Return the table in ``path``.

    Args:
        path: the file.
        text_column: the column that may hold text. It comes as a dictionary if the file has it as
            one: else each text would be repeated in every row.
        check: is given the schema, and raises for columns that can't be used.
        max_bytes: what the table may take in memory; None for no limit but the file's own.

    Raises:
        ValueError: for a file that would unpack to more than ``numpy_files.unpacked_limit``;
            besides, whatever ``check`` and pyarrow raise.
    """
    content = path.read_bytes()
    dictionary_columns = _check_size(content, unpacked_limit(len(content), max_bytes))
    # A list or a text has as many bytes as it has entries, or more.
    limit = min(len(content), MAX_INT32)
    # What was checked is what is read: the file isn't opened twice.
    with parquet.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=[text_column] if text_column.encode() in dictionary_columns else None,
        thrift_string_size_limit=limit,
        thrift_container_size_limit=limit,
    ) as file:
        check(file.schema_arrow)
        return file.read()


def _check_size(content: bytes, most: int) -> set[bytes]:
    """Return the columns that have a dictionary. Raise ``ValueError`` for too large a content."""
    end = len(content) - 8
    begin = end - int.from_bytes(content[-8:-4], "little")
    if not content.startswith(MAGIC) or not content.endswith(MAGIC) or begin < len(MAGIC):
        raise ValueError("it is cut short, or encrypted")
    try:
        footer = _ThriftReader(content, begin, end).struct(FOOTER)
        return _check_columns(content, footer, most)
    except (LookupError, TypeError) as error:
        raise ValueError("its footer, or the header of a page, is damaged") from error


def _check_columns(content: bytes, footer: dict[int, Any], most: int) -> set[bytes]:
    dictionary_columns: set[bytes] = set()
    unpacked, num_values, num_pages = 0, 0, 0
    num_rows = max(footer[3], sum(group[3] for group in footer[4]))
    _check_unpacked(content, most, MAX_VALUE_BYTES * num_rows * len(footer[2]))
    for column in (chunk[3] for group in footer[4] for chunk in group[1]):
        num_values += max(0, column[5])
        for length, is_dictionary in _pages(content, column):
            unpacked, num_pages = unpacked + length, num_pages + 1
            dictionary_columns |= {b".".join(column[3])} if is_dictionary else set()
            if num_pages > len(content):
                raise ValueError("its columns share their pages")
        _check_unpacked(content, most, max(unpacked, MAX_VALUE_BYTES * num_values))
    return dictionary_columns


def _check_unpacked(content: bytes, most: int, length: int) -> None:
    if length > most:
        raise ValueError(f"{len(content):,} bytes would unpack to {length:,} or more")


def _pages(content: bytes, column: dict[int, Any]) -> Iterator[tuple[int, bool]]:
    """Yield the unpacked length of each page of a column, and whether the page is a dictionary."""
    begin = column[9]
    if column.get(11, 0) > 0:
        begin = min(begin, column[11])
    end = begin + column[7]
    if not 0 <= begin <= end <= len(content):
        raise ValueError("a column begins or ends outside of the file")
    position = begin
    while position < end:
        header = _ThriftReader(content, position, end)
        page = header.struct(PAGE)
        data_v1, dictionary, data_v2 = (page.get(number, {}) for number in (5, 7, 8))
        if min(page[2], page[3]) < 0 or dictionary.get(1, 0) > page[2]:
            raise ValueError("a page declares more than it holds")
        if DELTA_BYTE_ARRAY in (data_v1.get(2), data_v2.get(4)):
            raise ValueError("its texts have the encoding DELTA_BYTE_ARRAY, which isn't read")
        yield page[2], 7 in page
        position = header.position + page[3]


class _ThriftReader:
    """Read structures in Thrift's compact protocol from ``content[position:end]``."""

    def __init__(self, content: bytes, position: int, end: int):
        self.content, self.position, self.end = content, position, end

    def struct(self, fields: Fields, depth: int = 0) -> dict[int, Any]:
        """Return the values by the numbers of their fields; only those of ``fields`` are right."""
        values: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed(15)
            # pyarrow would go on with a mixture of both.
            if number in values or number <= 0:
                raise ValueError("a field is there twice")
            kind = head & 15
            if kind in (1, 2) and number not in fields:  # a truth value has nothing but its head
                values[number] = kind == 1
            else:
                values[number] = self._value(kind, fields.get(number), depth)
        return values

    def _value(self, kind: int, expected: Fields | int | None, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} structures inside of each other")
        if kind in (LIST, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, expected, depth + 1) for _ in range(count)]
        # pyarrow takes another kind for a field that it doesn't know, or for what it expects.
        if expected is not None and kind != (expected if isinstance(expected, int) else STRUCT):
            raise ValueError("a field is of another kind")
        match kind:
            case 1 | 2 | 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._signed({4: 15, I32: 31, I64: 63}[kind])
            case 7:
                return self._text(8)
            case 8:
                return self._text(self._unsigned())
            case 12:
                return self.struct(expected if isinstance(expected, dict) else {}, depth + 1)
        raise ValueError("a field is of no kind that Thrift has")

    def _byte(self) -> int:
        return self._text(1)[0]

    def _text(self, count: int) -> bytes:
        self.position += count
        if self.position > self.end:
            raise ValueError("it is cut short")
        return self.content[self.position - count : self.position]

    def _unsigned(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("a number is too long")

    def _signed(self, bits: int) -> int:
        value = self._unsigned()
        if value >> (bits + 1):  # pyarrow would drop what is above
            raise ValueError("a number is too large")
        return (value >> 1) ^ -(value & 1)
