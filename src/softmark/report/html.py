"""One self-contained HTML page of a sweep, or of all records of a folder: nothing else is asked.

Everything a reader can open is text made here; the template's script only shows and sorts it.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from softmark.errors import InputError
from softmark.report import columns as table
from softmark.report import records as archive
from softmark.report.details import Details, Hide, hider, private
from softmark.report.export import PRICE, Sheet, reported
from softmark.report.notes import made_with, notes, seeds
from softmark.report.price import price_table
from softmark.report.rows import Record, Row, rows_of
from softmark.report.summary import ABOUT, summary_table

TEMPLATE = Path(__file__).with_name("page.html")
LEGIBLE = 40  # rows; a legend of more is no legend. A sweep that somebody named is drawn anyway.
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
    """One table: ``varied`` names the first columns of ``rows``, ``trouble`` what has no result."""

    title: str
    rows: Sequence[Row]
    varied: Sequence[str]
    command: str | None = None
    stale: bool = False
    trouble: Sequence[str] = ()
    reported: Mapping[str, float] = field(default_factory=dict)  # by the paper, for a column


def of_all(output: Path) -> tuple[str, list[str]]:
    """The page of all records in ``output``, and a line for each file there that is no record.

    A section for each data set and scale, and one more for what older code made. Raises
    ``InputError`` where there is no record at all.
    """
    records, broken = archive.read(output / "records")
    if not records:
        named = "".join(f"\n{line}" for line in broken)
        raise InputError(f"no record in output_dir={output}: run.py makes them{named}")
    groups: dict[tuple[bool, str, str], list[Record]] = {}
    for record in records:
        stale = not archive.current(record, output)
        groups.setdefault((stale, record["data"], record["scale"]), []).append(record)
    sections = [
        Section(f"{data}, scale {scale}", *rows_of(own, stale=stale), stale=stale)
        for (stale, data, scale), own in sorted(groups.items(), key=lambda item: item[0])
    ]
    return render("All records", sections, broken, output), broken


def of_sweep(name: str, sheet: Sheet, trouble: Sequence[str], output: Path) -> str:
    """The page of one sweep, whose stages lie in ``output``; ``trouble``: what has no result."""
    title = sheet.table.get("title", name)
    section = Section(
        title,
        sheet.rows,
        sheet.varied,
        sheet.command,
        trouble=trouble,
        reported=sheet.table.get("reported", {}),
    )
    return render(name, [section], [], output)


def write(text: str, path: Path) -> Path:
    """Raises ``InputError`` where the folder of ``path`` can't be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path.parent}: {error.strerror}; --to DIR writes elsewhere") from error
    return path


def render(title: str, sections: Sequence[Section], broken: Sequence[str], output: Path) -> str:
    """The page. No folder of this machine is in it."""
    records = [r for section in sections for row in section.rows for r in row.records if r]
    hide = hider(records, output)
    details = Details(output / "store", hide)
    shown = [_section(section, details, hide) for section in sections]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    # "<" occurs in JSON inside of texts only, where it may be written as an escape.
    data = json.dumps(details.data(), allow_nan=False, separators=(",", ":"))
    return template.render(
        title=hide(title),
        sections=shown,
        broken=[hide(line) for line in broken],
        count=len(records),
        data=Markup(data.replace("<", "\\u003c")),
    )


def _section(section: Section, details: Details, hide: Hide) -> dict[str, Any]:
    """What the template shows of a section."""
    rows = section.rows
    columns = table.columns(rows, brief=False)
    reasons: list[str] = []
    body = [_row(row, section.varied, columns, reasons, details, hide) for row in rows]
    last = [table.heading(key) for key in section.varied]
    legend = ["Accuracies and costs in %", *seeds(rows), *notes(rows)]
    drawn = not section.stale and (section.command or len(rows) <= LEGIBLE)
    return {
        "title": hide(section.title),
        "command": section.command and hide(section.command),
        "stale": section.stale,
        # Two keys may end in the same word.
        "varied": [
            key if last.count(end) > 1 else end
            for key, end in zip(section.varied, last, strict=True)
        ],
        "columns": columns,
        "several": max(len(row.records) for row in rows) > 1,
        "rows": body,
        "notes": reasons,
        "trouble": [hide(line).replace(" output_dir=DIR", "") for line in section.trouble],
        "legend": hide(" ".join(f"{line}." for line in legend)),
        "reported": reported(section.reported, columns),
        "more": [
            (title, about.replace("*", ""), lines)
            for title, about, lines in (
                ("Summary", ABOUT, summary_table(rows)),
                ("The price of removal", PRICE, price_table(rows)),
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
    """One line of a table; why its cells failed is added to ``reasons``, which it refers to."""
    name = [
        "DIR" if private(key, part) else hide(part)
        for key, part in zip(varied, row.name, strict=True)
    ]
    first = len(reasons) + 1
    for record in row.records:
        if record and record["status"] == "failed":
            reason = hide(record["reason"])
            reasons.append(f"{' '.join(name)}, seed {record['seed']} failed: {reason}")
    done, wanted = len(row.done), len(row.records)
    return {
        "name": name,
        "seeds": str(wanted) if done == wanted else f"{done} of {wanted}",
        "figures": table.cells(row, columns),
        "notes": range(first, len(reasons) + 1),
        "place": details.add(name, row),
    }


def _plots(rows: Sequence[Row], varied: Sequence[str]) -> list[tuple[str, str]]:
    """Caption and ``data:`` URI of each plot: in files of their own, no ids collide."""
    from softmark.report.plots import plots, plt

    found = []
    for name, figure in plots(rows, varied).items():
        file = io.BytesIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        plt.close(figure)
        uri = f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
        found.append((CAPTIONS[name], uri))
    return found
