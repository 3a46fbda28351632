"""A sweep: its cells, the stages that they share, and the order in which workers make them.

Any launcher of Hydra's gets the shared stages first, each once and parents before children, and the
cells last. So no worker waits for a stage that another one makes.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmark.console import report
from softmark.errors import InputError
from softmark.experiment.cell import Config, Plan
from softmark.experiment.planner import Planner
from softmark.experiment.record import read_record
from softmark.store.address import Stage
from softmark.store.store import Store
from softmark.sweep.compose import CellComposer
from softmark.sweep.progress import SweepProgress, file_stamp
from softmark.sweep.workers import make_stages

Job = list[str]
ROLES = ("victim", "control", "innocent", "watermarked", "key", "evidence", "suspect")


@dataclass(frozen=True)
class Task:
    """The overrides of a worker's job, and the file or folder that exists when it is done."""

    job: Job
    result: Path


class Sweep:
    """The cells of a sweep that aren't done, and the stages that they miss.

    Args:
        cells: The overrides of each cell.
    """

    def __init__(self, cells: list[Job]):
        self.missing: dict[str, tuple[Stage, Job]] = {}  # by address, with a cell that needs it
        self.stored: set[str] = set()
        self.num_users: Counter[str] = Counter()  # cells that need a stage, by its address
        self.tasks: list[Task] = []
        self.unplanned: list[Job] = []
        self.num_done = 0
        self.store: Store | None = None
        self.composer, planner = CellComposer(), Planner()
        for job in cells:
            try:
                config = self.composer.compose(job)
                planner.decode(config)
                self._add(job, planner.plan(config))
            except InputError:
                # The cell itself will say what is wrong.
                self.unplanned.append(job)

    def _add(self, job: Job, cell: Plan) -> None:
        self.store = Store.under(cell.config["output_dir"], report)
        try:
            record = read_record(cell.record)
        except InputError:
            record = None
        if record and record["status"] == "done":
            self.num_done += 1
            return
        self.tasks.append(Task(job, cell.record))
        todo, seen = list(cell.verdict.parents), set()
        while todo:
            stage = todo.pop()
            if stage.address in seen or stage.address in self.stored:
                continue
            seen.add(stage.address)
            if stage.address not in self.missing and self.store.has(stage):
                self.stored.add(stage.address)
                continue
            self.missing.setdefault(stage.address, (stage, job))
            todo += stage.parents
        self.num_users.update(seen)

    def waves(self, max_jobs: int | None) -> list[list[Task]]:
        """Return the missing stages that several cells share, in waves: parents come earlier.

        A stage that one cell alone needs is left to it: another job would cost the time to start.

        Args:
            max_jobs: Into about how many jobs each wave is cut; None for a job for each stage.
        """
        depths: dict[str, int] = {}

        def depth_of(stage: Stage) -> int:
            if stage.address not in depths:
                missing = [parent for parent in stage.parents if parent.address in self.missing]
                depths[stage.address] = 1 + max(map(depth_of, missing), default=-1)
            return depths[stage.address]

        levels: dict[int, dict[str, list[Stage]]] = {}
        for stage, job in self.missing.values():
            if self.num_users[stage.address] > 1 or len(self.tasks) == 1:
                stages_by_job = levels.setdefault(depth_of(stage), {})
                stages_by_job.setdefault("\n".join(job), []).append(stage)
        waves = []
        for _, stages_by_job in sorted(levels.items()):
            total = sum(map(len, stages_by_job.values()))
            size = math.ceil(total / max_jobs) if max_jobs else 1
            waves.append(
                [
                    self._task(job.split("\n"), stages[start : start + size])
                    for job, stages in stages_by_job.items()
                    for start in range(0, len(stages), size)
                ]
            )
        return waves

    def _task(self, job: Job, stages: list[Stage]) -> Task:
        names = ",".join(f"{stage.role}/{stage.address}" for stage in stages)
        return Task([*job, f"only=[{names}]"], self.store.folder(stages[-1]))

    def run(self, launcher: Any, max_parallel: int | None) -> list[Any]:
        """Launch what is missing.

        Args:
            launcher: Hydra's.
            max_parallel: How many jobs a launch has at most; None for all at once.
        """
        report(self.summary())
        if getattr(launcher, "_EXECUTOR", "") == "local":
            # It would start all jobs at once, each with as many threads as there are cores.
            cores = os.cpu_count() or 1
            max_parallel = max_parallel or cores
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // max_parallel)))
        single_worker = "basic" in type(launcher).__module__
        cells = [*self.tasks, *(Task(job, Path(os.devnull)) for job in self.unplanned)]
        # Hydra's own launcher runs one cell after another: what they miss is made before them.
        shared = [] if single_worker else self.waves(max_parallel or num_joblib_jobs(launcher))
        number = 0
        with self.progress().shown():
            if single_worker:
                self.make_missing()
            for wave in filter(None, [*shared, cells]):
                size = max_parallel or len(wave)
                for start in range(0, len(wave), size):
                    number = launch(launcher, wave[start : start + size], number)
        return []

    def make_missing(self) -> None:
        """Make what the cells miss with several processes; each cell makes what they left."""
        if not self.missing:
            return
        from softmark.experiment.run import check

        # What a cell that can't run needs is left to it: it says why before anything is trained.
        refused: set[tuple[str, ...]] = set()
        for job in {tuple(job) for _, job in self.missing.values()}:
            try:
                check(self.composer.compose(job))
            except InputError:
                refused.add(job)
        stages = {
            address: stage
            for address, (stage, job) in self.missing.items()
            if tuple(job) not in refused
        }

        def config_of(address: str) -> Config:
            return self.composer.compose(self.missing[address][1])

        if stages:
            make_stages(stages, config_of, config_of(next(iter(stages)))["trainer"], self.store)

    def progress(self) -> SweepProgress:
        """Return what counts this sweep's cells and stages from now on."""
        roles = {self.store.folder(stage): stage.role for stage, _ in self.missing.values()}
        return SweepProgress([task.result for task in self.tasks], roles)

    def summary(self) -> str:
        """Return one line: the cells to judge, those done before, and the stages to make."""
        roles = Counter(stage.role.split("/")[0] for stage, _ in self.missing.values())
        stages = ", ".join(f"{roles[role]} {role}" for role in ROLES if roles[role]) or "none"
        cells = len(self.tasks) + len(self.unplanned)
        return f"{cells} cells to judge, {self.num_done} done before; stages to make: {stages}"


