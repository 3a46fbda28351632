"""What a person reads: the verdict of one cell, and a sweep's cells as one table."""

from __future__ import annotations

import math
import re
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

Record = dict[str, Any]
MISSING = "—"
USELESS = 0.05  # the loss of accuracy beyond which a suspect is no longer worth stealing


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
        *identification(record),
        ("innocents falsely claimed", false_claims(record)),
        ("cost", f"{record['seconds']:.1f} s, {source}; {record.get('queries', 0)} queries"),
        ("record", str(record.get("path", ""))),
    ]
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)


def identification(record: Record) -> list[tuple[str, str]]:
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
    """The cells that differ in their seed only; ``stale``: how many only older code has made."""

    name: tuple[str, ...]
    records: tuple[Record | None, ...]
    stale: int = 0

    @property
    def done(self) -> list[Record]:
        return [record for record in self.records if record and record["status"] == "done"]


def interval(values: Sequence[float | None]) -> tuple[float, float]:
    """Percent: mean and the half-width of its 95 % interval (Student's t); nan where unknown."""
    there = [100 * value for value in values if value is not None]
    if len(there) < 2:
        return (there[0] if there else math.nan), math.nan
    from scipy.stats import t

    half = t.ppf(0.975, len(there) - 1) * statistics.stdev(there) / math.sqrt(len(there))
    return statistics.fmean(there), float(half)


def mean(values: Sequence[float | None]) -> str:
    """``interval`` as a person writes it."""
    middle, half = interval(values)
    if math.isnan(middle):
        return MISSING
    return f"{middle:.2f}" if math.isnan(half) else f"{middle:.2f} ± {half:.2f}"


Column = Callable[[Sequence[Record]], str]


def _share(name: str) -> Column:
    return lambda done: mean([record[name] for record in done])


def _cost(done: Sequence[Record]) -> str:
    """Points of accuracy that the mark costs: the victim's less the watermarked model's."""
    return mean([record["victim_accuracy"] - record["watermarked_accuracy"] for record in done])


def _suspect(done: Sequence[Record]) -> str:
    """With a dagger where it is on average more than 5 points worse than the watermarked model."""
    lost = [record["watermarked_accuracy"] - record["suspect_accuracy"] for record in done]
    return _share("suspect_accuracy")(done) + (" †" if statistics.fmean(lost) > USELESS else "")


def _p(summary: Callable[[Iterable[float]], float]) -> Column:
    def column(done: Sequence[Record]) -> str:
        p = [record["p_value"] for record in done if record["p_value"] is not None]
        return number(summary(p)) if p else MISSING

    return column


def _claims(done: Sequence[Record]) -> str:
    if all(record["p_value"] is None for record in done):
        return MISSING
    claims = sum(record["claimed"] for record in done)
    if len(done) == 1:
        return "yes" if claims else "no"
    return f"{claims} of {len(done)}"


def _false(done: Sequence[Record]) -> str:
    return f"{sum(r['false_claims'] for r in done)} of {sum(r['innocents'] for r in done)}"


def _names(done: Sequence[Record]) -> str:
    """The messages that the verdicts name, with their number where seeds differ."""
    named = [record.get("identified") or "none" for record in done]
    counts = {name: named.count(name) for name in dict.fromkeys(named)}
    if len(counts) == 1:
        return named[0]
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


COLUMNS: dict[str, Column] = {
    "victim": _share("victim_accuracy"),
    "marked": _share("watermarked_accuracy"),
    "cost": _cost,
    "suspect": _suspect,
    "mark acc.": _share("watermark_accuracy"),
    "of 10": _share("watermark_accuracy_of_10"),
    "p": _p(max),
    "p median": _p(statistics.median),
    "p worst": _p(max),
    "p least": _p(min),
    "claimed": _claims,
    "claims": _claims,
    "names": _names,
    "false claims": _false,
}


def columns(rows: Sequence[Row], *, brief: bool) -> list[str]:
    """Which of ``COLUMNS`` say something of these rows; ``brief``: those that fit a terminal."""
    records = [record for row in rows for record in row.records if record]
    several = max((len(row.records) for row in rows), default=1) > 1
    left_out = {"p", "claimed"} if several else {"p median", "p worst", "p least", "claims"}
    if not any(record.get("identification") for record in records):
        left_out |= {"names"}
    left_out |= {"cost", "of 10", "p least", "false claims"} if brief else {"marked"}
    return [name for name in COLUMNS if name not in left_out]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """The figures of one row, over its finished cells."""
    if not row.done:
        word = "failed" if any(row.records) else "stale" if row.stale else MISSING
        return [word] + [""] * (len(names) - 1)
    return [COLUMNS[name](row.done) for name in names]


