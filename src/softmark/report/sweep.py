"""What is recorded of a sweep's cells: nothing is trained, torch isn't needed."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from softmark.console import console, report
from softmark.errors import InputError
from softmark.experiment.plan import UNHASHED, plan
from softmark.experiment.record import read_record, record_of
from softmark.report.intervals import MISSING
from softmark.report.rows import Record, Row, filled
from softmark.report.summary import ABOUT, summary_table
from softmark.report.terminal import plain_table, sweep_table
from softmark.report.wandb_sweep import log_sweep
from softmark.sweep.command_line import expand_sweep
from softmark.sweep.compose import CellComposer


class Trouble(NamedTuple):
    """A cell without result."""

    cell: str
    reason: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.reason}"


def by_reason(trouble: Sequence[Trouble]) -> list[str]:
    """A line for each reason, with the first cell that it kept from its result."""
    cells: dict[str, list[str]] = {}
    for each in trouble:
        cells.setdefault(each.reason, []).append(each.cell)
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {reason}"
        for reason, (first, *others) in cells.items()
    ]


def gather(cells: list[list[str]]) -> tuple[list[Row], list[str], list[Trouble]]:
    """The rows of the table, the names of what varies, and the cells without result."""
    groups: dict[tuple[str, ...], list[tuple[Record | None, bool]]] = {}
    trouble: list[Trouble] = []
    settings = [dict(line.split("=", 1) for line in cell) for cell in cells]
    varied = [
        key
        for key in settings[0]
        if key != "seed" and len({setting.get(key) for setting in settings}) > 1
    ]
    varied = list(dict.fromkeys(["method", "attack", *varied]))
    older = functools.cache(_configs_of_records)
    composer = CellComposer()
    for cell, setting in zip(cells, settings, strict=True):
        name = [setting.get(key, MISSING) for key in varied]
        record: Record | None = None
        stale = False
        try:
            config = composer.compose(cell)
            name[:2] = [config[key]["name"] for key in varied[:2]]
            record = _record(config)
            if record is None:
                stale = _identity(config) in older(config["output_dir"])
                reason = "made by older code" if stale else "missing"
                trouble.append(Trouble(" ".join(cell), reason))
            elif record["status"] == "failed":
                trouble.append(Trouble(" ".join(cell), record["reason"]))
        except InputError as error:
            trouble.append(Trouble(" ".join(cell), str(error)))
        groups.setdefault(tuple(name), []).append((record, stale))
    rows = [
        Row(name, tuple(record for record, _ in found), sum(stale for _, stale in found))
        for name, found in groups.items()
    ]
    return rows, varied, trouble


def _identity(config: dict[str, Any]) -> str:
    """What a cell is, whatever code runs it."""
    own = {key: value for key, value in config.items() if key not in UNHASHED}
    return json.dumps(own, sort_keys=True)


def _configs_of_records(folder: str) -> set[str]:
    """The cells of all records, of this and of older code. One that is broken has none."""
    found = set()
    for path in (Path(folder) / "records").glob("*.json"):
        with contextlib.suppress(InputError):
            found.add(_identity((read_record(path) or {}).get("config") or {}))
    return found


def _record(config: dict[str, Any]) -> Record | None:
    record = record_of(plan(config))
    return record and filled(record)


class SweepTable(Callback):
    """Ends a sweep with one table of its cells, read from their records.

    What a worker did is known from disk alone: launchers run cells in other processes. It exits
    with 1 where a cell failed or is missing.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            sweep = expand_sweep(list(config.hydra.overrides.task))
            rows, varied, trouble = gather(sweep)
        except InputError as error:
            sys.exit(f"error: {error}")
        console().print(sweep_table(rows, varied))
        if summary := summary_table(rows):
            console().print(plain_table(summary, ABOUT))
        log_sweep(config, rows, varied)
        if trouble:
            report(f"{len(trouble)} of {len(sweep)} cells failed or are missing:")
            for line in by_reason(trouble):
                report(f"  {line}")
            # An exception here would only be a warning to Hydra; this is none.
            sys.exit(1)
