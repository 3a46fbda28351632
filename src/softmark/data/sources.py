"""Read pictures and labels: the digits, a folder of one's own; others lie beside this file.

A source is any class with ``read`` and ``signature``, named by ``source._target_`` in
``conf/data/NAME.yaml``. Nothing here imports torch, and what is heavy only when it is read.
"""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from softmark.console import report
from softmark.data.listing import folder_of, list_pictures, stamps
from softmark.data.pictures import decode, digest


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

    @functools.cached_property
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

    Without ``test`` ``val`` is read for it; letters may be small or capital. Links are followed.
    Hidden entries are skipped; what else is left out is reported.

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
        listing = list_pictures(folder)
        for remark in listing.remarks:
            report(remark)
        classes = tuple(listing.train)
        parts = [*listing.train.items(), *listing.test.items()]
        labels = np.repeat([classes.index(name) for name, _ in parts], [len(f) for _, f in parts])
        named = [(str(file.relative_to(folder)), file) for file in listing.files]
        images = decode(named, len(named), self.size)
        return Decoded(images, labels, classes, sum(map(len, listing.train.values())))

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it."""
        folder = folder_of(self.path)
        files = stamps(list_pictures(folder).files, folder)
        return {"source": "imagefolder", "size": self.size, "files": files}
