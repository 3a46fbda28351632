"""What a person reads in a terminal: the verdict of one cell, and a sweep's cells as one table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from softmark.console import console, report
from softmark.report.columns import cells, columns, heading
from softmark.report.intervals import number
from softmark.report.notes import gaps, notes, seeds
from softmark.report.rows import Record, Row, filled
from softmark.report.verdict import claim, facts


def print_verdict(record: Record, brief: bool) -> None:
    """The verdict of one cell: one line in a sweep, else a small table.

    ``record``: with ``made``, the number of stages that were made for it.
    """
    record = filled(record)
    title = (
        f"{record['method']} under {record['attack']} on {record['data']}, seed {record['seed']}"
    )
    made = record["made"]
    source = f"made {made} stage{'s' * (made != 1)}" if made else "nothing to make"
    if brief:
        report(f"{title}: {claim(record)}, p {number(record['p_value'])} ({source})")
        return
    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    for name, text in facts(record):
        table.add_row(name, Text(text, "bold") if name == "verdict" else Text(text))
    table.add_row("took", f"{record['seconds']:.1f} s, {source}; {record['queries']} queries")
    table.add_row("record", Text(record["path"], overflow="fold"))
    console().print(table)


def sweep_table(rows: Sequence[Row], varied: Sequence[str]) -> Table:
    """One row for all seeds of a cell: claims and p first, accuracies in percent."""
    table = Table(
        title="accuracies and costs in %",
        caption="\n".join([*seeds(rows), *notes(rows), *gaps(rows)]),
        caption_justify="left",
    )
    for name in varied:
        # What doesn't fit is folded here, so that every number stays whole.
        table.add_column(heading(name), overflow="fold", min_width=6)
    names = columns(rows, brief=True)
    for name in names:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        bad = ("failed", "stale")
        texts = [Text(cell, "bold red" if cell in bad else "") for cell in cells(row, names)]
        table.add_row(*map(Text, row.name), *texts)
    return table


def plain_table(lines: Sequence[Sequence[str]], about: str) -> Table:
    """``lines``, head first, with ``about`` below."""
    head, *body = lines
    table = Table(caption=about.replace("*", ""), caption_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for line in body:
        table.add_row(*map(Text, line))
    return table
