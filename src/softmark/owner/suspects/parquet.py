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
WIDEST = 8  # bytes of a number, or of the place of a text
PREFIXES = 7  # the encoding by which each text repeats the one before: a few bytes say gigabytes
DEPTH = 12  # structures inside of each other; a footer has six
LONGEST = 2**31 - 1
I32, I64, TEXT, LIST, STRUCT = 5, 6, 8, 9, 12
Known = dict[int, Any]
# The format's structures by the numbers of their fields, as far as it takes to read them as pyarrow
# does: what a field or each entry of a list is, and what is in a structure or a list of them.
SIZES: Known = {2: I64, 3: I64}
COLUMN: Known = {2: I32, 3: TEXT, 5: I64, 7: I64, 8: {}, 9: I64, 11: I64, 13: {}, 16: SIZES}
COLUMN |= {17: {2: I32}}
GROUP: Known = {1: {3: COLUMN, 8: {2: {1: TEXT}}}, 3: I64, 4: {}}
FOOTER: Known = {2: {}, 3: I64, 4: GROUP, 5: {}, 7: {}}
PAGE: Known = {2: I32, 3: I32, 5: {2: I32}, 7: {1: I32}, 8: {4: I32}}


def read_parquet(path: Path, texts: str, check: Callable[[pa.Schema], None]) -> pa.Table:
    """The table in ``path``. ``check`` raises for columns that aren't wanted.

    The column ``texts`` may hold text. It comes as a dictionary where the file has it as one: else
    each text would be repeated in every row. Raises ``ValueError`` for a file that would unpack to
    more than ``numpy_files.unpacked_limit``, and what pyarrow raises.
    """
    content = path.read_bytes()
    shared = _check_size(content)
    # A list or a text has as many bytes as it has entries, or more.
    most = min(len(content), LONGEST)
    # What was checked is what is read: the file isn't opened twice.
    with parquet.ParquetFile(
        pa.BufferReader(content),
        read_dictionary=[texts] if texts.encode() in shared else None,
        thrift_string_size_limit=most,
        thrift_container_size_limit=most,
    ) as file:
        check(file.schema_arrow)
        return file.read()


def _check_size(content: bytes) -> set[bytes]:
    """The names of the columns that have a dictionary. Raises ``ValueError`` for too much."""
    end = len(content) - 8
    begin = end - int.from_bytes(content[-8:-4], "little")
    if not content.startswith(MAGIC) or not content.endswith(MAGIC) or begin < len(MAGIC):
        raise ValueError("it isn't whole, or encrypted")
    try:
        footer = _Thrift(content, begin, end).struct(FOOTER)
        return _check_columns(content, footer)
    except (LookupError, TypeError) as error:
        raise ValueError("its footer, or the header of a page, is damaged") from error


def _check_columns(content: bytes, footer: dict[int, Any]) -> set[bytes]:
    shared: set[bytes] = set()
    unpacked, values, pages = 0, 0, 0
    rows = max(footer[3], sum(group[3] for group in footer[4]))
    _check(content, WIDEST * rows * len(footer[2]))
    for column in (chunk[3] for group in footer[4] for chunk in group[1]):
        values += max(0, column[5])
        for length, is_dictionary in _pages(content, column):
            unpacked, pages = unpacked + length, pages + 1
            shared |= {b".".join(column[3])} if is_dictionary else set()
            if pages > len(content):
                raise ValueError("its columns share their pages")
        _check(content, max(unpacked, WIDEST * values))
    return shared


def _check(content: bytes, length: int) -> None:
    if length > unpacked_limit(len(content)):
        raise ValueError(f"{len(content):,} bytes would unpack to {length:,} or more")


def _pages(content: bytes, column: dict[int, Any]) -> Iterator[tuple[int, bool]]:
    """The length of each page of a column, unpacked, and whether it is a dictionary."""
    begin = column[9]
    if column.get(11, 0) > 0:
        begin = min(begin, column[11])
    end = begin + column[7]
    if not 0 <= begin <= end <= len(content):
        raise ValueError("a column begins or ends outside of the file")
    place = begin
    while place < end:
        header = _Thrift(content, place, end)
        page = header.struct(PAGE)
        data, dictionary, data_2 = (page.get(part, {}) for part in (5, 7, 8))
        if min(page[2], page[3]) < 0 or dictionary.get(1, 0) > page[2]:
            raise ValueError("a page declares more than it holds")
        if PREFIXES in (data.get(2), data_2.get(4)):
            raise ValueError("it holds texts by their common beginnings, which isn't read")
        yield page[2], 7 in page
        place = header.place + page[3]


class _Thrift:
    """Reads ``content`` from ``place`` to ``end``: structures in Thrift's compact protocol."""

    def __init__(self, content: bytes, place: int, end: int):
        self.content, self.place, self.end = content, place, end

    def struct(self, known: Known, depth: int = 0) -> dict[int, Any]:
        """The values by the numbers of their fields; of what isn't ``known`` none are right."""
        found: dict[int, Any] = {}
        field = 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._signed(15)
            # pyarrow would go on with a mixture of both.
            if field in found or field <= 0:
                raise ValueError("a field is there twice")
            kind = head & 15
            if kind in (1, 2) and field not in known:  # a truth value has nothing but its head
                found[field] = kind == 1
            else:
                found[field] = self._value(kind, known.get(field), depth)
        return found

    def _value(self, kind: int, known: Known | int | None, depth: int) -> Any:
        if depth > DEPTH:
            raise ValueError("structures inside of structures")
        if kind in (LIST, 10):
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._unsigned()
            return [self._value(head & 15, known, depth + 1) for _ in range(count)]
        # pyarrow takes another kind for a field that it doesn't know, or for what it expects.
        if known is not None and kind != (known if isinstance(known, int) else STRUCT):
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
                return self.struct(known if isinstance(known, dict) else {}, depth + 1)
        raise ValueError("a field is of no kind")

    def _byte(self) -> int:
        return self._text(1)[0]

    def _text(self, count: int) -> bytes:
        self.place += count
        if self.place > self.end:
            raise ValueError("it is cut short")
        return self.content[self.place - count : self.place]

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
