"""A worker of a sweep: one job of a launcher, which makes and judges until nothing is left."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import Timeout
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from softmark.console import QuietStream, quiet, report
from softmark.errors import InputError, reason_of
from softmark.experiment.cell import Config, Plan
from softmark.experiment.planner import Planner
from softmark.experiment.run import check, make_all, run_cell
from softmark.store.address import Stage
from softmark.store.store import TRAINING, Store
from softmark.sweep.compose import CellComposer
from softmark.sweep.progress import file_stamp
from softmark.sweep.queue import Queue
from softmark.sweep.time_limit import TimeLimit
from softmark.sweep.work_folder import BEAT, MAX_LOST, Item, WorkFolder, worker_name

POLL = (0.1, 2.0)  # seconds between two looks at what others make: the first, the longest
PATIENCE = 60.0  # seconds without work after which a job of SLURM's gives its node back

Show = Callable[[dict[str, Any]], None]


def work(path: Path, show: Show, job: DictConfig) -> None:
    """Work for a sweep until nothing is left to take: one job of a launcher calls it.

    Args:
        path: of the sweep's ``WorkFolder``.
        show: gets the record of each cell that was judged.
        job: the config of this job, as Hydra gave it.

    Raises:
        InputError: this machine can't work for it.
    """
    folder = WorkFolder(path)
    with contextlib.suppress(OSError):  # where only output_dir is shared, and named in full
        os.chdir(folder.directory)
    name = worker_name()
    with (
        (path / "logs" / name).open("a", buffering=1) as log,
        contextlib.redirect_stderr(QuietStream(log, "log")),
        contextlib.redirect_stdout(quiet(sys.stdout, 1)),
    ):
        try:
            folder.check_locks()
            with open_dict(job):
                job.hydra = HydraConfig.instance().cfg.hydra
            with ending_with_starter(folder):
                Worker(folder, name, show, job).run()
            folder.note_ended(name)
        except InputError as error:
            report(f"error: {error}")
            raise


@contextlib.contextmanager
def ending_with_starter(folder: WorkFolder) -> Iterator[None]:
    """End this process as soon as the one that started the sweep is gone, while this lasts.

    Nobody would see what a worker of this machine does then. A job of SLURM's goes on: it may have
    waited for days.
    """
    stopped = threading.Event()

    def watch() -> None:
        while not stopped.wait(BEAT):
            if folder.is_left() and not stopped.is_set():
                os._exit(1)

    if "SLURM_JOB_ID" not in os.environ:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        stopped.set()


class Worker:
    """Takes what is ready, and what nobody else has taken.

    Args:
        folder: what there is to do.
        name: of the worker, for its notes.
        show: gets the record of each cell that was judged.
        job: the config of its job, whose settings of Hydra and whose time are the sweep's; None
            outside of Hydra.
    """

    def __init__(self, folder: WorkFolder, name: str, show: Show, job: DictConfig | None = None):
        self.folder, self.name, self.show = folder, name, show
        self.queue = Queue({address: item.parents for address, item in folder.items.items()})
        self.taken: list[str] = []  # by others
        self.composer, self.planner = CellComposer(job, folder.directory), Planner()
        self.stages: dict[str, Stage] = {}
        self.refused: dict[int, str] = {}  # cells whose settings can't work, and why
        self.began = time.monotonic()
        self.num_made = 0
        self.limit = TimeLimit()

    def run(self) -> None:
        """Make and judge until all is finished, the time is up, or there is nothing for too long.

        Only a job of SLURM's gives up for want of work: whoever started it starts another.
        """
        from_slurm = os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
        patience = PATIENCE if from_slurm else float("inf")
        pause, idle = POLL[0], time.monotonic()
        with self.limit.watched():
            while not self.limit.is_up:
                if self._take_one():
                    pause, idle = POLL[0], time.monotonic()
                elif not self.taken or time.monotonic() - idle > patience:
                    break
                else:
                    time.sleep(pause)
                    pause = min(2 * pause, POLL[1])

    def _take_one(self) -> bool:
        """Make or judge one item; return False where none is left that nobody else has taken."""
        for address in [address for address in self.taken if self.folder.finished(address)]:
            self.taken.remove(address)
            self.queue.finish(address)
        while self.queue.ready:
            if self._take(address := self.queue.pop()):
                self.queue.finish(address)
                return True
            self.taken.append(address)
            if self.limit.is_up:
                return False
        # Whoever took it may be dead. One look at a time: many may wait for the same.
        if self.taken and self._take(address := random.choice(self.taken)):
            self.taken.remove(address)
            self.queue.finish(address)
            return True
        return False

    def _take(self, address: str) -> bool:
        """Finish ``address``, unless somebody else is at it; return whether it is finished."""
        try:
            with self.folder.lock(address):
                if not self.folder.finished(address):
                    self._finish(address, self.folder.items[address])
                return self.folder.finished(address)
        except Timeout:
            return False

    def _finish(self, address: str, item: Item) -> None:
        """Make or judge ``address``, or note why it can't be; nobody else does."""
        reason = self.folder.failure(address) or given_up(self.folder.lost(address))
        if item.role == "cell":
            with self._try(address):
                self._judge(item, reason)
                self.folder.note_judged(address)
        elif reason:
            self.folder.note_failed(address, reason)
        else:
            with self._try(address):
                self._make(address, item)

    @contextlib.contextmanager
    def _try(self, address: str) -> Iterator[None]:
        """Keep a note while it is tried; it stays if this process is killed."""
        note = self.folder.begin(address, self.name)
        began, kept = time.monotonic(), self._checkpoints(address)
        try:
            with self.limit.interrupts():
                yield
            self.num_made += 1
        except KeyboardInterrupt:
            if not self.limit.is_up:
                raise
            went_on = self._checkpoints(address) != kept
            self._note_time(address, time.monotonic() - began, went_on)
        finally:
            note.unlink(missing_ok=True)

    def _checkpoints(self, address: str) -> list[tuple[int, int] | None]:
        """Return what changes when a training of the stage keeps its state."""
        folder = Path(self.folder.items[address].folder or os.devnull).with_suffix(TRAINING)
        return [file_stamp(path) for path in sorted(folder.glob("*"))]

    def _note_time(self, address: str, seconds: float, went_on: bool) -> None:
        """Note that the job's time was up before ``address`` was made."""
        item = self.folder.items[address]
        what = f"{item.role} {address}"
        # The whole of the job wasn't enough: another job of the same length won't be either.
        if self.num_made or went_on:
            report(f"{what}: the job's time was up after {seconds:.0f} s; another job goes on")
            return
        limit = HydraConfig.get().launcher.get("timeout_min")
        reason = f"{what} takes longer than a job may: {seconds:.0f} s, and it isn't made"
        self._fail(address, f"{reason}; raise hydra.launcher.timeout_min={limit}")

    def _fail(self, address: str, reason: str) -> None:
        """Note, and say, why ``address`` can't be made."""
        self.folder.note_failed(address, reason)
        report(f"{self.folder.items[address].role} {address} failed: {reason}")

    def _make(self, address: str, item: Item) -> None:
        """Make a stage, or note why it failed; its cells say so."""
        from softmark.experiment.stages import make_stage

        try:
            config = self._config_for(item)
            stage = self._stage(address, config)
            store = Store.under(config["output_dir"], report)
            store.once(stage, functools.partial(make_stage, config), wait=False)
        except Timeout:
            raise  # another sweep makes it
        except Exception as error:
            reason = reason_of(error)
            if not reason:
                traceback.print_exc()
            self._fail(address, reason or str(error) or type(error).__name__)

    def _config_for(self, item: Item) -> Config:
        """Return the config of a cell that needs ``item`` and whose settings can work.

        Raises:
            InputError: there is none.
        """
        for place in item.cells:
            if place in self.refused:
                continue
            config = self.composer.compose(self.folder.cells[place])
            try:
                self.planner.decode(config)
                check(config)
                return config
            except InputError as error:
                self.refused[place] = str(error)
        raise InputError(self.refused[item.cells[0]])

    def _stage(self, address: str, config: Config) -> Stage:
        """Return the stage of ``address``, which the cell ``config`` needs.

        Raises:
            InputError: this machine's software gives it another address.
        """
        if address not in self.stages:
            todo = list(self.planner.plan(config).verdict.parents)
            while todo:
                stage = todo.pop()
                if stage.address not in self.stages:
                    self.stages[stage.address] = stage
                    todo += stage.parents
        if address not in self.stages:
            raise InputError(
                f"{self.name} has no stage {address}: its machine must have the softmark, torch, "
                "Lightning and data of the machine that started the sweep"
            )
        return self.stages[address]

    def _judge(self, item: Item, reason: str | None) -> None:
        """Judge a cell, or record ``reason``, for which it can't be judged."""

        def make(cell: Plan, store: Store) -> None:
            if reason:
                raise InputError(reason)
            make_all(cell, store)

        overrides = self.folder.cells[item.cells[0]]
        try:
            config = self.composer.compose(overrides)
            self.show(run_cell(config, overrides, report, make))
        except Exception as error:
            if text := reason_of(error):
                report(f"error in {' '.join(overrides)}: {text}")
            else:
                traceback.print_exc()


def given_up(lost: list[str]) -> str | None:
    """Return why what these workers were lost with isn't tried again; None where it is."""
    if len(lost) < MAX_LOST:
        return None
    return f"{len(lost)} workers were lost while they made it: {', '.join(lost)}"
