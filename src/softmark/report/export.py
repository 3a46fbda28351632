"""A sweep's table as files: Markdown, LaTeX, and the numbers of each cell as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmark.experiment.record import CSV
from softmark.report.columns import cells, columns, heading
from softmark.report.footnotes import footnotes, gap_notes, made_with, seed_notes
from softmark.report.innocent_kinds import kinds_table
from softmark.report.numbers import MISSING
from softmark.report.price import price_table
from softmark.report.rows import Row
from softmark.report.summary import (
    FAMILIES_CAPTION,
    SUMMARY_CAPTION,
    families_table,
    summary_table,
)

ADDRESS_NOTE = (
    "An address promises the recipe of a cell, not the last digit: another processor rounds "
    "otherwise"
)

PRICE_CAPTION = (
    "The price of removal: attacks after which a suspect within 5 points of the watermarked model "
    "isn't claimed. *removed*: of how many keys; *loss*: points of accuracy; *epochs*: passes over "
    "the attacker's pictures; *seconds*: of one core. Medians over those keys."
)


@dataclass(frozen=True)
class Sheet:
    """A sweep to publish.

    Attributes:
        command: What makes it.
        table: Its node in conf/table; empty where it has none.
        rows: Of the table.
        varied: The config keys whose values are the rows' names.
    """

    command: str
    table: dict[str, Any]
    rows: list[Row]
    varied: list[str]

    @property
    def names(self) -> list[str]:
        """Return the columns; with the number of finished cells where some row misses one."""
        names = columns(self.rows, brief=False)
        return [*names, "cells"] if any(map(_partial, self.rows)) else names

    @property
    def head(self) -> list[str]:
        """Return the headings of all columns."""
        return [heading(key) for key in self.varied] + self.names

    @property
    def body(self) -> list[list[str]]:
        """Return a line for each row, and last the numbers that the paper reports, if it does."""
        names = [name for name in self.names if name != "cells"]
        lines = [[*row.name, *cells(row, names)] for row in self.rows]
        if len(names) < len(self.names):
            for line, row in zip(lines, self.rows, strict=True):
                line.append(f"{len(row.finished)} of {len(row.records)}")
        if numbers := reported(self.table.get("reported", {}), self.names):
            lines.append(["reported", *[""] * (len(self.varied) - 1), *numbers])
        return lines

    @property
    def remarks(self) -> list[str]:
        """Return the footnotes: sentences without their full stop."""
        lines = ["Accuracies and costs in %", *seed_notes(self.rows)]
        if self.table.get("reported"):
            lines.append(
                "*reported*: the numbers of the paper's abstract, whose watermark "
                "accuracy is perhaps defined otherwise"
            )
        return [*lines, *footnotes(self.rows), *gap_notes(self.rows), ADDRESS_NOTE]

    @property
    def title(self) -> str:
        """Return the title of its node in conf/table; empty where it has none."""
        return self.table.get("title", "")

    @property
    def origin(self) -> str:
        """Return versions, machines and dates of its records."""
        return made_with([record for row in self.rows for record in row.records if record])


def _partial(row: Row) -> bool:
    return 0 < len(row.finished) < len(row.records)


def reported(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """Return what the paper reports of the columns ``names``; nothing without any number."""
    return [f"{numbers[name]:.2f}" if name in numbers else "" for name in names] if numbers else []


def markdown(sheet: Sheet) -> str:
    """Return the table in Markdown, with the command that makes it again."""
    remarks = "\n".join(f"- {line}." for line in sheet.remarks)
    title = [f"{sheet.title}."] if sheet.title else []
    parts = [f"    {sheet.command}", *title, _table([sheet.head, *sheet.body]), remarks]
    if summary := summary_table(sheet.rows):
        parts += [SUMMARY_CAPTION, _table(summary)]
    if families := families_table(sheet.rows):
        parts += [FAMILIES_CAPTION, _table(families)]
    if price := price_table(sheet.rows):
        parts += [PRICE_CAPTION, _table(price)]
    if kinds := kinds_table(sheet.rows):
        parts += ["False flags by kind of innocent: the mean over all keys.", _table(kinds)]
    return "\n\n".join([*parts, sheet.origin]) + "\n"


def _table(lines: list[list[str]]) -> str:
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def latex(sheet: Sheet) -> str:
    """Return the table in LaTeX; it needs the package booktabs."""
    num_figures = len(sheet.head) - len(sheet.varied)
    lines = [" & ".join(map(tex, line)) + r" \\" for line in (sheet.head, *sheet.body)]
    if sheet.table.get("reported"):
        lines.insert(-1, r"\midrule")
    caption = " ".join(f"{line}." for line in [sheet.title, *sheet.remarks] if line)
    return "\n".join(
        [
            *(f"% {line}" for line in (sheet.command, sheet.origin)),
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{tex(caption)}}}",
            rf"\begin{{tabular}}{{{'l' * len(sheet.varied)}{'r' * num_figures}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


_TEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "†": r"$\dagger$", MISSING: "---", "<": r"\textless{}", ">": r"\textgreater{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip
_SCIENTIFIC = re.compile(r"(?<![\w.])(\d(?:\.\d)?)e([+-]\d+)(?!\w)")
_EMPHASIS = re.compile(r"\*(\w+)\*")


def tex(text: str) -> str:
    """Return ``text`` for LaTeX: special characters escaped, 2.0e-05 as a power of 10."""
    escaped = "".join(_TEX.get(sign, sign) for sign in text)
    minus = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)
    powers = _SCIENTIFIC.sub(lambda m: rf"${m[1]}\times10^{{{int(m[2])}}}$", minus)
    return _EMPHASIS.sub(r"\\emph{\1}", powers)


def write_cells(sheet: Sheet, path: Path) -> None:
    """Write a CSV with a line for each cell that has a record: the numbers behind the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        # A key that varies may be a field as well, as data is.
        fields = [name for name in CSV if name not in sheet.varied]
        writer.writerow([*sheet.varied, "seed", *fields])
        for row in sheet.rows:
            for record in filter(None, row.records):
                writer.writerow([*row.name, record["seed"], *(record[name] for name in fields)])