def num_joblib_jobs(launcher: Any) -> int | None:
    """Return into how many jobs a wave is cut for joblib; None for another launcher.

    Four for each worker, so that one with the slower stages doesn't keep the others waiting. A job
    for each stage would take .3 s more for each, to compose its config.
    """
    workers = (getattr(launcher, "joblib", None) or {}).get("n_jobs")
    if workers and workers < 0:
        workers += 1 + (os.cpu_count() or 1)
    return 4 * workers if workers else None


def launch(launcher: Any, tasks: list[Task], number: int) -> int:
    """Launch ``tasks`` until each is done, and return the number of the next job.

    Some launchers lose all jobs with one worker. What is missing is launched again, last first, so
    that a job which kills its worker doesn't keep those after it from their turn; no more once two
    launches in a row got nothing done.
    """
    fruitless = 0
    while tasks and fruitless < 2:
        stamps = [file_stamp(task.result) for task in tasks]
        number += len(tasks)
        try:
            launcher.launch([task.job for task in tasks], initial_job_idx=number - len(tasks))
            return number
        except Exception as error:
            pairs = zip(tasks, stamps, strict=True)
            left = [task for task, stamp in pairs if file_stamp(task.result) == stamp]
            report(f"a worker was lost ({type(error).__name__}): {len(left)} jobs are not done")
            fruitless = fruitless + 1 if len(left) == len(tasks) else 0
            tasks = left[::-1]
    return number
