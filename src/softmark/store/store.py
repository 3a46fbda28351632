"""Where artefacts lie: a store that makes each stage exactly once.

Nothing here imports torch, so that records are found in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from softmark.errors import InputError
from softmark.store.address import Stage
from softmark.store.lock import locked

# What a folder that can't be written, or a disk that is full, raises.
_UNWRITABLE = {
    errno.EACCES,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
}

TRAINING = ".training"  # suffix of the folder of an unfinished stage's checkpoints

Make = Callable[[Stage, Path], dict[str, Any]]


class Store:
    """Folders ``root/ROLE/ADDRESS``, each complete or absent.

    A stage is made under a lock, in a folder of its own, and renamed when it is complete: two
    processes never make it twice, and one that is killed leaves nothing that a later run trusts.

    Args:
        root: where the folders lie.
        report: gets one line for each stage that is made.

    Example:
        >>> def make(stage, folder):
        ...     (folder / "hello.txt").write_text("hello")
        ...     return {"letters": 5}
        >>> store = Store(folder, report=lambda line: None)
        >>> stage = Stage("victim", {"seed": 0}, ("softmark.training:Classifier",))
        >>> manifest(store.once(stage, make))["notes"]
        {'letters': 5}
        >>> store.has(stage), len(store.made)
        (True, 1)
    """

    def __init__(self, root: Path, report: Callable[[str], None]):
        self.root = root
        self.report = report
        self.made: list[Stage] = []

    @classmethod
    def under(cls, output_dir: str, report: Callable[[str], None] = lambda line: None) -> Store:
        """Return the store of an experiment's ``output_dir``."""
        return cls(Path(output_dir) / "store", report)

    def folder(self, stage: Stage) -> Path:
        """Return where ``stage`` lies, or will."""
        return self.root / stage.role.split("/")[0] / stage.address

    def has(self, stage: Stage) -> bool:
        """Return whether ``stage`` is there with every file as it was written."""
        return _is_complete(self.folder(stage))

    def once(self, stage: Stage, make: Make, wait: bool = True) -> Path:
        """Return the folder of ``stage``, made now if it isn't there, its parents first.

        Args:
            stage: what is needed.
            make: writes a stage into an empty folder; what it returns goes into ``stage.json``.
            wait: for another process that makes it now.

        Raises:
            Timeout: of ``filelock``: another process makes it, and ``wait`` is False.
        """
        folder = self.folder(stage)
        if _is_complete(folder):
            return folder
        for parent in stage.parents:
            self.once(parent, make, wait)
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with locked(folder.with_suffix(".lock"), self.root, -1 if wait else 0):
                # Another process may have made it while this one waited.
                if not _is_complete(folder):
                    self._make(stage, folder, make)
        return folder

    def _make(self, stage: Stage, folder: Path, make: Make) -> None:
        """Make ``stage`` in a folder beside ``folder``, and rename that."""
        if folder.exists():
            self.report(f"{folder} is damaged: it is made anew")
        unfinished = folder.with_suffix(".making")
        # Nobody else holds the lock, so what lies here was left by a process that was killed.
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir()
        start = time.perf_counter()
        try:
            notes = make(stage, unfinished)
            seconds = round(time.perf_counter() - start, 3)
            _write_manifest(stage, unfinished, {"seconds": seconds, "notes": notes})
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.made.append(stage)
        self.report(f"made {stage.role:<24} {stage.address}  {seconds:7.1f} s")


def manifest(folder: Path) -> dict[str, Any]:
    """Return ``stage.json`` of a stage's folder: role, config, parents, files, seconds, notes."""
    return json.loads((folder / "stage.json").read_text())


def _is_complete(folder: Path) -> bool:
    """Return whether the folder is there with every file as it was written."""
    try:
        files = manifest(folder)["files"]
        return all(_sha256(folder / name) == digest for name, digest in files.items())
    # No such file, no JSON, JSON of another shape.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_manifest(stage: Stage, folder: Path, facts: dict[str, Any]) -> None:
    """Write ``stage.json``: what the stage is, its files as they are now, and ``facts``."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    about = {
        "role": stage.role,
        "address": stage.address,
        "config": stage.config,
        "parents": [f"{parent.role}:{parent.address}" for parent in stage.parents],
        "files": {str(path.relative_to(folder)): _sha256(path) for path in paths},
        **facts,
    }
    (folder / "stage.json").write_text(json.dumps(about, indent=1) + "\n")


def _sha256(path: Path) -> str:
    """Return the hex SHA-256 of the file ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the errors of a folder that can't be written into a message about it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number not in _UNWRITABLE:
            raise
        reason = os.strerror(number)
        raise InputError(f"{path}: {reason}; output_dir=DIR writes elsewhere") from error


def _errno(error: OSError | SafetensorError) -> int | None:
    """Return the system's number of ``error``; None where it has none."""
    if isinstance(error, OSError):
        return error.errno
    # safetensors gives the system's error number in its message alone.
    match = re.search(r"os error (\d+)", str(error))
    return int(match[1]) if match else None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a part of one."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
