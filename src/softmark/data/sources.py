"""Read pictures and labels: the digits, a folder of one's own; others lie beside this file.

A source is any class with ``read`` and ``signature``, named by ``source._target_`` in
``conf/data/NAME.yaml``. Nothing here imports torch, and what is heavy only when it is read.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from softmark.data.pictures import decode, digest
from softmark.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a source holds.

    Args:
        images: uint8 (N, C, H, W).
        labels: int64 (N,).
        classes: the names of the classes.
        train: how many samples, from the first on, are the training split; the others are the test
            split, if there is one.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    train: int

    @property
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of all that it holds."""
        return digest(self.images, self.labels, [*self.classes, self.train])


class Source(Protocol):
    """Where pictures and labels come from."""

    def read(self) -> Decoded:
        """Decode everything.

        Raises:
            InputError: the data can't be used.
        """

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it: fit for JSON."""


def source_of(data: Mapping[str, Any]) -> Source:
    """Return where the samples of the config node ``data`` come from."""
    from hydra.utils import instantiate

    return instantiate(data["source"])


@dataclass(frozen=True)
class Digits:
    """scikit-learn's embedded handwritten digits: 1,797 grey 8x8 pictures, no test split.

    Example:
        >>> Digits().read().images.shape
        (1797, 1, 8, 8)
    """

    def read(self) -> Decoded:
        """Decode everything."""
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        names = tuple(str(digit) for digit in range(10))
        return Decoded(images, labels.astype(np.int64), names, len(labels))

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it."""
        return {"source": "digits", "scikit-learn": importlib.metadata.version("scikit-learn")}


@dataclass(frozen=True)
class ImageFolder:
    """A folder with one subfolder of pictures a class, or with such folders ``train`` and ``test``.

    Files without a picture's suffix, and hidden ones, are left alone.

    Args:
        path: the folder.
        size: pixels a side: the middle square of each picture is resized; None: all pictures have
            the same size already.
    """

    path: str | None
    size: int | None

    def read(self) -> Decoded:
        """Decode everything."""
        folder = folder_of(self.path)
        has_train = (folder / "train").is_dir()
        train = _by_class(folder / "train" if has_train else folder)
        has_test = has_train and (folder / "test").is_dir()
        test = _by_class(folder / "test") if has_test else {}
        if strangers := sorted(test.keys() - train.keys()):
            raise InputError(
                f"{folder / 'test' / strangers[0]}: no such class in {folder / 'train'}"
            )
        classes = tuple(train)
        parts = [(name, files) for part in (train, test) for name, files in part.items()]
        labels = np.repeat([classes.index(name) for name, _ in parts], [len(f) for _, f in parts])
        named = [(str(file.relative_to(folder)), file) for _, files in parts for file in files]
        images = decode(named, len(named), self.size)
        return Decoded(images, labels, classes, sum(map(len, train.values())))

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it."""
        folder = folder_of(self.path)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {"source": "imagefolder", "size": self.size, "files": listing(files, folder)}


def folder_of(path: str | None) -> Path:
    """Return the folder ``path``. Raise ``InputError`` where it is none, or empty."""
    if not path:
        raise InputError("data.path is null: data.path=DIR names the folder of pictures")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"data.path={path} is no folder")
    if not any(folder.iterdir()):
        raise InputError(f"data.path={path} is an empty folder")
    return folder


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Return the pictures in each subfolder of ``folder``: one subfolder a class."""
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(f"{folder} has no subfolders: one subfolder of pictures a class is needed")
    pictures = {}
    for name in names:
        files = (f for f in (folder / name).rglob("*") if not f.name.startswith("."))
        pictures[name] = sorted(file for file in files if file.suffix.lower() in SUFFIXES)
        if not pictures[name]:
            raise InputError(f"{folder / name} holds no {', '.join(sorted(SUFFIXES))}")
    return pictures


def listing(files: Iterable[Path], folder: Path) -> list[tuple[str, int, int]]:
    """Return the relative name, the bytes and the mtime (ns) of each file."""
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
