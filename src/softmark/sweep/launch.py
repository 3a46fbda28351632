"""Workers of a sweep, started by a launcher of Hydra's; what they say, shown as they say it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.utils import JobReturn, JobStatus

from softmark.console import report
from softmark.errors import InputError
from softmark.nodes import short
from softmark.sweep.progress import SweepProgress
from softmark.sweep.ray_cluster import connect, num_ray_workers
from softmark.sweep.slurm import Slurm
from softmark.sweep.work_folder import BEAT, Remaining, WorkFolder, starter

FRUITLESS = 2  # launches in a row that may get nothing done


def run_workers(
    launcher: Any, folder: WorkFolder, max_workers: int | None, progress: SweepProgress
) -> None:
    """Start workers of ``folder`` until everything is made and judged, or can't be.

    Args:
        launcher: Hydra's; not its own, which knows no workers.
        folder: the sweep's.
        max_workers: at the same time; None for what the launcher has room for.
        progress: what the live line tells.

    Raises:
        InputError: the launcher, or a machine of its, refuses.
    """
    if getattr(launcher, "_EXECUTOR", "") == "slurm":
        slurm = Slurm(launcher, folder, max_workers, progress)
        with shown(slurm.folder) as lock:
            slurm.run(lock)
        return
    with shown(folder):
        launch(launcher, folder, max_workers or num_workers(launcher))


def num_workers(launcher: Any) -> int:
    """Return how many workers ``launcher`` has room for: by its own setting, else one a core."""
    cores = os.cpu_count() or 1
    if hasattr(launcher, "ray_cfg"):
        connect(launcher.ray_cfg)
        return num_ray_workers(launcher.ray_cfg.remote)
    number = (getattr(launcher, "joblib", None) or {}).get("n_jobs") or cores
    return number if number > 0 else max(1, cores + 1 + number)


def launch(launcher: Any, folder: WorkFolder, max_workers: int) -> None:
    """Launch workers with a launcher that returns when they have ended, until all is finished.

    Some launchers lose all workers with one. What is left is launched again, no more once two
    launches in a row got nothing done.

    Raises:
        InputError: the first launch started no worker.
    """
    remaining, fruitless, number = Remaining(folder), 0, 0
    while remaining.count() and fruitless < FRUITLESS:
        before = remaining.state()
        count = min(max_workers, remaining.num_unfinished)
        try:
            check_returns(launcher.launch([folder.job()] * count, initial_job_idx=number))
        except Exception as error:
            if refusal := folder.refusal():
                raise InputError(refusal) from error
            sentence = f"{type(error).__name__}: {short(error)}"
            if not any((folder.path / "logs").iterdir()):
                raise InputError(
                    f"hydra/launcher: no worker could be started: {sentence}"
                ) from error
            report(f"a worker was lost ({sentence})")
        number += count
        if remaining.count() and fruitless + 1 < FRUITLESS:
            report(f"{remaining.num_unfinished} stages and cells are left: launched again")
        fruitless = 0 if remaining.state() != before else fruitless + 1


def check_returns(returns: Sequence[JobReturn] | None) -> None:
    """Raise the exception that a worker ended with; launchers return them."""
    for returned in returns or ():
        if isinstance(returned, JobReturn) and returned.status == JobStatus.FAILED:
            raise returned._return_value


@contextlib.contextmanager
def shown(folder: WorkFolder) -> Iterator[FileLock]:
    """Show what workers say, and count up for them, while this lasts; yield the starter's lock."""
    logs, stopped = Logs(folder.path / "logs"), threading.Event()
    with starter(folder) as lock:

        def watch() -> None:
            beats = 0
            while not stopped.wait(BEAT):
                logs.show()
                with contextlib.suppress(OSError):
                    if lock.is_locked:
                        (folder.path / "alive").write_text(str(beats := beats + 1))

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield lock
        finally:
            stopped.set()
            thread.join()
            logs.show()


class Logs:
    """What the workers of a sweep say, line by line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.read: dict[Path, int] = {}  # bytes, by file

    def show(self) -> None:
        """Report the whole lines that are new."""
        with contextlib.suppress(OSError):
            for path in sorted(self.folder.iterdir()):
                with path.open("rb") as file:
                    file.seek(self.read.get(path, 0))
                    text, _, _ = file.read().rpartition(b"\n")
                if text:
                    self.read[path] = self.read.get(path, 0) + len(text) + 1
                    report(text.decode(errors="replace"))
