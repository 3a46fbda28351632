"""One self-contained HTML page of a sweep, or of all records of a folder.

All text is made here; the template's script shows, sorts and filters it, and loads nothing.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from softmark.errors import InputError
from softmark.report import columns as table
from softmark.report import records as archive
from softmark.report.board import Tables, board_of
from softmark.report.export import PRICE_CAPTION, Sheet, reported
from softmark.report.footnotes import footnotes, made_with, seed_notes
from softmark.report.page_details import Details, Hide, hider, is_private
from softmark.report.price import price_table
from softmark.report.rows import Record, Row, rows_of
from softmark.report.summary import (
    FAMILIES_CAPTION,
    SUMMARY_CAPTION,
    families_table,
    summary_table,
)

TEMPLATE = Path(__file__).with_name("page.html")
MAX_PLOTTED_ROWS = 40  # more make no legible legend; a named sweep is plotted anyway
PAGE_ROWS = 100  # of a table that are shown at once
MAX_PLAIN = 1_000_000  # characters of JSON; more are compressed
CAPTIONS = {
    "probes": "p-value over the number of probes",
    "tradeoff": "what the mark costs against what attacks leave of it",
    "heatmap": "claims and the median p-value under each attack",
    "p_and_cost": "p-value, and what the mark costs, over a number of the data",
    "curve": "watermark accuracy and the suspect's accuracy over the attack's strength",
    "false_flags": "probes of innocents that are falsely flagged, by kind of innocent",
}


@dataclass(frozen=True)
class Section:
    """One table of a page.

    Attributes:
        title: Its heading.
        rows: Of the table.
        varied: The config keys whose values are the rows' names.
        command: What makes it again.
        stale: Whether older code made it.
        problems: The cells without result.
        reported: Numbers of the paper, by column.
    """

    title: str
    rows: Sequence[Row]
    varied: Sequence[str]
    command: str | None = None
    stale: bool = False
    problems: Sequence[str] = ()
    reported: Mapping[str, float] = field(default_factory=dict)


def all_records_page(output: Path) -> tuple[str, list[str]]:
    """Return the page of all records in ``output``, and a line for each file that is no record.

    It has a section for each data set and scale, and one more for what older code made.

    Raises:
        InputError: There is no record at all.
    """
    records, broken = archive.read(output / "records")
    if not records:
        reasons = "".join(f"\n{line}" for line in broken)
        raise InputError(f"no record in output_dir={output}: run.py makes them{reasons}")
    groups: dict[tuple[bool, str, str], list[Record]] = {}
    check = archive.RecordCheck(output)
    for record in records:
        stale = not check.is_current(record)
        groups.setdefault((stale, record["data"], record["scale"]), []).append(record)
    sections = [
        Section(f"{data}, scale {scale}", *rows_of(of_section, stale=stale), stale=stale)
        for (stale, data, scale), of_section in sorted(groups.items(), key=lambda item: item[0])
    ]
    return render("All records", sections, broken, output), broken


def sweep_page(name: str, sheet: Sheet, problems: Sequence[str], output: Path) -> str:
    """Return the page of one sweep, whose stages lie in ``output``."""
    title = sheet.table.get("title", name)
    section = Section(
        title,
        sheet.rows,
        sheet.varied,
        sheet.command,
        problems=problems,
        reported=sheet.table.get("reported", {}),
    )
    return render(name, [section], [], output)


def leaderboard_page(tables: Tables, broken: Sequence[str], output: Path) -> str:
    """Return the page that ranks methods by what attacks leave of their marks.

    Args:
        tables: Rows by data set and scale.
        broken: A line for each file that is no record.
        output: Where the stages of the records lie, if they lie anywhere.
    """
    return render("Leaderboard", [], broken, output, tables)


def write_page(text: str, path: Path) -> Path:
    """Write a page, and return its path. Raise ``InputError`` where that can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path.parent}: {error.strerror}; --to DIR writes elsewhere") from error
    return path


