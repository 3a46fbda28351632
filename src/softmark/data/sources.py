"""Where pictures and labels come from: the digits, a set of the hub, a folder of one's own.

A source is any class with ``read`` and ``signature``, named by ``source._target_`` in
``conf/data/NAME.yaml``. Nothing here imports torch, and what is heavy only when it is read.
"""

from __future__ import annotations

import importlib.metadata
import io
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from softmark.data.pictures import decode, digest, reason
from softmark.errors import InputError

if TYPE_CHECKING:
    import datasets

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a source holds: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), class names.

    The first ``train`` samples are the training split, the others the test split, if there is one.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    train: int

    @property
    def fingerprint(self) -> str:
        return digest(self.images, self.labels, [*self.classes, self.train])


class Source(Protocol):
    """Where pictures and labels come from."""

    def read(self) -> Decoded:
        """Decodes everything. Raises ``InputError`` where the data cannot be used."""

    def signature(self) -> dict[str, Any]:
        """What tells this source from others, without decoding it: fit for JSON."""


def source_of(data: Mapping[str, Any]) -> Source:
    """Return where the samples of the config node ``data`` come from."""
    from hydra.utils import instantiate

    return instantiate(data["source"])


@dataclass(frozen=True)
class Digits:
    """scikit-learn's embedded handwritten digits: 1,797 grey 8x8 pictures, no test split."""

    def read(self) -> Decoded:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        images = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
        names = tuple(str(digit) for digit in range(10))
        return Decoded(images, labels.astype(np.int64), names, len(labels))

    def signature(self) -> dict[str, Any]:
        return {"source": "digits", "scikit-learn": importlib.metadata.version("scikit-learn")}


