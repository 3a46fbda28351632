"""Tables for a terminal: the verdict of one cell, and all cells of a sweep."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.table import Column, Table
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
    screen = console()
    width = min(60, screen.width)
    table = Table(title=title, show_header=False, title_justify="left", min_width=width)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, text in facts(record):
        table.add_row(name, Text(text, "bold") if name == "verdict" else Text(text))
    took = f"{record['seconds']:.1f} s, {source}" if made else "nothing: it was there already"
    table.add_row("took", f"{took}; {record['queries']} queries")
    if record["scale"] == "smoke":
        table.add_row("note", SMOKE)
    table.add_row("record", Text(record["path"]))
    screen.print(table)


def print_sweep(rows: Sequence[Row], varied: Sequence[str]) -> None:
    """Print a sweep's table, or a list of its rows where the terminal is too narrow for one."""
    _print(sweep_table(rows, varied))


def print_lines(lines: Sequence[Sequence[str]], caption: str) -> None:
    """Print a table of ``lines``, head first, with ``caption`` below; a list where it is narrow."""
    _print(plain_table(lines, caption))


def _print(table: Table) -> None:
    screen = console()
    if sum(map(_needed, table.columns)) + 1 <= screen.width:
        screen.print(table)
        return
    heads = [str(column.header).replace("\n", " ") for column in table.columns]
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(overflow="fold")
    rows.add_column(overflow="fold")
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for head, cell in zip(heads, row, strict=True):
            rows.add_row(head, cell)
        rows.add_row()
    for part in (table.title, rows, table.caption):
        screen.print(part or "")


def _needed(column: Column) -> int:
    """Return how wide a column must be, with its border, for no figure to be cut."""
    texts = [str(text) for text in (column.header, *column.cells)]
    words = [word for text in texts for word in re.split("\n" if column.no_wrap else r"\s", text)]
    return 3 + (column.min_width or max(map(len, words)))


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
