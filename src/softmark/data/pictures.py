"""Decode pictures into arrays, and hash what they hold."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from softmark.errors import InputError

MIN_SIDE = 8  # pixels a side


def decode(files: Iterable[tuple[str, Any]], total: int, size: int | None) -> np.ndarray:
    """Decode pictures into one array; grey ones become colour where others are.

    Args:
        files: a name for messages, and a path or an open file, of each picture.
        total: how many there are.
        size: pixels a side: the middle square of each picture is resized; None: as they are.

    Returns:
        uint8 (N, C, H, W); C is 1 where all pictures are grey, else 3.

    Raises:
        InputError: a picture can't be read, is too small or differs from the others in size.
    """
    from rich.console import Console
    from rich.progress import track

    if size is not None and (type(size) is not int or size < MIN_SIDE):
        raise InputError(f"data.size={size}: null or an integer from {MIN_SIDE} on is needed")
    if not total:
        raise InputError("the data has no samples")
    pictures: list[np.ndarray] = []
    first = ""
    for name, file in track(
        files,
        "Decoding pictures",
        total,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ):
        pictures.append(_pixels(name, file, size))
        first = first or name
        (height, width), (rows, columns) = pictures[-1].shape[:2], pictures[0].shape[:2]
        if (height, width) != (rows, columns):
            raise InputError(
                f"{name} has {width}x{height} pixels, {first} has {columns}x{rows}: all must have "
                "one size\ndata.size=N resizes them to NxN"
            )
        if min(height, width) < MIN_SIDE:
            raise InputError(
                f"{name} has {width}x{height} pixels, fewer than {MIN_SIDE}x{MIN_SIDE}\n"
                "data.size=N resizes to NxN"
            )
    if any(pixels.ndim == 3 for pixels in pictures):
        pictures = [p if p.ndim == 3 else np.stack([p, p, p], axis=2) for p in pictures]
        return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return np.stack(pictures)[:, None]


def _pixels(name: str, file: Any, size: int | None) -> np.ndarray:
    """Return the picture as uint8: (H, W) where it is grey, else (H, W, 3)."""
    if file is None:
        raise InputError(f"{name} holds no picture")
    try:
        with Image.open(file) as opened:
            picture = ImageOps.exif_transpose(opened)
            mode = picture.mode
            picture = picture.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")
            if size is not None:
                picture = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC)
            pixels = np.asarray(picture)
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error and its own
        raise InputError(f"{name} is no readable picture: {reason(error)}") from error
    if mode[0] in "IF":
        raise InputError(f"{name} has more than 8 bits a channel (mode {mode}): convert it first")
    return pixels


def digest(images: np.ndarray, labels: np.ndarray, about: list[Any] | None = None) -> str:
    """Return the hex SHA-256 of shapes, bytes and ``about``."""
    state = hashlib.sha256(json.dumps([images.shape, labels.shape, about]).encode())
    state.update(np.ascontiguousarray(images))
    state.update(np.ascontiguousarray(labels))
    return state.hexdigest()


def reason(error: Exception) -> str:
    """Return the error's type and the beginning of its first line: some run over pages."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}"