def render(
    title: str,
    sections: Sequence[Section],
    broken: Sequence[str],
    output: Path,
    ranked: Tables | None = None,
) -> str:
    """Return the page. No folder of this machine is in it. ``ranked``: what a leaderboard ranks."""
    rows = [row for section in sections for row in section.rows]
    rows += [row for of_data, _ in (ranked or {}).values() for row in of_data]
    records = [record for row in rows for record in row.records if record]
    hide = hider(records, output)
    details = Details(output / "store", hide)
    shown = [_section(section, details, hide) for section in sections]
    board = board_of(ranked, details) if ranked else None
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE.name)
    tables = {place: section["lines"] for place, section in enumerate(shown, 1) if section["lines"]}
    return template.render(
        title=hide(title),
        sections=shown,
        broken=[hide(line) for line in broken],
        count=len(records),
        page_rows=PAGE_ROWS,
        tables=_script("tables", tables) if tables else "",
        details=_script("details", details.data()),
        board=_script("board", board) if board else "",
        origin=made_with(records) if board else "",
    )


def _script(name: str, data: Any) -> Markup:
    """Return a script element that holds ``data``: as JSON, compressed where that is long."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    kind = "application/json"
    if len(text) > MAX_PLAIN:
        # Of no date, so that the same records make the same page.
        packed = gzip.compress(text.encode(), 6, mtime=0)
        kind, text = "application/gzip", base64.b64encode(packed).decode()
    # "<" occurs in JSON inside of texts only, where it may be written as an escape.
    text = text.replace("<", "\\u003c")
    return Markup(f'<script type="{kind}" id="{name}">{text}</script>')


def _section(section: Section, details: Details, hide: Hide) -> dict[str, Any]:
    """Return what the template shows of a section."""
    rows = section.rows
    names = table.columns(rows, brief=False)
    reasons: list[str] = []
    body = [_row(row, section.varied, names, reasons, details, hide) for row in rows]
    last = [table.heading(key) for key in section.varied]
    legend = ["Accuracies and costs in %", *seed_notes(rows), *footnotes(rows)]
    drawn = not section.stale and (section.command or len(rows) <= MAX_PLOTTED_ROWS)
    return {
        "title": hide(section.title),
        "command": section.command and hide(section.command),
        "stale": section.stale,
        # Two keys may end in the same word.
        "varied": [
            key if last.count(end) > 1 else end
            for key, end in zip(section.varied, last, strict=True)
        ],
        "columns": names,
        "several": max(len(row.records) for row in rows) > 1,
        "count": len(body),
        "rows": body[:PAGE_ROWS],
        # The script shows the other rows of a long table, and sorts and filters all of them.
        "lines": [list(row.values()) for row in body] if len(body) > PAGE_ROWS else [],
        "share": names.index("mark acc.") if "mark acc." in names else -1,
        "notes": reasons,
        "problems": [hide(line).replace(" output_dir=DIR", "") for line in section.problems],
        "legend": hide(" ".join(f"{line}." for line in legend)),
        "reported": reported(section.reported, names),
        "more": [
            (title, caption.replace("*", ""), lines)
            for title, caption, lines in (
                ("Summary", SUMMARY_CAPTION, summary_table(rows)),
                ("By family of attacks", FAMILIES_CAPTION, families_table(rows)),
                ("The price of removal", PRICE_CAPTION, price_table(rows)),
            )
            if lines
        ],
        "plots": _plots(rows, section.varied) if drawn else [],
        "made_with": made_with([r for row in rows for r in row.records if r]),
    }


def _row(
    row: Row,
    varied: Sequence[str],
    columns: Sequence[str],
    reasons: list[str],
    details: Details,
    hide: Hide,
) -> dict[str, Any]:
    """Return one line of a table; add why its cells failed to ``reasons``, to which it refers."""
    name = [
        "DIR" if is_private(key, part) else hide(part)
        for key, part in zip(varied, row.name, strict=True)
    ]
    first = len(reasons) + 1
    for record in row.records:
        if record and record["status"] == "failed":
            reason = hide(record["reason"])
            reasons.append(f"{' '.join(name)}, seed {record['seed']} failed: {reason}")
    num_finished, num_seeds = len(row.finished), len(row.records)
    return {
        "name": name,
        "seeds": str(num_seeds) if num_finished == num_seeds else f"{num_finished} of {num_seeds}",
        "figures": table.cells(row, columns),
        "notes": list(range(first, len(reasons) + 1)),
        "place": details.add(name, row),
    }


def _plots(rows: Sequence[Row], varied: Sequence[str]) -> list[tuple[str, str]]:
    """Return caption and ``data:`` URI of each plot: in files of their own, no ids collide."""
    from softmark.report.plots import plots, plt

    images = []
    for name, figure in plots(rows, varied).items():
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
        uri = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
        images.append((CAPTIONS[name], uri))
    return images
