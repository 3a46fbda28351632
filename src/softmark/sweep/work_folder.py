"""The folder through which the workers of a sweep share its work, whatever machine they are on.

plan.json               the cells, and all that is to be made and judged
locks/ADDRESS           held by whoever makes it
tries/ADDRESS/WORKER    a try that has begun; what is left of it tells a worker that was lost
failed/ADDRESS          why it couldn't be made
judged/ADDRESS          a cell has its record
logs/WORKER             what a worker had to say
ended/WORKER            it ended as it should
starter.lock, alive     held, and counted up, by the process that started the sweep
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from softmark.errors import InputError
from softmark.store.lock import can_lock
from softmark.store.store import write_json
from softmark.sweep.queue import Queue

# Workers that may be lost with one stage before it is given up. Three: joblib ends all of them with
# one, and meanwhile a second has often begun what the first was at.
MAX_LOST = 3
BEAT = 1.0  # seconds between two counts of the process that started the sweep


@dataclass(frozen=True)
class Item:
    """A stage to make, or a cell to judge.

    Args:
        role: of the stage; ``cell`` for a cell.
        folder: of the stage; empty for a cell.
        parents: the addresses of the missing stages that it needs.
        cells: the places of the cells that need it; of a cell, its own.
    """

    role: str
    folder: str
    parents: tuple[str, ...]
    cells: tuple[int, ...]


class WorkFolder:
    """The plan of a sweep, and the notes of its workers.

    Args:
        path: a folder that ``create`` has made.

    Raises:
        InputError: there is no such folder on this machine.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            plan = json.loads((path / "plan.json").read_text())
            self.directory: str = plan["directory"]
            self.output_dir = Path(self.directory, plan["output_dir"])
            self.cells: list[list[str]] = plan["cells"]
            self.items = {
                address: Item(role, folder, tuple(parents), tuple(cells))
                for address, (role, folder, parents, cells) in plan["items"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}: {socket.gethostname()} finds no plan of a sweep there "
                f"({type(error).__name__}); output_dir must lie in a folder that all machines share"
            ) from error

    @classmethod
    def create(
        cls, path: Path, cells: Sequence[list[str]], items: Mapping[str, Item], output_dir: str
    ) -> WorkFolder:
        """Return a new one: its plan, and nothing done yet.

        Raises:
            InputError: its file system has no locks, by which workers share work.
        """
        if not can_lock(path):
            raise InputError(
                f"{path}: its file system has no locks, by which workers share work; "
                "hydra/launcher=basic needs none, and output_dir=DIR works elsewhere"
            )
        for name in ("locks", "tries", "failed", "judged", "logs", "ended"):
            (path / name).mkdir(parents=True, exist_ok=True)
        plan = {
            "directory": str(Path.cwd()),
            "output_dir": output_dir,
            "cells": list(cells),
            "items": {address: astuple(item) for address, item in items.items()},
        }
        write_json(path / "plan.json", plan)
        return cls(path)

    def job(self) -> list[str]:
        """Return the overrides of a worker: its paths are absolute, for it may begin anywhere."""
        return [f"worker={quoted(self.path)}", f"hydra.sweep.dir={quoted(self.path / 'jobs')}"]

    def lock(self, address: str) -> FileLock:
        """Return the lock of whoever makes ``address``; it raises ``Timeout`` where it is held."""
        return FileLock(self.path / "locks" / address, timeout=0)

    def finished(self, address: str) -> bool:
        """Return whether ``address`` is made or judged, or can't be."""
        item = self.items[address]
        if item.role == "cell":
            return (self.path / "judged" / address).exists()
        made = Path(self.directory, item.folder, "stage.json").exists()
        return made or (self.path / "failed" / address).exists()

    def note_judged(self, address: str) -> None:
        """Note that a cell has its record, or can't have one."""
        (self.path / "judged" / address).touch()

    def note_failed(self, address: str, reason: str) -> None:
        """Note why a stage can't be made: nobody tries again in this sweep."""
        write_json(self.path / "failed" / address, reason)

    def failure(self, address: str) -> str | None:
        """Return why ``address``, or what it needs, can't be made; None where nothing failed."""
        for failed in (address, *self.items[address].parents):
            with contextlib.suppress(OSError, ValueError):
                return json.loads((self.path / "failed" / failed).read_text())
        return None

    def begin(self, address: str, worker: str, **facts: Any) -> Path:
        """Note that ``worker`` tries to make ``address``; return the note, to be removed."""
        note = self.path / "tries" / address / worker
        write_json(note, facts)
        return note

    def lost(self, address: str) -> list[str]:
        """Return the workers that began ``address`` and never ended: whoever asks has its lock."""
        return sorted(path.name for path in (self.path / "tries" / address).glob("[!.]*"))

    def num_lost(self) -> int:
        """Return how many tries have begun and not ended."""
        return len(self.tries_of("[!.]"))

    def tries_of(self, worker: str) -> list[Path]:
        """Return the tries of workers whose names begin with ``worker`` that haven't ended."""
        return list((self.path / "tries").glob(f"*/{worker}*"))

    def note_ended(self, worker: str) -> None:
        """Note that ``worker`` ended as it should."""
        (self.path / "ended" / worker).touch()

    def has_ended(self, worker: str) -> bool:
        """Return whether a worker whose name begins with ``worker`` ended as it should."""
        return any((self.path / "ended").glob(f"{worker}*"))

    def check_locks(self) -> None:
        """Check that locks are exclusive between this machine and the one that started the sweep.

        The starter holds a lock for as long as it lives. Where this process gets it all the same
        the starter is gone, unless it still counts up.

        Raises:
            InputError: it lives, and its lock is no lock here.
        """
        try:
            with FileLock(self.path / "starter.lock", timeout=0):
                pass
        except Timeout:
            return
        before = self.beat()
        time.sleep(3 * BEAT)
        if self.beat() != before:
            reason = (
                f"{self.path}: {socket.gethostname()} was given a lock that another machine holds; "
                "output_dir must lie on a file system whose flock holds on all machines"
            )
            write_json(self.path / "refused", reason)
            raise InputError(reason)

    def is_left(self) -> bool:
        """Return whether the process that started the sweep is gone."""
        try:
            with FileLock(self.path / "starter.lock", timeout=0):
                return True
        except (Timeout, OSError, NotImplementedError):  # held, or nothing can be locked here
            return False

    def beat(self) -> str:
        """Return what changes while the starter lives."""
        try:
            return (self.path / "alive").read_text()
        except OSError:
            return ""

    def refusal(self) -> str | None:
        """Return why a worker refused the whole sweep; None where none has."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.path / "refused").read_text())
        return None


@contextlib.contextmanager
def starter(folder: WorkFolder) -> Iterator[FileLock]:
    """Hold the lock of the process that starts the workers, where no other does; yield it."""
    # Another thread counts up as long as it is held.
    lock = FileLock(folder.path / "starter.lock", timeout=0, thread_local=False)
    with contextlib.suppress(Timeout):
        lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


class Remaining:
    """What of a sweep is ready or in the making, as far as the files tell."""

    def __init__(self, folder: WorkFolder):
        self.folder = folder
        self.queue = Queue({address: item.parents for address, item in folder.items.items()})
        self.open: list[str] = []
        self.num_finished = 0

    @property
    def num_unfinished(self) -> int:
        """Return how many stages and cells aren't finished, ready or not."""
        return len(self.folder.items) - self.num_finished

    def count(self) -> int:
        """Return how many workers would have something to do now; 0 when all is finished."""
        while True:
            self.open += [self.queue.pop() for _ in range(len(self.queue.ready))]
            finished = [address for address in self.open if self.folder.finished(address)]
            if not finished:
                return len(self.open)
            for address in finished:
                self.open.remove(address)
                self.queue.finish(address)
            self.num_finished += len(finished)

    def state(self) -> tuple[int, int]:
        """Return what changes when a worker gets anything done, or is lost at it."""
        return self.num_finished, self.folder.num_lost()


def worker_name() -> str:
    """Return the name of this worker: its job where it has one, its machine, its process."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    number = f"{job}_{task}" if job else os.environ.get("SLURM_JOB_ID", "worker")
    return f"{number}-{socket.gethostname()}-{os.getpid()}"


def quoted(path: Path) -> str:
    """Return ``path`` as a value of an override, whatever signs it has.

    Example:
        >>> quoted(Path("/data/it's"))
        "'/data/it\\\\'s'"
    """
    text = str(path.absolute()).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"
