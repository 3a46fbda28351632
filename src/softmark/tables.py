"""What a person reads: the verdict of one cell, and a sweep's cells as one table."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softmark.errors import InputError

Record = dict[str, Any]
MISSING = "—"


def report(line: str) -> None:
    """One line of progress, to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.2f} %"


def number(p: float | None) -> str:
    """A p-value: never rounded to 0."""
    if p is None:
        return MISSING
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}"


def claim(record: Record) -> str:
    if record["p_value"] is None:
        return record["reason"] or "no p-value"
    verdict = "claimed" if record["claimed"] else "not claimed"
    return f"{verdict} ({record['reason']})" if record["reason"] else verdict


def print_verdict(record: Record, brief: bool) -> None:
    """The verdict of one cell: one line in a sweep, else a small table."""
    title = (
        f"{record['method']} under {record['attack']} on {record['data']}, seed {record['seed']}"
    )
    source = f"made {record['made']} stages" if record["made"] else "nothing to make"
    if brief:
        report(f"{title}: p {number(record['p_value'])}, {claim(record)} ({source})")
        return
    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    tests = ", ".join(f"{name} {number(p)}" for name, p in (record.get("tests") or {}).items())
    rows = [
        ("accuracy of the victim", percent(record["victim_accuracy"])),
        ("  watermarked", percent(record["watermarked_accuracy"])),
        ("  suspect", percent(record["suspect_accuracy"])),
        ("watermark accuracy, one probe", percent(record["watermark_accuracy"])),
        ("  ten probes together", percent(record.get("watermark_accuracy_of_10"))),
        (f"p-value ({record.get('probes')} probes)", number(record["p_value"])),
        ("  its null", f"{record['null']} ({tests})" if tests else MISSING),
        ("verdict", claim(record)),
        *_identification(record),
        ("innocents falsely claimed", false_claims(record)),
        ("cost", f"{record['seconds']:.1f} s, {source}; {record.get('queries', 0)} queries"),
        ("record", str(record.get("path", ""))),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)


def _identification(record: Record) -> list[tuple[str, str]]:
    """Whose mark it is, where messages were registered."""
    p_values = record.get("identification")
    if not p_values:
        return []
    of = f"p {number(min(p_values.values()))}, corrected for {len(p_values)} messages"
    return [("carries the message", f"{record['identified'] or 'none proven'} ({of})")]


