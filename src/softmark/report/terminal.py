"""Tables for a terminal: the verdict of one cell, and all cells of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from softmark.console import console, report
from softmark.report.columns import cells, columns, heading
from softmark.report.footnotes import SMOKE, footnotes, gap_notes, seed_notes
from softmark.report.numbers import format_p
from softmark.report.rows import Record, Row, filled
from softmark.report.verdict import claim, facts


def print_verdict(record: Record, brief: bool) -> None:
    """Print the verdict of one cell.

    Args:
        record: The cell's, with ``made``: the number of stages that were made for it.
        brief: One line on stderr, as in a sweep; else a small table.
    """
    record = filled(record)
    title = (
        f"{record['method']} under {record['attack']} on {record['data']}, seed {record['seed']}"
    )
    made = record["made"]
    source = f"made {made} stage{'s' * (made != 1)}" if made else "nothing to make"
    if brief:
        report(f"{title}: {claim(record)}, p {format_p(record['p_value'])} ({source})")
        return
    table = Table(title=title, show_header=False, title_justify="left", min_width=60)
    for name, text in facts(record):
        table.add_row(name, Text(text, "bold") if name == "verdict" else Text(text))
    took = f"{record['seconds']:.1f} s, {source}" if made else "nothing: it was there already"
    table.add_row("took", f"{took}; {record['queries']} queries")
    if record["scale"] == "smoke":
        table.add_row("note", SMOKE)
    table.add_row("record", Text(record["path"], overflow="fold"))
    console().print(table)


def sweep_table(rows: Sequence[Row], varied: Sequence[str]) -> Table:
    """Return a table with a row for all seeds of a cell: claims and p, then accuracies."""
    table = Table(
        title="accuracies and costs in %",
        caption="\n".join([*seed_notes(rows), *footnotes(rows), *gap_notes(rows)]),
        caption_justify="left",
    )
    for name in varied:
        # What doesn't fit is folded here, so that no number is cut.
        table.add_column(heading(name), overflow="fold", min_width=6)
    names = columns(rows, brief=True)
    for name in names:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        red = ("failed", "stale")
        texts = [Text(cell, "bold red" if cell in red else "") for cell in cells(row, names)]
        table.add_row(*map(Text, row.name), *texts)
    return table


def plain_table(lines: Sequence[Sequence[str]], caption: str) -> Table:
    """Return a table of ``lines``, head first, with ``caption`` below."""
    head, *body = lines
    table = Table(caption=caption.replace("*", ""), caption_justify="left")
    for name in head:
        table.add_column(name, overflow="fold")
    for line in body:
        table.add_row(*map(Text, line))
    return table
