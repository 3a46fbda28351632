"""Processes that make the missing stages of cells, each stage as soon as its parents are there."""

from __future__ import annotations

import functools
import multiprocessing
import multiprocessing.connection
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from softmark.console import quiet
from softmark.errors import InputError
from softmark.experiment.cell import Config, Plan
from softmark.experiment.run import make_all, missing_stages
from softmark.store.address import Stage
from softmark.store.lock import can_lock
from softmark.store.store import Store
from softmark.sweep.queue import Queue


def make_cell(cell: Plan, store: Store) -> None:
    """Make the missing stages of one cell with several processes, then what they left."""
    missing = missing_stages(cell, store)
    make_stages(missing, lambda address: cell.config, cell.config["trainer"], store)
    make_all(cell, store)


def make_stages(
    stages: Mapping[str, Stage],
    config_of: Callable[[str], Config],
    trainer: Mapping[str, Any],
    store: Store,
) -> None:
    """Make ``stages`` with several processes; leave to the cells what fails or is lost.

    Nothing is made where one process is as good: with one worker, on a GPU, for a single
    stage, on a file system without locks.

    Args:
        stages: those that the store lacks, by address, with all missing ancestors.
        config_of: the config of a cell that needs the stage of an address.
        trainer: the config node: ``accelerator``, ``threads`` of a worker, ``workers``.
        store: where they go.

    Raises:
        InputError: ``trainer`` asks for what can't be had.
    """
    if (most := trainer["workers"]) is not None and most < 1:
        raise InputError(f"trainer.workers={most}: at least 1 (or null for one a core)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(most or cores or 1, len(stages))
    if workers < 2:
        return
    # Here, and all that stages need: the workers are copies of this process.
    import softmark.experiment.stages  # noqa: F401
    from softmark.devices import choose_device

    if choose_device(trainer["accelerator"]).type == "cuda" or not can_lock(store.root):
        return
    threads = trainer["threads"] or max(1, (cores or 1) // workers)
    # A copy of a process whose OpenMP has worked would wait forever in a second thread of it.
    forks = sys.platform == "linux" and threads == 1
    context = multiprocessing.get_context("fork" if forks else "spawn")
    settings = (trainer["accelerator"], threads)
    with ProcessPoolExecutor(workers, context, _begin_worker, settings) as pool:

        def submit(stage: Stage) -> Future:
            return pool.submit(_make, config_of(stage.address), stage)

        try:
            _run(stages, submit, workers, store)
        except BrokenProcessPool:
            store.report("a worker was lost: each cell makes what it misses")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _run(
    stages: Mapping[str, Stage],
    submit: Callable[[Stage], Future],
    workers: int,
    store: Store,
) -> None:
    """Keep ``workers`` processes at work until nothing is left that can be made."""
    parents = {address: [p.address for p in stage.parents] for address, stage in stages.items()}
    queue, running = Queue(parents), {}
    while queue.ready or running:
        while queue.ready and len(running) < workers:
            stage = stages[queue.pop()]
            running[submit(stage)] = stage
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            stage, lines = running.pop(future), future.result()
            # Each cell that needs a stage that failed tries again, and says why.
            if lines is not None:
                queue.finish(stage.address)
                store.made.append(stage)
                for line in lines:
                    store.report(line)


def _begin_worker(accelerator: str, threads: int) -> None:
    """Set up a worker process; what it has to say, it returns."""
    from softmark.devices import compute_on

    sys.stdout, sys.stderr = quiet(sys.stdout, 1), quiet(sys.__stderr__, 2)
    compute_on(accelerator, threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process as soon as the one that started it is gone."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _make(config: Config, stage: Stage) -> list[str] | None:
    """Make ``stage`` in a worker process; return what there is to report, None where it failed."""
    from softmark.experiment.stages import make_stage

    lines: list[str] = []
    store = Store.under(config["output_dir"], lines.append)
    try:
        store.once(stage, functools.partial(make_stage, config))
    except Exception:
        return None  # an exception of any class may not come through a pipe
    return lines
