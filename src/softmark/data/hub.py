"""Read a set of the Hugging Face hub, or a folder of its parquet files.

Nothing here imports torch, and what is heavy only when it is read.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmark.console import report
from softmark.data.listing import folder_of, stamps
from softmark.data.pictures import decode, reason
from softmark.data.sources import Decoded
from softmark.errors import InputError

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Hub:
    """An image-classification set of the Hugging Face hub, or a folder of its parquet files.

    Args:
        dataset: the hub's set, kept in Hugging Face's own cache; read where ``path`` is None.
        subset: its configuration, where it has several.
        path: a folder with ``{train_split}*.parquet`` and perhaps ``{test_split}*.parquet``.
        image: the column of pictures.
        label: the column of labels: integers, or a ``ClassLabel``.
        train_split: the name of the training split.
        test_split: the name of the test split; None: there is none.
        size: as in ``ImageFolder``.
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
        """Decode everything."""
        splits = self._read_parquet() if self.path else self._download()
        from datasets import concatenate_datasets

        for split in splits:
            self._check_columns(split)
        try:
            rows = concatenate_datasets(
                [split.select_columns(list({self.image, self.label})) for split in splits]
            )
        except ValueError as error:
            raise InputError(f"training and test split do not match: {reason(error)}") from error
        train = len(splits[0])
        classes, labels = self._labels(rows, train)
        images = decode(self._pictures(rows, train), len(rows), self.size)
        return Decoded(images, labels, classes, train)

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it."""
        if not self.path:
            self._check_name()
            return {"source": "hub", **asdict(self)}
        files = stamps(chain(*self._parquet().values()), folder_of(self.path))
        about = {"source": "parquet", **asdict(self), "files": files}
        # The files say it all: the same folder under another path is not decoded again.
        return {name: about[name] for name in about.keys() - {"dataset", "subset", "path"}}

    def _splits(self) -> list[str]:
        """Return the names of the training split and, if there is one, of the test split."""
        return [self.train_split, self.test_split] if self.test_split else [self.train_split]

    def _parquet(self) -> dict[str, list[Path]]:
        """Return the files of each split that has some: its name, the longest, begins theirs.

        Raises:
            InputError: there is no folder, or none of a split that should be there.
        """
        folder = folder_of(self.path)
        files: dict[str, list[Path]] = {split: [] for split in self._splits()}
        others = []
        for file in sorted(folder.glob("*.parquet")):
            split = max(filter(file.name.startswith, files), key=len, default=None)
            (others if split is None else files[split]).append(file)
        if not files[self.train_split]:
            names = ", ".join(sorted(file.name for file in folder.iterdir())[:5])
            raise InputError(
                f"data.path={folder} has no {self.train_split}*.parquet (it holds {names})"
            )
        # No test file at all is fine; one under another name is a name mistyped.
        if self.test_split and not files[self.test_split] and others:
            names = ", ".join(file.name for file in others[:5])
            raise InputError(
                f"data.source.test_split={self.test_split}: data.path={folder} has no "
                f"{self.test_split}*.parquet, but {names}\n"
                "data.source.test_split=null holds the judge's samples out of the training split"
            )
        return {split: paths for split, paths in files.items() if paths}

    def _read_parquet(self) -> list[datasets.Dataset]:
        """Return the splits that the folder ``path`` holds."""
        from datasets import concatenate_datasets

        splits = []
        for files in self._parquet().values():
            shards = [self._read_shard(file) for file in files]
            for file, shard in zip(files, shards, strict=True):
                if shard.features != shards[0].features:
                    raise InputError(
                        f"data.path={self.path}: {file.name} holds {shard.features}, "
                        f"{files[0].name} {shards[0].features}: all must hold the same"
                    )
            splits.append(concatenate_datasets(shards))
        read = {file.name for files in self._parquet().values() for file in files}
        if others := sorted({file.name for file in folder_of(self.path).iterdir()} - read):
            report(f"data.path={self.path}: left out are {', '.join(others[:5])}")
        return splits

    def _read_shard(self, file: Path) -> datasets.Dataset:
        """Return the columns of pictures and labels that ``file`` holds."""
        # Not by datasets.load_dataset: that writes a second copy (or lock files) into its cache,
        # logs an error of its own for a corrupt file, and imports torch.
        import pyarrow.parquet
        from datasets import Dataset
        from datasets.table import InMemoryTable

        try:
            rows = Dataset(InMemoryTable(pyarrow.parquet.read_table(file)))
        except Exception as error:  # the errors of Arrow and of datasets share no base
            raise InputError(
                f"data.path={self.path}: {file.name} cannot be read as parquet: {reason(error)}"
            ) from error
        self._check_columns(rows, f" ({file.name})")
        return rows.select_columns(list(dict.fromkeys((self.image, self.label))))

    def _check_columns(self, rows: datasets.Dataset, where: str = "") -> None:
        """Raise ``InputError`` where ``rows`` lack the column of pictures or that of labels."""
        for name, column in (("image", self.image), ("label", self.label)):
            if column not in rows.features:
                columns = ", ".join(rows.features)
                raise InputError(f"data.source.{name}={column}: the columns are {columns}{where}")

    def _check_name(self) -> None:
        """Raise ``InputError`` where no set is named, or a folder by the name of one."""
        if not self.dataset:
            raise InputError(
                "data.name and data.path are both null: "
                "set data.name=NAME (a set of the hub) or data.path=DIR (its parquet files)"
            )
        if Path(self.dataset).exists():  # load_dataset would read it, whatever it holds by then
            raise InputError(
                f"data.source.dataset={self.dataset} is a folder or a file here: data.path=DIR "
                "reads a folder's parquet files"
            )

    def _download(self) -> list[datasets.Dataset]:
        """Return the splits of the hub's set, asked from the hub unless they are in its cache."""
        self._check_name()
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        try:
            splits = datasets.load_dataset(self.dataset, self.subset)
        except Exception as error:  # a dozen unrelated types, from the network to the format
            raise InputError(
                f"{self.dataset} (data.source.subset={self.subset}) cannot be loaded\n"
                f"{reason(error)}\n"
                "data.path=DIR reads parquet files that are here already"
            ) from error
        if missing := [split for split in self._splits() if split not in splits]:
            name = "train_split" if missing[0] == self.train_split else "test_split"
            known = ", ".join(splits)
            raise InputError(
                f"data.source.{name}={missing[0]}: {self.dataset} has the splits {known}\n"
                "data.source.test_split=null holds the judge's samples out of the training split"
            )
        return [splits[split] for split in self._splits()]

    def _labels(self, rows: datasets.Dataset, train: int) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the classes' names, and the number of each row's class: int64 (N,)."""
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
        """Yield what messages call each picture, and its file."""
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
                inner, named = picture["bytes"], picture.get("path")
                if self.path and named and not inner:
                    raise InputError(
                        f"{self._row(number, train)} holds the name of a file, {named}, and no "
                        "picture: data=imagefolder reads folders of files"
                    )
                picture = inner or named
            file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
            yield self._row(number, train), file

    def _row(self, number: int, train: int) -> str:
        """Return what messages call row ``number`` of both splits together."""
        if number < train:
            return f"{self.train_split}[{number}]"
        return f"{self.test_split}[{number - train}]"
