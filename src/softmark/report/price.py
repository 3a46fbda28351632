"""The price of removal: at what loss of accuracy, and with how much work, a mark was removed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from softmark.report.columns import USELESS, loss
from softmark.report.intervals import MISSING
from softmark.report.rows import Record, Row

CHANCE = 0.02  # a suspect that is right no more often above chance has nothing left to steal
HEAD = ("method", "attack", "access", "knows", "removed", "lost", "queries", "epochs", "seconds")


def outcome(record: Record) -> str:
    """What became of the mark: claimed, useless, spoilt or removed; empty where nothing could.

    ``useless``: the suspect is within 2 points of chance; ``spoilt``: more than 5 points worse than
    the watermarked model. Only a suspect that is still worth having has had its mark removed.
    """
    if not record["commitment"] or record["innocent_suspect"]:
        return ""
    if record["attack"] in ("none", "adaptive_forge"):  # nothing is done to the model
        return ""
    if record["claimed"]:
        return "claimed"
    if record["suspect_accuracy"] < 1 / record["classes"] + CHANCE:
        return "useless"
    return "spoilt" if loss(record) > USELESS else "removed"


def price_table(rows: Sequence[Row]) -> list[list[str]]:
    """Head and lines: each attack that removed a mark, by method, the least loss first.

    Nothing where no mark was removed. The figures are medians over the seeds that lost theirs.
    """
    lines: list[tuple[str, float, list[str]]] = []
    for row, gone in ((row, removed(row)) for row in rows):
        if not gone:
            continue
        about, lost = gone[0], loss_of(gone)
        figures = [
            attack_of(row),
            about["access"] or MISSING,
            about["knows"] or MISSING,
            f"{len(gone)} of {len(row.done)}",
            f"{lost:.2f}",
            f"{median(r['queries'] for r in gone):.0f}",
            f"{median(r['epochs'] or 0.0 for r in gone):.0f}",
            f"{seconds_of(gone):.1f}",
        ]
        lines.append((about["method"], lost, figures))
    lines.sort(key=lambda line: line[:2])
    return [list(HEAD), *([method, *figures] for method, _, figures in lines)] if lines else []


def removed(row: Row) -> list[Record]:
    return [record for record in row.done if outcome(record) == "removed"]


def loss_of(records: Sequence[Record]) -> float:
    """The median loss, in points of accuracy."""
    return 100 * median(map(loss, records))


def seconds_of(records: Sequence[Record]) -> float:
    """The median work that the attacks took, in seconds of one core."""
    return median(record["stage_seconds"].get("suspect", 0.0) for record in records)


def attack_of(row: Row) -> str:
    """The attack of a row and what else tells it from the others."""
    return " ".join(row.name[1:])
