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
from softmark.report.intervals import MISSING
from softmark.report.kinds import kinds_table
from softmark.report.notes import gaps, made_with, notes, seeds
from softmark.report.price import price_table
from softmark.report.rows import Row
from softmark.report.summary import ABOUT, summary_table

ADDRESSES = (
    "An address promises the recipe of a cell, not the last digit: another processor rounds "
    "otherwise"
)

PRICE = (
    "The price of removal: attacks after which a suspect within 5 points of the watermarked model "
    "isn't claimed. *removed*: of how many keys; *lost*: points of accuracy; *epochs*: passes over "
    "the attacker's pictures; *seconds*: of one core. Medians over those keys."
)


@dataclass(frozen=True)
class Sheet:
    """A sweep to publish: ``command`` makes it, ``table`` is its node in conf/table, or empty."""

    command: str
    table: dict[str, Any]
    rows: list[Row]
    varied: list[str]

    @property
    def names(self) -> list[str]:
        """The columns; with the number of cells where some row hasn't all of its own."""
        names = columns(self.rows, brief=False)
        return [*names, "cells"] if any(map(_partial, self.rows)) else names

    @property
    def head(self) -> list[str]:
        return [heading(key) for key in self.varied] + self.names

    @property
    def body(self) -> list[list[str]]:
        """One line a row, and last what the paper states of these columns, where it does."""
        names = [name for name in self.names if name != "cells"]
        lines = [[*row.name, *cells(row, names)] for row in self.rows]
        if len(names) < len(self.names):
            for line, row in zip(lines, self.rows, strict=True):
                line.append(f"{len(row.done)} of {len(row.records)}")
        if stated := reported(self.table.get("reported", {}), self.names):
            lines.append(["reported", *[""] * (len(self.varied) - 1), *stated])
        return lines

    @property
    def remarks(self) -> list[str]:
        """What a reader must know beside the numbers: sentences without their full stop."""
        lines = ["Accuracies and costs in %", *seeds(self.rows)]
        if self.table.get("reported"):
            lines.append(
                "*reported*: the numbers of the paper's abstract, whose watermark "
                "accuracy is perhaps defined otherwise"
            )
        return [*lines, *notes(self.rows), *gaps(self.rows), ADDRESSES]

    @property
    def title(self) -> str:
        return self.table.get("title", "")

    @property
    def origin(self) -> str:
        return made_with([record for row in self.rows for record in row.records if record])


def _partial(row: Row) -> bool:
    return 0 < len(row.done) < len(row.records)


def reported(numbers: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """What the paper states of the columns ``names``; nothing where it is silent."""
    return [f"{numbers[name]:.2f}" if name in numbers else "" for name in names] if numbers else []


def markdown(sheet: Sheet) -> str:
    """The table with what is needed to make it again."""
    remarks = "\n".join(f"- {line}." for line in sheet.remarks)
    title = [f"{sheet.title}."] if sheet.title else []
    parts = [f"    {sheet.command}", *title, _table([sheet.head, *sheet.body]), remarks]
    if summary := summary_table(sheet.rows):
        parts += [ABOUT, _table(summary)]
    if price := price_table(sheet.rows):
        parts += [PRICE, _table(price)]
    if kinds := kinds_table(sheet.rows):
        parts += ["False flags by kind of innocent: the mean over all keys.", _table(kinds)]
    return "\n\n".join([*parts, sheet.origin]) + "\n"


def _table(lines: list[list[str]]) -> str:
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def latex(sheet: Sheet) -> str:
    """A ``table`` for a paper; it needs the package booktabs."""
    numbers = len(sheet.head) - len(sheet.varied)
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
            rf"\begin{{tabular}}{{{'l' * len(sheet.varied)}{'r' * numbers}}}",
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
    """``text`` for LaTeX: its own signs made harmless, 2.0e-05 as a power of 10."""
    safe = "".join(_TEX.get(sign, sign) for sign in text)
    minus = re.sub(r"(?<![\w.-])-(?=\d)", "$-$", safe)
    powers = _SCIENTIFIC.sub(lambda m: rf"${m[1]}\times10^{{{int(m[2])}}}$", minus)
    return _EMPHASIS.sub(r"\\emph{\1}", powers)


def write_cells(sheet: Sheet, path: Path) -> None:
    """One line for each cell that has a record, with the plain numbers that the table sums up."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*sheet.varied, "seed", *CSV])
        for row in sheet.rows:
            for record in filter(None, row.records):
                writer.writerow([*row.name, record["seed"], *(record[name] for name in CSV)])
