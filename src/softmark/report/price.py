"""The price of removal: the loss of accuracy and the work with which marks were removed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from softmark.report.columns import MAX_LOSS, accuracy_loss
from softmark.report.numbers import MISSING
from softmark.report.rows import Record, Row

CHANCE_MARGIN = 0.02  # above chance; a suspect below it has nothing left to steal
HEAD = ("method", "attack", "access", "knows", "removed", "loss", "queries", "epochs", "seconds")


def outcome(record: Record) -> str:
    """Return what became of the mark: claimed, useless, degraded or removed; empty for no attack.

    Of a ``useless`` suspect the accuracy is within 2 points of chance, of a ``degraded`` one more
    than 5 points below the watermarked model's. A mark counts as removed from the others alone.
    """
    if not record["commitment"] or record["innocent_suspect"]:
        return ""
    if record["attack"] in ("none", "adaptive_forge"):  # nothing is done to the model
        return ""
    if record["claimed"]:
        return "claimed"
    classes = record["classes"]  # an older published table doesn't say how many
    if classes and record["suspect_accuracy"] < 1 / classes + CHANCE_MARGIN:
        return "useless"
    return "degraded" if accuracy_loss(record) > MAX_LOSS else "removed"


def price_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return head and lines: the attacks that removed a mark, by method, the least loss first.

    Nothing where no mark was removed. The figures are medians over the seeds whose mark is gone.
    """
    lines: list[tuple[str, float, list[str]]] = []
    for row, unmarked in ((row, removed(row)) for row in rows):
        if not unmarked:
            continue
        first, loss = unmarked[0], median_loss(unmarked)
        figures = [
            attack_name(row),
            first["access"] or MISSING,
            first["knows"] or MISSING,
            f"{len(unmarked)} of {len(row.finished)}",
            f"{loss:.2f}",
            f"{median(r['queries'] for r in unmarked):.0f}",
            f"{median(r['epochs'] or 0.0 for r in unmarked):.0f}",
            f"{median_seconds(unmarked):.1f}",
        ]
        lines.append((first["method"], loss, figures))
    lines.sort(key=lambda line: line[:2])
    return [list(HEAD), *([method, *figures] for method, _, figures in lines)] if lines else []


def removed(row: Row) -> list[Record]:
    """Return the records of the row whose mark was removed."""
    return [record for record in row.finished if outcome(record) == "removed"]


def median_loss(records: Sequence[Record]) -> float:
    """Return the median loss, in points of accuracy."""
    return 100 * median(map(accuracy_loss, records))


def median_seconds(records: Sequence[Record]) -> float:
    """Return the median work that the attacks took, in seconds of one core."""
    return median(record["stage_seconds"].get("suspect", 0.0) for record in records)


def attack_name(row: Row) -> str:
    """Return the attack of a row, with the settings in which rows differ."""
    return " ".join(row.name[1:])
