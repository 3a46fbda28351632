"""Which pictures a folder holds: one listing, for who reads them and for the key of their cache."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from softmark.errors import InputError

SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".jp2", ".tif", ".tiff", ".pbm", ".pgm", ".pnm", ".ppm"),
}
# What folders of splits are called, in small letters.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
}
COUNTED_AT_MOST = 10_000  # files that are left out
# Of macOS and of network disks, with pictures of their own.
SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")

Classes = dict[str, list[Path]]


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder.

    Args:
        train: those of each class; the classes by name, the pictures by path.
        test: those of the test split, if there is one.
        remarks: what is left out, and what was assumed.
    """

    train: Classes
    test: Classes
    remarks: list[str]

    @property
    def files(self) -> list[Path]:
        """Return all pictures, in the order in which they are read."""
        return [
            file for part in (self.train, self.test) for files in part.values() for file in files
        ]


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


def list_pictures(folder: Path) -> Listing:
    """Return the pictures of ``folder``: one subfolder a class, or such folders for each split.

    Links are followed, hidden entries skipped.

    Raises:
        InputError: the folders are neither, a link leads nowhere or to a folder that is read
            already, or a class has no pictures.
    """
    splits = _splits(folder)
    train = splits.get("train", folder)
    test = splits.get("test", splits.get("val"))
    # A link to what it lies in leads around in a circle.
    seen = {os.path.realpath(part) for part in (folder, train)}
    seen.update(map(str, folder.resolve().parents))
    left_out: Counter[str] = Counter()
    listing = Listing(
        _by_class(train, seen, left_out), _by_class(test, seen, left_out) if test else {}, []
    )
    if unknown := sorted(listing.test.keys() - listing.train.keys()):
        raise InputError(f"{test / unknown[0]}: no such class in {train}")
    for entry in _visible(folder) if splits else ():
        if Path(entry.path) not in (train, test):
            _count_left_out(entry, seen, left_out)
    if test and "test" not in splits:
        listing.remarks.append(f"{test} is taken for the test split")
    if left_out:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(left_out.items()))
        listing.remarks.append(f"data.path={folder}: left out are {counts}")
    return listing


def stamps(files: Iterable[Path], folder: Path) -> list[tuple[str, int, int, int]]:
    """Return the relative name, the bytes, and when content and file changed (ns), of each file.

    A file that was copied with its date, or unpacked, has another time of change.
    """
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name, stat in stats]


def _splits(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; none where the subfolders are classes."""
    folders = [entry for entry in _visible(folder) if entry.is_dir()]
    named = [entry for entry in folders if entry.name.lower() in SPLITS]
    splits: dict[str, Path] = {}
    for entry in named:
        # A class may be called "train", too: it holds pictures and no folders.
        if any(inner.is_dir() for inner in _visible(entry.path)):
            split = SPLITS[entry.name.lower()]
            if split in splits:
                raise InputError(f"{splits[split]} and {entry.path}: which is the split {split!r}?")
            splits[split] = Path(entry.path)
    if "train" not in splits and (splits or (named and len(named) == len(folders))):
        names = ", ".join(entry.name for entry in named)
        raise InputError(
            f"data.path={folder} has {names}, and no train/ with a folder of pictures a class: is "
            "the training split missing, or is data.path one split and not their folder?"
        )
    return splits


def _by_class(folder: Path, seen: set[str], left_out: Counter[str]) -> Classes:
    """Return the pictures in each subfolder of ``folder``: one subfolder a class."""
    classes: Classes = {}
    for entry in _visible(folder):
        if not entry.is_dir():
            left_out[_description_of_left_out(entry)] += 1
            continue
        classes[entry.name] = []
        for file in _files(entry.path, seen):
            if _is_picture(file):
                classes[entry.name].append(Path(file.path))
            else:
                left_out[_description_of_left_out(file)] += 1
        if not classes[entry.name]:
            raise InputError(f"{entry.path} holds no {', '.join(sorted(SUFFIXES))}")
    if not classes:
        raise InputError(f"{folder} has no subfolders: one subfolder of pictures a class is needed")
    return classes


def _count_left_out(entry: os.DirEntry, seen: set[str], left_out: Counter[str]) -> None:
    """Count the file, or those in the folder, that isn't read."""
    if not entry.is_dir():
        left_out[_description_of_left_out(entry)] += 1
        return
    count, place = 0, f"in {entry.name}/"
    # Nobody needs them: they may be links to nowhere, or to half of the disk.
    with contextlib.suppress(InputError, OSError):
        for _ in itertools.islice(_files(entry.path, set(seen)), COUNTED_AT_MOST):
            count += 1
    left_out[place if count < COUNTED_AT_MOST else f"or more {place}"] = count


def _description_of_left_out(entry: os.DirEntry) -> str:
    """Return what messages call files that are left out as this one is."""
    if _is_picture(entry):
        return "outside of the classes' folders"
    return Path(entry.name).suffix or "without a suffix"


def _is_picture(entry: os.DirEntry) -> bool:
    """Return whether this is a file with a picture's suffix."""
    return Path(entry.name).suffix.lower() in SUFFIXES and entry.is_file()


def _visible(folder: str | Path) -> list[os.DirEntry]:
    """Return what ``folder`` holds, by name, but for hidden entries.

    Raises:
        InputError: a link leads nowhere.
    """
    with os.scandir(folder) as unsorted:
        entries = sorted(unsorted, key=lambda entry: entry.name)
    visible = [
        entry
        for entry in entries
        if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS
    ]
    for entry in visible:
        if entry.is_symlink() and not Path(entry.path).exists():
            target = os.path.realpath(entry.path)
            raise InputError(f"{entry.path} is a link to nothing: {target} isn't there")
    return visible


def _files(folder: str, seen: set[str]) -> Iterator[os.DirEntry]:
    """Yield all files below ``folder``, by path; ``seen`` gets the real path of each folder.

    Raises:
        InputError: a folder was seen before: it would be read twice, or without end.
    """
    real_path = os.path.realpath(folder)
    if real_path in seen:
        raise InputError(
            f"{folder} is {real_path}, which is read already or lies around it: remove the link"
        )
    seen.add(real_path)
    for entry in _visible(folder):
        if entry.is_dir():
            yield from _files(entry.path, seen)
        else:
            yield entry
