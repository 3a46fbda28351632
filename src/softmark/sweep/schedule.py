"""A sweep: its cells, the stages that they share, and the waves in which workers make them.

Whatever launcher Hydra was given gets the stages first, each once and parents before children, and
the cells last. So no worker waits for a stage that another one makes.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from softmark.console import report
from softmark.errors import InputError
from softmark.experiment.plan import Plan, plan
from softmark.experiment.record import read_record
from softmark.store.address import Stage
from softmark.store.store import Store, manifest
from softmark.sweep.cells import compose_all, composed

Job = list[str]
ROLES = ("victim", "control", "innocent", "watermarked", "key", "evidence", "suspect")


@dataclass(frozen=True)
class Task:
    """One thing for a worker: the overrides of its job, and what exists when it is done."""

    job: Job
    result: Path

    def stamp(self) -> tuple[int, int] | None:
        """Another one as soon as the result was written anew; no clock is trusted."""
        try:
            found = self.result.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns


class Sweep:
    """``cells``: the overrides of each. What is done already isn't done again."""

    def __init__(self, cells: list[Job]):
        self.stages: dict[str, tuple[Stage, Job]] = {}
        self.needed: Counter[str] = Counter()  # by how many cells
        self.there: set[str] = set()
        self.tasks: list[Task] = []
        self.unplanned: list[Job] = []
        self.done = 0
        self.store: Store | None = None
        compose_all(cells)
        for job in cells:
            try:
                self._add(job, plan(composed(job)))
            except InputError:
                # The cell itself will say what is wrong.
                self.unplanned.append(job)

    def _add(self, job: Job, cell: Plan) -> None:
        self.store = Store.under(cell.config["output_dir"])
        try:
            record = read_record(cell.record)
        except InputError:
            record = None
        if record and record["status"] == "done":
            self.done += 1
            return
        self.tasks.append(Task(job, cell.record))
        todo, seen = list(cell.verdict.parents), set()
        while todo:
            stage = todo.pop()
            if stage.address in seen or stage.address in self.there:
                continue
            seen.add(stage.address)
            if stage.address not in self.stages and self.store.has(stage):
                self.there.add(stage.address)
                continue
            self.stages.setdefault(stage.address, (stage, job))
            todo += stage.parents
        self.needed.update(seen)

    def waves(self, jobs: int | None) -> list[list[Task]]:
        """The missing stages that several cells share, those without missing parents first.

        What one cell alone needs, it makes itself: another job would only cost the time to start.
        With a number of ``jobs``, a wave is cut into not many more than those.
        """
        depth: dict[str, int] = {}

        def deep(stage: Stage) -> int:
            if stage.address not in depth:
                above = [deep(parent) for parent in stage.parents if parent.address in self.stages]
                depth[stage.address] = 1 + max(above, default=-1)
            return depth[stage.address]

        found: dict[int, dict[str, list[Stage]]] = {}
        for stage, job in self.stages.values():
            if self.needed[stage.address] > 1 or len(self.tasks) == 1:
                found.setdefault(deep(stage), {}).setdefault("\n".join(job), []).append(stage)
        waves = []
        for level in sorted(found):
            total = sum(map(len, found[level].values()))
            size = math.ceil(total / jobs) if jobs else 1
            waves.append(
                [
                    self._task(job.split("\n"), stages[start : start + size])
                    for job, stages in found[level].items()
                    for start in range(0, len(stages), size)
                ]
            )
        return waves

    def _task(self, job: Job, stages: list[Stage]) -> Task:
        names = ",".join(f"{stage.role}/{stage.address}" for stage in stages)
        return Task([*job, f"only=[{names}]"], self.store.folder(stages[-1]))

    def run(self, launcher: Any, at_once: int | None) -> list[Any]:
        """Launches what is missing; ``at_once``: so many jobs a launch at most, None for all."""
        report(self.summary())
        if getattr(launcher, "_EXECUTOR", "") == "local":
            # It would start all jobs at once, each with as many threads as there are cores.
            cores = os.cpu_count() or 1
            at_once = at_once or cores
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // at_once)))
        alone = "basic" in type(launcher).__module__
        cells = [*self.tasks, *(Task(job, Path(os.devnull)) for job in self.unplanned)]
        # One worker never waits for another: it makes each stage when a cell needs it.
        waves = [cells] if alone else [*self.waves(at_once or shares(launcher)), cells]
        number = 0
        with SweepProgress(self).shown():
            for wave in filter(None, waves):
                size = at_once or len(wave)
                for start in range(0, len(wave), size):
                    number = launch(launcher, wave[start : start + size], number)
        return []

    def summary(self) -> str:
        """One line: the cells to judge, those done before, and the stages to make by role."""
        roles = Counter(stage.role.split("/")[0] for stage, _ in self.stages.values())
        stages = ", ".join(f"{roles[role]} {role}" for role in ROLES if roles[role]) or "none"
        cells = len(self.tasks) + len(self.unplanned)
        return f"{cells} cells to judge, {self.done} done before; stages to make: {stages}"


