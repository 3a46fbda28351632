"""NPY and NPZ files, read with care: nothing is unpickled, and memory stays within a limit."""

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

# A file may unpack to MAX_RATIO times its size, and MAX_EXTRA_BYTES more. Pictures of one colour
# shrink by some hundreds, and no file can be deflated by more than 1,032.
MAX_RATIO, MAX_EXTRA_BYTES = 1000, 64 << 20
NUMERIC_KINDS = "biuf"  # truth values, whole numbers and floats, as numpy calls them
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CHUNK_BYTES = 1 << 20


def unpacked_limit(size: int, max_bytes: int | None = None) -> int:
    """Return how many bytes a file of ``size`` bytes may unpack to: ``max_bytes`` at most."""
    limit = MAX_RATIO * size + MAX_EXTRA_BYTES
    return limit if max_bytes is None else min(limit, max_bytes)


def read_array(
    path: Path, choose: Callable[[list[str]], str], max_bytes: int | None = None
) -> np.ndarray:
    """Return the array of an NPY file, or one of an NPZ file.

    Args:
        path: the file.
        choose: is given the names of the arrays in an NPZ file, and returns the one to read.
        max_bytes: what the array may take in memory; None for no limit but the file's own.

    Raises:
        OSError: if the file can't be opened or read.
        ValueError: for a damaged file, and for one that would unpack to more than
            ``unpacked_limit`` or ``max_bytes``; before memory is taken.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        magic = file.read(len(npy.MAGIC_PREFIX))
        file.seek(0)
        try:
            if magic == npy.MAGIC_PREFIX:
                return _read_npy(file, size, max_bytes)
            if magic.startswith(b"PK"):
                return _read_member(file, size, choose, max_bytes)
        except (OSError, InputError):
            raise
        # zipfile and numpy raise a dozen types where a header is damaged.
        except Exception as error:
            raise ValueError(short(error) or type(error).__name__) from error
    raise ValueError("it is no array of NumPy's")


def _read_member(
    file: IO[bytes], size: int, choose: Callable[[list[str]], str], max_bytes: int | None
) -> np.ndarray:
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = [member.filename.removesuffix(".npy") for member in members]
        if len(set(names)) < len(names):
            raise ValueError("two of its members have one name")
        # Reading stops where a member is as long as it says.
        if (total := sum(member.file_size for member in members)) > unpacked_limit(size):
            raise ValueError(f"{size:,} bytes would unpack to {total:,}")
        encrypted = any(member.flag_bits & 1 for member in members)
        if encrypted or any(member.compress_type not in COMPRESSIONS for member in members):
            raise ValueError("it is encrypted, or packed in another way than NumPy's")
        name = choose(names)
        if name not in names:
            raise ValueError(f"it holds {short(', '.join(names)) or 'nothing'}, and no {name}")
        member = members[names.index(name)]
        with archive.open(member) as opened:
            return _read_npy(opened, member.file_size, max_bytes)


def _read_npy(file: IO[bytes], size: int, max_bytes: int | None) -> np.ndarray:
    """Return the array that begins here and has ``size`` bytes, its header included."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of NPY is none for numbers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that Python 2 wrote
        shape, fortran_order, kind = readers[version](file)
    if kind.kind not in NUMERIC_KINDS:
        raise ValueError(f"it holds {short(kind)}, not numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {short(shape)}")
    length = math.prod(shape) * kind.itemsize
    if length > size - file.tell():
        raise ValueError(f"its header declares {length:,} bytes, more than there are")
    if max_bytes is not None and length > max_bytes:
        raise ValueError(f"it holds {length:,} bytes; {max_bytes:,} are expected at most")
    flat = _read_bytes(file, length).view(kind)
    if not kind.isnative:
        flat = flat.astype(kind.newbyteorder("="))
    return flat.reshape(shape[::-1]).T if fortran_order else flat.reshape(shape)


def _read_bytes(file: IO[bytes], length: int) -> np.ndarray:
    """Return the next ``length`` bytes, in chunks: a zip's member gives no more than it has."""
    content = np.empty(length, np.uint8)
    start = 0
    while start < length:
        chunk = file.read(min(CHUNK_BYTES, length - start))
        if not chunk:
            raise ValueError("it is cut short")
        content[start : start + len(chunk)] = np.frombuffer(chunk, np.uint8)
        start += len(chunk)
    return content