def false_claims(record: Record) -> str:
    if not record.get("innocents"):
        return MISSING
    bound = percent(record["false_claims_upper"])
    return f"{record['false_claims']} of {record['innocents']} (95 %: at most {bound})"


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only."""

    name: tuple[str, ...]
    records: tuple[Record | None, ...]


def mean(values: Sequence[float | None]) -> str:
    """Percent: mean and the half-width of its 95 % interval (Student's t) over the seeds."""
    there = [100 * value for value in values if value is not None]
    if not there:
        return MISSING
    if len(there) == 1:
        return f"{there[0]:.2f}"
    from scipy.stats import t

    half = t.ppf(0.975, len(there) - 1) * statistics.stdev(there) / math.sqrt(len(there))
    return f"{statistics.fmean(there):.2f} ± {half:.2f}"


def sweep_table(rows: Iterable[Row], varied: Sequence[str]) -> Table:
    """One row for all seeds of a cell: accuracies in percent, p as median and worst."""
    rows = list(rows)
    seeds = max((len(row.records) for row in rows), default=1)
    several = seeds > 1
    spread = ("p median", "p worst", "claims") if several else ("p", "claimed")
    if any(record and record.get("identification") for row in rows for record in row.records):
        spread += ("names",)
    columns = ("victim", "marked", "suspect", "mark acc.", *spread)
    table = Table(
        title=f"accuracies in %: mean ± 95 % interval of {seeds} seeds" if several else None,
        caption=_nulls(rows),
        caption_justify="left",
    )
    for name in varied:
        table.add_column(name.rpartition(".")[2], no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = _cells(row.records, several, len(columns) - ("names" in columns))
        names = [_names(row.records)] if "names" in columns else []
        table.add_row(*row.name, *figures, *names)
    return table


def _nulls(rows: Iterable[Row]) -> str:
    """What the p-values stand on, for each method."""
    there = [record for row in rows for record in row.records if record and record["null"]]
    named = {record["method"]: record["null"] for record in there}
    return "; ".join(f"p of {method} stands on {null}" for method, null in named.items())


def _cells(records: Sequence[Record | None], several: bool, width: int) -> list[str | Text]:
    done = [record for record in records if record and record["status"] == "done"]
    if not done:
        mark = Text("failed", "bold red") if any(records) else MISSING
        return [mark] + [""] * (width - 1)
    names = ("victim_accuracy", "watermarked_accuracy", "suspect_accuracy", "watermark_accuracy")
    figures = [mean([record[name] for record in done]) for name in names]
    p = [record["p_value"] for record in done if record["p_value"] is not None]
    if not p:
        return [*figures, *[MISSING] * (width - len(figures))]
    claims = sum(record["claimed"] for record in done)
    if several:
        return [*figures, number(statistics.median(p)), number(max(p)), f"{claims} of {len(done)}"]
    return [*figures, number(p[0]), "yes" if claims else "no"]


def _names(records: Sequence[Record | None]) -> str:
    """The messages that the verdicts name, with their number where seeds differ."""
    named = [
        record["identified"] or "none" for record in records if record and "identified" in record
    ]
    counts = {name: named.count(name) for name in dict.fromkeys(named)}
    if len(counts) == 1:
        return named[0]
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or MISSING


def console() -> Console:
    """Where results go: as wide as the terminal, and wide enough for any table in a file."""
    return Console(width=None if sys.stdout.isatty() else 120)


class SweepTable(Callback):
    """Ends a sweep with one table of its cells, read from their records.

    What a worker did is known from disk alone: launchers run cells in other processes. It exits
    with 1 where a cell failed or is missing.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            cells = expected(config)
            rows, varied, trouble = gather(cells)
        except InputError as error:
            sys.exit(f"error: {error}")
        console().print(sweep_table(rows, varied))
        if trouble:
            report(f"{len(trouble)} of {len(cells)} cells failed or are missing:")
            for line in trouble:
                report(f"  {line}")
            # An exception here would only be a warning to Hydra; this is none.
            sys.exit(1)


def expected(config: DictConfig) -> list[list[str]]:
    """The overrides of each cell of the sweep, in Hydra's order."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = config.hydra.sweeper.get("params") or {}
    given = list(config.hydra.overrides.task)
    named = {line.split("=", 1)[0].lstrip("+~") for line in given}
    lines = [f"{key}={value}" for key, value in params.items() if key not in named] + given
    parsed = OverridesParser.create().parse_overrides(lines)
    return [cell for batch in BasicSweeper.split_arguments(parsed, None) for cell in batch]


def gather(cells: list[list[str]]) -> tuple[list[Row], list[str], list[str]]:
    """The rows of the table, the names of what varies, and a line for each cell without result."""
    from hydra import compose

    from softmark.lab import plan, read_record

    groups: dict[tuple[str, ...], list[Record | None]] = {}
    trouble: list[str] = []
    settings = [dict(line.split("=", 1) for line in cell) for cell in cells]
    varied = [
        key
        for key in ("method", "attack", *settings[0])
        if key != "seed" and len({setting.get(key) for setting in settings}) > 1
    ]
    varied = list(dict.fromkeys(["method", "attack", *varied]))
    for cell, setting in zip(cells, settings, strict=True):
        record: Record | None = None
        name = [setting.get(key, MISSING) for key in varied]
        try:
            config = compose("config", cell)
            for place, key in enumerate(varied[:2]):
                name[place] = config[key].name
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            record = read_record(Path(plan(plain).record))
            if record is None or record["status"] == "failed":
                reason = record["reason"] if record else "missing"
                trouble.append(f"{' '.join(cell)}: {reason}")
        except InputError as error:
            trouble.append(f"{' '.join(cell)}: {error}")
        groups.setdefault(tuple(name), []).append(record)
    rows = [Row(name, tuple(records)) for name, records in groups.items()]
    return rows, varied, trouble
