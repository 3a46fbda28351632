"""NumPy's files, read with care: nothing is unpickled, nothing grows far beyond its file."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from softmark.errors import InputError
from softmark.nodes import short

# What a file may unpack to: so many times its size, and so many bytes. Pictures of one colour
# shrink by some hundreds, and no file can be deflated by more than 1,032.
TIMES, SPARE = 1000, 64 << 20
KINDS = "biuf"  # truth values, whole numbers and floats, as numpy calls them
PACKED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
PIECE = 1 << 20


def unpacked_limit(size: int) -> int:
    """How many bytes a file of ``size`` bytes may unpack to."""
    return TIMES * size + SPARE


def read_array(path: Path, choose: Callable[[list[str]], str]) -> np.ndarray:
    """The array in an NPY file, or of an NPZ file the one that ``choose`` picks among the names.

    Raises ``OSError`` where the file can't be read, else ``ValueError``.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        try:
            if start == npy.MAGIC_PREFIX:
                return _array(file, size)
            if start.startswith(b"PK"):
                return _member(file, size, choose)
        except (OSError, InputError):
            raise
        # zipfile and numpy raise a dozen types where a header is damaged.
        except Exception as error:
            raise ValueError(short(error) or type(error).__name__) from error
    raise ValueError("it is no array of NumPy's")


def _member(file: IO[bytes], size: int, choose: Callable[[list[str]], str]) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("two of its members have one name")
        # Reading stops where a member is as long as it says.
        if (total := sum(member.file_size for member in members)) > unpacked_limit(size):
            raise ValueError(f"{size:,} bytes would unpack to {total:,}")
        if any(member.flag_bits & 1 or member.compress_type not in PACKED for member in members):
            raise ValueError("it is encrypted, or packed in another way than NumPy's")
        name = choose(names)
        if name not in names:
            raise ValueError(f"it holds {short(', '.join(names)) or 'nothing'}, and no {name}")
        member = members[names.index(name)]
        with archive.open(member) as inside:
            return _array(inside, member.file_size)


def _array(file: IO[bytes], size: int) -> np.ndarray:
    """The array that begins here and has ``size`` bytes, its header included."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of NPY is none for numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, by_columns, kind = readers[version](file)
    if kind.kind not in KINDS:
        raise ValueError(f"it holds {short(kind)}, not numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {short(shape)}")
    length = math.prod(shape) * kind.itemsize
    if length > size - file.tell():
        raise ValueError(f"its header declares {length:,} bytes, more than there are")
    flat = _bytes(file, length).view(kind)
    if not kind.isnative:
        flat = flat.astype(kind.newbyteorder("="))
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)


def _bytes(file: IO[bytes], length: int) -> np.ndarray:
    found = np.empty(length, np.uint8)
    start = 0
    while start < length:
        piece = file.read(min(PIECE, length - start))
        if not piece:
            raise ValueError("it is cut short")
        found[start : start + len(piece)] = np.frombuffer(piece, np.uint8)
        start += len(piece)
    return found
