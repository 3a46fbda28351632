"""Workers as jobs of SLURM: submitted once, watched with squeue, cancelled with the sweep."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from softmark.console import report
from softmark.errors import InputError
from softmark.nodes import short
from softmark.sweep.progress import SweepProgress
from softmark.sweep.slurm_commands import ALIVE, Job, cancel, keys_of, max_array_size, squeue
from softmark.sweep.work_folder import Remaining, WorkFolder

POLL = 2.0  # seconds between two looks at the queue
TOO_LONG = 60.0  # seconds after which it is said why a job waits
USELESS = 3  # jobs in a row that may end without having made anything
SILENCE = 600.0  # seconds for which squeue may fail
# Ends that no stage brings about: they don't count against it.
BLAMELESS = ("BOOT_FAIL", "CANCELLED", "NODE_FAIL", "PREEMPTED", "PENDING")


class Slurm:
    """The jobs of a sweep.

    Args:
        launcher: Hydra's ``submitit_slurm``.
        folder: what there is to do.
        max_workers: jobs at the same time; None for ``array_parallelism``.
        progress: what the live line tells.
    """

    def __init__(
        self,
        launcher: Any,
        folder: WorkFolder,
        max_workers: int | None,
        progress: SweepProgress,
    ):
        self.launcher, self.progress = launcher, progress
        self.name = f"{launcher.params['name']}-{identity(folder)}"
        launcher.params["name"] = self.name
        logs = str(launcher.params["submitit_folder"]).split("%j")[0]
        self.logs = Path(logs).absolute()
        launcher.params["submitit_folder"] = str(self.logs / "%j")
        self.known = squeue(self.name) or {}  # those of an earlier command, too
        self.folder = self._joined(folder)
        self.remaining = Remaining(self.folder)
        self.limit = min(max_workers or launcher.params["array_parallelism"], max_array_size())
        self.first_seen: dict[str, float] = {}
        self.told: set[str] = set()
        self.heard = time.monotonic()  # when squeue last answered
        self.number = 0  # of jobs that were submitted
        self.useless = 0  # jobs in a row that ended as they should not, and made nothing
        self.num_finished = 0  # what was made before the last of them

    def _joined(self, folder: WorkFolder) -> WorkFolder:
        """Return the folder of this sweep's jobs that are queued or running; else ``folder``."""
        pointer = folder.output_dir / "sweeps" / f"{self.name}.json"
        running = [name for name, job in self.known.items() if job.state in ALIVE]
        if running:
            with contextlib.suppress(OSError, ValueError, InputError):
                other = WorkFolder(Path(json.loads(pointer.read_text())))
                if folder.items.keys() <= other.items.keys():
                    report(
                        f"{len(running)} jobs of this sweep are there already: they are waited for "
                        f"(scancel --name={self.name} ends them)"
                    )
                    return other
        pointer.parent.mkdir(parents=True, exist_ok=True)
        pointer.write_text(json.dumps(str(folder.path)))
        return folder

    def run(self, lock: FileLock) -> None:
        """Keep as many jobs as have something to do, until all is finished.

        Args:
            lock: the starter's; of two commands for the same jobs, its holder submits.

        Raises:
            InputError: SLURM refuses the jobs, or none of them gets to work.
        """
        try:
            while wanted := self.remaining.count():
                self._step(wanted, lock)
                time.sleep(POLL)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would leave jobs there
            report(f"cancelled {self._cancel(ALIVE)} jobs of {self.name}")
            raise
        except InputError:
            self._cancel(ALIVE)
            raise
        self._cancel({"PENDING"})  # those that run find that nothing is left

    def _step(self, wanted: int, lock: FileLock) -> None:
        """Look at the queue, and submit what is missing of ``wanted`` jobs."""
        if refusal := self.folder.refusal():
            raise InputError(refusal)
        now, jobs = time.monotonic(), squeue(self.name)
        if jobs is None:
            if now - self.heard > SILENCE:
                raise InputError(f"squeue has failed for {SILENCE:.0f} s: {self.name}")
            return
        self.heard, alive = now, self._look(jobs)
        if self.remaining.num_finished > self.num_finished:
            self.useless = 0
        if not alive and (self.limit < 1 or self.useless >= USELESS):
            raise InputError(
                f"the jobs of {self.name} were cancelled, or end before they have begun anything; "
                f"logs: {self.logs}"
            )
        missing = min(self.limit, wanted) - alive
        if missing > 0 and self.useless < USELESS and holds(lock):
            self._submit(missing)

    def _cancel(self, states: set[str]) -> int:
        """Cancel the jobs of this sweep in these states; return how many there were.

        Those of another command are left to it.
        """
        if not self.number:
            return 0
        jobs = [name for name, job in (squeue(self.name) or {}).items() if job.state in states]
        if jobs:
            cancel(jobs)
        return len(jobs)

    def _submit(self, count: int) -> None:
        """Submit ``count`` jobs."""
        try:
            with without_waiting():
                self.launcher.launch([self.folder.job()] * count, initial_job_idx=self.number)
        except Exception as error:
            said = re.findall(r"sbatch: error: (.*)", str(error)) or [error]
            sentence = short(said[-1])
            raise InputError(
                f"SLURM refused the jobs: {sentence}{self.keys_of(sentence)}; logs: {self.logs}"
            ) from error
        self.number += count
        report(f"{count} jobs of {self.name} submitted; their logs: {self.logs}")

    def _look(self, jobs: dict[str, Job]) -> int:
        """Say what became of jobs since the last look; return how many are queued or running."""
        now = time.monotonic()
        for name in self.known.keys() - jobs.keys():
            jobs[name] = self.known[name]._replace(state="gone")
        for name, job in jobs.items():
            self.first_seen.setdefault(name, now)
            before = self.known.get(name)
            requeued = job.state == "PENDING" and before and before.state == "RUNNING"
            ended = job.state not in ALIVE and (not before or before.state in ALIVE)
            if requeued or ended:
                self._note_end(name, job)
        self.known = jobs
        waiting = {name: job for name, job in jobs.items() if job.state == "PENDING"}
        reasons = Counter(job.reason for job in waiting.values())
        running = sum(job.state == "RUNNING" for job in jobs.values())
        what = ", ".join(f"{count} wait ({reason})" for reason, count in reasons.items())
        self.progress.note = ", ".join(filter(None, [f"{running} jobs run", what]))
        late = {job.reason for name, job in waiting.items()
                if now - self.first_seen[name] > TOO_LONG}  # fmt: skip
        for reason in sorted(late - self.told):
            self.told.add(reason)
            report(f"{reasons[reason]} jobs wait: SLURM's reason is {reason}{self.keys_of(reason)}")
        return sum(job.state in ALIVE for job in jobs.values())

    def keys_of(self, sentence: str) -> str:
        """Return the settings of this launcher that ``sentence`` is about."""
        return keys_of(sentence, self.launcher.params)

    def _note_end(self, name: str, job: Job) -> None:
        """Say how a job ended that should not have, and don't start too many like it."""
        well = job.state in ("COMPLETED", "gone") and self.folder.has_ended(f"{name}-")
        tries = self.folder.tries_of(f"{name}-")
        if job.state == "CANCELLED":
            self.limit -= 1  # by somebody who doesn't want it
        elif not well and not tries and job.state != "PENDING":
            self.useless += 1
            self.num_finished = self.remaining.num_finished
        if job.state in BLAMELESS:
            for note in tries:
                note.unlink(missing_ok=True)
        if not well:
            report(f"job {name} ({job.node or 'on no node'}) ended as {job.state}"
                   f"{self.keys_of(job.state)}; its log: {self.logs / name}")  # fmt: skip


def identity(folder: WorkFolder) -> str:
    """Return 8 hex digits that are the same for the same cells in the same output_dir."""
    cells = [str(folder.output_dir), *sorted(map(json.dumps, folder.cells))]
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()[:8]


def holds(lock: FileLock) -> bool:
    """Return whether this process holds ``lock``, or has it from now on."""
    if not lock.is_locked:
        with contextlib.suppress(Timeout):
            lock.acquire()
    return lock.is_locked


@contextlib.contextmanager
def without_waiting() -> Iterator[None]:
    """Let the launcher return as soon as it has submitted: it would wait by sacct, job by job."""
    from submitit.slurm.slurm import SlurmJob

    SlurmJob.results = lambda job: [None]
    try:
        yield
    finally:
        del SlurmJob.results