@dataclass(frozen=True)
class Hub:
    """An image-classification set of the Hugging Face hub, or a folder of its parquet files.

    ``path``: a folder with ``{train_split}*.parquet`` and perhaps ``{test_split}*.parquet``; None:
    the hub's set ``name`` (configuration ``subset``), kept in Hugging Face's own cache.
    ``image``, ``label``: columns. ``test_split``: None for none. ``size``: as in ``ImageFolder``.
    """

    dataset: str | None
    subset: str | None
    path: str | None
    image: str
    label: str
    train_split: str
    test_split: str | None
    size: int | None

    def read(self) -> Decoded:
        splits = self._read_parquet() if self.path else self._download()
        from datasets import concatenate_datasets

        for key, column in (("image", self.image), ("label", self.label)):
            for rows in splits:
                if column not in rows.features:
                    columns = ", ".join(rows.features)
                    raise InputError(f"data.source.{key}={column}: the columns are {columns}")
        try:
            rows = concatenate_datasets(
                [s.select_columns(list({self.image, self.label})) for s in splits]
            )
        except ValueError as error:
            raise InputError(f"training and test split do not match: {reason(error)}") from error
        train = len(splits[0])
        classes, labels = self._labels(rows, train)
        images = decode(self._pictures(rows, train), len(rows), self.size)
        return Decoded(images, labels, classes, train)

    def signature(self) -> dict[str, Any]:
        if not self.path:
            return {"source": "hub", **asdict(self)}
        files = _listing(chain(*self._parquet().values()), _folder(self.path))
        about = {"source": "parquet", **asdict(self), "files": files}
        # The files say it all: the same folder under another path is not decoded again.
        return {key: about[key] for key in about.keys() - {"dataset", "subset", "path"}}

    def _wanted(self) -> list[str]:
        return [self.train_split, self.test_split] if self.test_split else [self.train_split]

    def _parquet(self) -> dict[str, list[Path]]:
        folder = _folder(self.path)
        found = {split: sorted(folder.glob(f"{split}*.parquet")) for split in self._wanted()}
        if not found[self.train_split]:
            there = ", ".join(sorted(file.name for file in folder.iterdir())[:5])
            raise InputError(
                f"data.path={folder} has no {self.train_split}*.parquet (it holds {there})"
            )
        others = sorted(set(folder.glob("*.parquet")).difference(*found.values()))
        # No test file at all is fine; one under another name is a name mistyped.
        if self.test_split and not found[self.test_split] and others:
            names = ", ".join(file.name for file in others[:5])
            raise InputError(
                f"data.source.test_split={self.test_split}: data.path={folder} has no "
                f"{self.test_split}*.parquet, but {names}\n"
                "data.source.test_split=null holds the judge's samples out of the training split"
            )
        return {split: files for split, files in found.items() if files}

    def _read_parquet(self) -> list[datasets.Dataset]:
        # Not by datasets.load_dataset: that writes a second copy (or lock files) into its cache,
        # logs an error of its own for a corrupt file, and imports torch.
        import pyarrow
        import pyarrow.parquet
        from datasets import Dataset
        from datasets.table import InMemoryTable

        splits = []
        for files in self._parquet().values():
            try:
                tables = [pyarrow.parquet.read_table(file) for file in files]
                splits.append(Dataset(InMemoryTable(pyarrow.concat_tables(tables))))
            except Exception as error:  # the errors of Arrow and of datasets share no base
                names = ", ".join(file.name for file in files[:3])
                raise InputError(
                    f"data.path={self.path}: {names} cannot be read as parquet: {reason(error)}"
                ) from error
        return splits

    def _download(self) -> list[datasets.Dataset]:
        if not self.dataset:
            raise InputError(
                "data.name and data.path are both null: "
                "set data.name=NAME (a set of the hub) or data.path=DIR (its parquet files)"
            )
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        try:
            found = datasets.load_dataset(self.dataset, self.subset)
        except Exception as error:  # a dozen unrelated types, from the network to the format
            raise InputError(
                f"{self.dataset} (data.source.subset={self.subset}) cannot be loaded\n"
                f"{reason(error)}\n"
                "data.path=DIR reads parquet files that are here already"
            ) from error
        if missing := [split for split in self._wanted() if split not in found]:
            name = "train_split" if missing[0] == self.train_split else "test_split"
            splits = ", ".join(found)
            raise InputError(
                f"data.source.{name}={missing[0]}: {self.dataset} has the splits {splits}\n"
                "data.source.test_split=null holds the judge's samples out of the training split"
            )
        return [found[split] for split in self._wanted()]

    def _labels(self, rows: datasets.Dataset, train: int) -> tuple[tuple[str, ...], np.ndarray]:
        from datasets import ClassLabel, Value

        feature = rows.features[self.label]
        names = tuple(feature.names) if isinstance(feature, ClassLabel) else None
        is_integer = isinstance(feature, Value) and feature.dtype.startswith(("int", "uint"))
        if names is None and not is_integer:
            raise InputError(f"data.source.label={self.label} holds {feature}: integers are needed")
        column = rows.select_columns(self.label)[:][self.label]
        labels = np.array([-1 if label is None else label for label in column], dtype=np.int64)
        values = np.unique(labels[:train]) if names is None else np.arange(len(names))
        strange = np.flatnonzero((labels < 0) | ~np.isin(labels, values))
        if len(strange):
            raise InputError(
                f"data.source.label={self.label}: {self._row(strange[0], train)} is "
                f"{column[strange[0]]}, which is no label of a training class\n"
                "an unlabelled (-1) test split is left out by data.source.test_split=null"
            )
        return names or tuple(map(str, values)), np.searchsorted(values, labels)

    def _pictures(self, rows: datasets.Dataset, train: int) -> Iterator[tuple[str, Any]]:
        import datasets

        feature = rows.features[self.image]
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(self.image, datasets.Image(decode=False))
        elif feature != datasets.Value("binary") and not (
            isinstance(feature, dict) and "bytes" in feature
        ):
            raise InputError(f"data.source.image={self.image} holds {feature}: pictures are needed")
        batches = rows.select_columns(self.image).iter(batch_size=512)
        for number, picture in enumerate(chain.from_iterable(b[self.image] for b in batches)):
            if isinstance(picture, dict):
                picture = picture["bytes"] or picture.get("path")
            file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
            yield self._row(number, train), file

    def _row(self, number: int, train: int) -> str:
        if number < train:
            return f"{self.train_split}[{number}]"
        return f"{self.test_split}[{number - train}]"


@dataclass(frozen=True)
class ImageFolder:
    """A folder with one subfolder of pictures a class, or with such folders ``train`` and ``test``.

    Files without a picture's suffix, and hidden ones, are left alone. ``size``: pixels a side (the
    middle square of each picture, resized); None: all pictures have the same size already.
    """

    path: str | None
    size: int | None

    def read(self) -> Decoded:
        folder = _folder(self.path)
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
        folder = _folder(self.path)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        return {"source": "imagefolder", "size": self.size, "files": _listing(files, folder)}


def _folder(path: str | None) -> Path:
    if not path:
        raise InputError("data.path is null: data.path=DIR names the folder of pictures")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"data.path={path} is no folder")
    if not any(folder.iterdir()):
        raise InputError(f"data.path={path} is an empty folder")
    return folder


def _by_class(folder: Path) -> dict[str, list[Path]]:
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise InputError(f"{folder} has no subfolders: one subfolder of pictures a class is needed")
    found = {}
    for name in names:
        files = (f for f in (folder / name).rglob("*") if not f.name.startswith("."))
        found[name] = sorted(file for file in files if file.suffix.lower() in SUFFIXES)
        if not found[name]:
            raise InputError(f"{folder / name} holds no {', '.join(sorted(SUFFIXES))}")
    return found


def _listing(files: Iterable[Path], folder: Path) -> list[tuple[str, int, int]]:
    """(relative name, bytes, mtime in ns) of each file."""
    stats = [(file, file.stat()) for file in files]
    return [(str(f.relative_to(folder)), s.st_size, s.st_mtime_ns) for f, s in stats]
