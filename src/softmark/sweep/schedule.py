"""A sweep: its cells, the stages that they miss, and who makes them.

Any launcher of Hydra's starts workers: each takes stages and cells from the plan as they become
ready, until none is left. Hydra's own runs one cell after another, after processes of this machine
have made what the cells miss.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from softmark.console import report
from softmark.errors import InputError
from softmark.experiment.cell import Config, Plan
from softmark.experiment.planner import Planner
from softmark.experiment.record import read_record
from softmark.store.address import Stage
from softmark.store.store import Store
from softmark.sweep.compose import CellComposer
from softmark.sweep.launch import run_workers
from softmark.sweep.progress import SweepProgress
from softmark.sweep.work_folder import Item, WorkFolder
from softmark.sweep.workers import make_stages

Job = list[str]
ROLES = (
    "victim",
    "control",
    "innocent",
    "watermarked",
    "key",
    "certificate",
    "evidence",
    "suspect",
)


class Sweep:
    """The cells of a sweep that aren't done, and the stages that they miss.

    Args:
        cells: The overrides of each cell.
        config: Of the sweep, as Hydra composed it; None outside of Hydra.
    """

    def __init__(self, cells: list[Job], config: DictConfig | None = None):
        self.missing: dict[str, tuple[Stage, Job]] = {}  # by address, with a cell that needs it
        self.folders: dict[str, Path] = {}  # where they will lie
        self.stored: set[str] = set()
        self.users: dict[str, list[int]] = {}  # the places of cells that need a missing stage
        self.cells: list[Job] = []  # that aren't done, with their plans
        self.plans: list[Plan] = []
        self.unplanned: list[Job] = []
        self.num_done = 0
        self.store: Store | None = None
        self.composer, planner = CellComposer(config), Planner()
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
        self.cells.append(job)
        self.plans.append(cell)
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
            self.folders.setdefault(stage.address, self.store.folder(stage))
            todo += stage.parents
        for address in seen:
            self.users.setdefault(address, []).append(len(self.cells) - 1)

    def run(self, launcher: Any, max_workers: int | None, folder: Path) -> None:
        """Make and judge what is missing.

        Args:
            launcher: Hydra's.
            max_workers: How many workers there are at most; None for the launcher's own number.
            folder: Of this sweep, for its plan and logs.

        Raises:
            InputError: The launcher, or a machine of its, refuses.
        """
        report(self.summary())
        jobs = [*self.cells, *self.unplanned]
        if not jobs:
            return
        if getattr(launcher, "_EXECUTOR", "") == "local":
            # Its workers would have as many threads as there are cores, each.
            cores = os.cpu_count() or 1
            threads = max(1, cores // (max_workers or cores))
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        progress = self.progress()
        with progress.shown():
            if "basic" in type(launcher).__module__:
                # It runs one cell after another: what they miss is made before them.
                self.make_missing()
                launcher.launch(jobs, initial_job_idx=0)
                return
            path = folder.absolute() / "work"
            output_dir = str(self.store.root.parent) if self.store else "."
            work = WorkFolder.create(path, jobs, self.items(), output_dir)
            run_workers(launcher, work, max_workers, progress)

    def items(self) -> dict[str, Item]:
        """Return what workers have to do: missing stages, then cells, by address."""
        items = {}
        for address, (stage, _) in self.missing.items():
            parents = tuple(p.address for p in stage.parents if p.address in self.missing)
            folder = str(self.folders[address])
            items[address] = Item(stage.role, folder, parents, tuple(self.users[address]))
        for place, cell in enumerate(self.plans):
            needed = (stage.address for stage in cell.verdict.parents)
            parents = tuple(address for address in needed if address in self.missing)
            # A cell may be there twice, with settings that decide nothing.
            items.setdefault(cell.verdict.address, Item("cell", "", parents, (place,)))
        for place in range(len(self.plans), len(self.plans) + len(self.unplanned)):
            items[f"cell-{place}"] = Item("cell", "", (), (place,))
        return items

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
        roles = {self.folders[name]: stage.role for name, (stage, _) in self.missing.items()}
        return SweepProgress([cell.record for cell in self.plans], roles)

    def summary(self) -> str:
        """Return one line: the cells to judge, those done before, and the stages to make."""
        roles = Counter(stage.role.split("/")[0] for stage, _ in self.missing.values())
        stages = ", ".join(f"{roles[role]} {role}" for role in ROLES if roles[role]) or "none"
        cells = len(self.cells) + len(self.unplanned)
        return f"{cells} cells to judge, {self.num_done} done before; stages to make: {stages}"