def heading(key: str) -> str:
    """What stands above a column: the last part of ``method.marking.eps``, ``method/detector``."""
    return re.split("[./]", key)[-1]


def sweep_table(rows: Sequence[Row], varied: Sequence[str]) -> Table:
    """One row for all seeds of a cell: accuracies in percent, p as median and worst."""
    seeds = max((len(row.records) for row in rows), default=1)
    table = Table(
        title=f"accuracies in %: mean ± 95 % interval of {seeds} seeds" if seeds > 1 else None,
        caption="; ".join([*notes(rows), *gaps(rows)]),
        caption_justify="left",
    )
    for name in varied:
        table.add_column(heading(name), no_wrap=True)
    names = columns(rows, brief=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        figures = cells(row, names)
        bad = ("failed", "stale")
        styled = [Text(figure, "bold red") if figure in bad else figure for figure in figures]
        table.add_row(*row.name, *styled)
    return table


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader of the figures must know: nulls, the dagger, and each method's worst attack."""
    done = [record for row in rows for record in row.done]
    named = {record["method"]: record["null"] for record in done if record["null"]}
    told = [f"p of {method} stands on {null}" for method, null in named.items()]
    if any("†" in cell for row in rows for cell in cells(row, ["suspect"])):
        told.append("† more than 5 points worse than the watermarked model")
    return told + _weakest(rows)


def gaps(rows: Sequence[Row]) -> list[str]:
    """What isn't whole: why cells failed, what older code made."""
    reasons = [r["reason"] for row in rows for r in row.records if r and r["status"] == "failed"]
    told = [f"failed: {reason}" for reason in dict.fromkeys(reasons)]
    if stale := sum(row.stale for row in rows):
        told.append(f"{stale} cells were last made by older code: not shown, to be run again")
    return told


def made_with(records: Sequence[Record]) -> str:
    """Versions, machine and dates of the records, each that occurs."""
    versions = {", ".join(f"{k} {v}" for k, v in record["versions"].items()) for record in records}
    machines = {record.get("machine") or "" for record in records} - {""}
    commits = sorted({record.get("commit") or "" for record in records} - {""})
    dates = sorted(record["date"][:10] for record in records)
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    named = f"commit {', '.join(commits)}" if commits else ""
    return "; ".join(filter(None, [named, *sorted(versions), *sorted(machines), days])) + "."


def _weakest(rows: Sequence[Row]) -> list[str]:
    """The attack that leaves each method least, where there are several to choose from.

    A suspect that the attack cost more than 5 points is no longer worth having: it doesn't count.
    """
    left: dict[str, dict[str, float]] = {}
    for row in rows:
        mark = interval([record["watermark_accuracy"] for record in row.done])[0]
        lost = [r["watermarked_accuracy"] - r["suspect_accuracy"] for r in row.done]
        if not math.isnan(mark) and statistics.fmean(lost) <= USELESS:
            left.setdefault(row.name[0], {})[" ".join(row.name[1:])] = mark
    marked: dict[tuple[str, int], str] = {}
    for record in (record for row in rows for record in row.done):
        # Rows of differently marked models are settings, not attacks on one.
        model = record["stages"]["watermarked"]
        if marked.setdefault((record["method"], record["seed"]), model) != model:
            left.pop(record["method"], None)
    worst = {method: min(marks, key=marks.__getitem__) for method, marks in left.items()}
    return [
        f"the worst of {len(left[method])} attacks on {method} is {attack} "
        f"({left[method][attack]:.1f} %)"
        for method, attack in worst.items()
        if len(left[method]) > 2
    ]


def level(record: Record) -> float:
    """The largest p-value with which a claim of this record's method can be made."""
    return max(record["levels"][name] for name in record["tests"])


def console() -> Console:
    """Where results go: as wide as the terminal, and wide enough for any table in a file."""
    return Console(width=None if sys.stdout.isatty() else 120)
