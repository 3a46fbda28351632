"""The table of a sweep, from the records of its cells; nothing is trained, without torch."""

from __future__ import annotations

import contextlib
import functools
import json
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from softmark.console import report
from softmark.errors import InputError
from softmark.experiment.plan import UNHASHED
from softmark.experiment.planner import Planner
from softmark.experiment.record import read_record, record_of
from softmark.nodes import short
from softmark.report.numbers import MISSING
from softmark.report.rows import Record, Row, filled
from softmark.report.summary import SUMMARY_CAPTION, summary_table
from softmark.report.terminal import print_lines, print_sweep
from softmark.report.wandb_sweep import log_sweep
from softmark.sweep.command_line import cells_of
from softmark.sweep.compose import CellComposer
from softmark.sweep.override_check import parse_override


class Problem(NamedTuple):
    """A cell without result: its overrides, and why."""

    cell: str
    reason: str

    def __str__(self) -> str:
        return f"{self.cell}: {self.reason}"


def by_reason(problems: Sequence[Problem]) -> list[str]:
    """Return a line for each reason, with the first cell that it kept from its result."""
    cells: dict[str, list[str]] = {}
    for problem in problems:
        cells.setdefault(problem.reason, []).append(problem.cell)
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {reason}"
        for reason, (first, *others) in cells.items()
    ]


def gather(
    cells: list[list[str]], sweep: DictConfig | None = None
) -> tuple[list[Row], list[str], list[Problem]]:
    """Return the rows of the table, the keys that vary, and the cells without result.

    Args:
        cells: The overrides of each.
        sweep: The config of the sweep, as Hydra composed it; None outside of Hydra.
    """
    groups: dict[tuple[str, ...], list[tuple[Record | None, bool]]] = {}
    problems: list[Problem] = []
    settings = [dict(map(_setting, cell)) for cell in cells]
    varied = [
        key
        for key in settings[0]
        if key != "seed" and len({setting.get(key) for setting in settings}) > 1
    ]
    varied = list(dict.fromkeys(["method", "attack", *varied]))
    recorded = functools.cache(_recorded_configs)
    composer, planner = CellComposer(sweep), Planner()
    for cell, setting in zip(cells, settings, strict=True):
        name = [setting.get(key, MISSING) for key in varied]
        record: Record | None = None
        stale = False
        try:
            config = composer.compose(cell)
            name[:2] = [config[key]["name"] for key in varied[:2]]
            record = _record(config, planner)
            if record is None:
                stale = _identity(config) in recorded(config["output_dir"])
                reason = "made by older code" if stale else "missing"
                problems.append(Problem(" ".join(cell), reason))
            elif record["status"] == "failed":
                problems.append(Problem(" ".join(cell), record["reason"]))
        except InputError as error:
            problems.append(Problem(" ".join(cell), str(error)))
        groups.setdefault(tuple(name), []).append((record, stale))
    rows = [
        Row(name, tuple(record for record, _ in seeds), sum(stale for _, stale in seeds))
        for name, seeds in groups.items()
    ]
    return rows, varied, problems


def _setting(line: str) -> tuple[str, str]:
    """Return the key of an override, and its value as a person reads it: without quotes."""
    override = parse_override(line)
    value = override.value()
    text = value if isinstance(value, str) else line.partition("=")[2]
    return override.get_key_element(), text


def _identity(config: dict[str, Any]) -> str:
    """Return the settings that make a cell what it is, whatever code runs it."""
    settings = {name: value for name, value in config.items() if name not in UNHASHED}
    return json.dumps(settings, sort_keys=True)


def _recorded_configs(folder: str) -> set[str]:
    """Return the identities of all records, of this and of older code, but for broken ones."""
    identities = set()
    for path in (Path(folder) / "records").glob("*.json"):
        with contextlib.suppress(InputError):
            identities.add(_identity((read_record(path) or {}).get("config") or {}))
    return identities


def _record(config: dict[str, Any], planner: Planner) -> Record | None:
    # Without decoded data nothing can have been recorded.
    record = record_of(planner.plan(config)) if planner.content(config) else None
    return record and filled(record)


class SweepTable(Callback):
    """A callback of Hydra's: ends a sweep with one table of its cells, read from their records.

    Launchers run cells in other processes, so that only files say what became of them.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table; exit with 1 where a cell failed or is missing."""
        # An exception here would only be a warning to Hydra, and the exit status 0.
        try:
            sweep = cells_of(config)
            rows, varied, problems = gather(sweep, config)
        except InputError as error:
            sys.exit(f"error: {error}")
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        try:
            _show(config, rows, varied)
        except Exception as error:
            report(f"no table: {type(error).__name__}: {short(error)}; softmark report writes it")
        if problems:
            report(f"{len(problems)} of {len(sweep)} cells failed or are missing:")
            for line in by_reason(problems):
                report(f"  {line}")
            sys.exit(1)


def _show(config: DictConfig, rows: Sequence[Row], varied: Sequence[str]) -> None:
    """Print the table of a sweep, and log it."""
    print_sweep(rows, varied)
    if summary := summary_table(rows):
        print_lines(summary, SUMMARY_CAPTION)
    log_sweep(config, rows, varied)