def shares(launcher: Any) -> int | None:
    """Into how many jobs joblib's workers are given a wave; None for what isn't joblib.

    A few for each worker, so that one with the slower stages doesn't keep the others waiting: a job
    of its own for every stage takes .3 s more a stage, for its config.
    """
    workers = (getattr(launcher, "joblib", None) or {}).get("n_jobs")
    if workers and workers < 0:
        workers += 1 + (os.cpu_count() or 1)
    return 4 * workers if workers else None


def launch(launcher: Any, tasks: list[Task], number: int) -> int:
    """Launches ``tasks`` until each is done; the number of the next job.

    Some launchers lose all jobs with one worker. What is missing is launched again, last first, so
    that a job which kills its worker doesn't keep those after it from their turn; no more once two
    launches in a row got nothing done.
    """
    fruitless = 0
    while tasks and fruitless < 2:
        before = [task.stamp() for task in tasks]
        number += len(tasks)
        try:
            launcher.launch([task.job for task in tasks], initial_job_idx=number - len(tasks))
            return number
        except Exception as error:
            left = [task for task, old in zip(tasks, before, strict=True) if task.stamp() == old]
            report(f"a worker was lost ({type(error).__name__}): {len(left)} jobs are not done")
            fruitless = fruitless + 1 if len(left) == len(tasks) else 0
            tasks = left[::-1]
    return number


class LiveLine:
    """stderr with a live line at its end; whatever is written comes before that line.

    It says that it is no terminal, so that nothing else draws a bar of its own there.
    """

    def __init__(self, screen: TextIO):
        self.screen = screen
        self.whole = True  # whether the cursor stands where a line begins
        self.lock = threading.RLock()

    def write(self, text: str) -> int:
        with self.lock:
            self.screen.write(f"\r\033[K{text}" if self.whole else text)
            self.whole = text.endswith("\n")
        return len(text)

    def draw(self, line: str) -> None:
        with self.lock:
            if self.whole:
                self.screen.write(f"\r\033[K{line}")
                self.screen.flush()

    def flush(self) -> None:
        self.screen.flush()

    def isatty(self) -> bool:
        return False


@contextlib.contextmanager
def above_the_line() -> Iterator[LiveLine | None]:
    """stderr with a live line at its end; None, and nothing changes, where it is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.redirect_stderr(LiveLine(sys.stderr)) as stderr:
        yield stderr


class SweepProgress:
    """On a terminal, one line about the whole sweep, renewed each second."""

    def __init__(self, sweep: Sweep):
        self.sweep = sweep
        self.started = time.monotonic()
        self.before = {task.result: task.stamp() for task in sweep.tasks}

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        over = threading.Event()
        with above_the_line() as stderr:
            if stderr is None:
                yield
                return

            def renew() -> None:
                while not over.wait(1):
                    stderr.draw(self.line())

            thread = threading.Thread(target=renew, daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                stderr.draw("")

    def line(self) -> str:
        """Cells done and failed, stages made and in the making, and about how long it will take."""
        folders = {self.sweep.store.folder(s): s.role for s, _ in self.sweep.stages.values()}
        made = [folder for folder in folders if folder.exists()]
        making = sum(folder.with_suffix(".making").exists() for folder in folders)
        judged = [t for t in self.sweep.tasks if t.stamp() != self.before[t.result]]
        failed = sum(_failed(task.result) for task in judged)
        parts = [
            f"cells {len(judged)}/{len(self.sweep.tasks)}" + (f" ({failed} failed)" * bool(failed)),
            f"stages {len(made)}/{len(folders)}, {making} in the making",
            self._left(folders, made),
        ]
        return " · ".join(filter(None, parts))

    def _left(self, folders: dict[Path, str], made: list[Path]) -> str:
        """From the seconds that each role has taken so far; nothing before there are any."""
        taken: dict[str, list[float]] = {}
        for folder in made:
            taken.setdefault(folders[folder].split("/")[0], []).append(manifest(folder)["seconds"])
        spent = [second for seconds in taken.values() for second in seconds]
        if not spent or len(made) == len(folders):
            return ""
        usual = {role: sum(seconds) / len(seconds) for role, seconds in taken.items()}
        mean = sum(spent) / len(spent)
        waiting = [role.split("/")[0] for folder, role in folders.items() if folder not in made]
        work = sum(usual.get(role, mean) for role in waiting)
        # Several workers make more than a second's work in a second.
        left = work * (time.monotonic() - self.started) / sum(spent)
        minutes, seconds = divmod(round(left), 60)
        return f"about {minutes}:{seconds:02d} left"


def _failed(record: Path) -> bool:
    try:
        return (read_record(record) or {}).get("status") == "failed"
    except InputError:
        return False
