"""Each method in one line: the attacks that it survives, the worst one, the cheapest removal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from softmark.report.columns import MAX_LOSS, mean_loss
from softmark.report.numbers import MISSING, format_p
from softmark.report.price import attack_name, median_loss, median_seconds, outcome, removed
from softmark.report.rows import Row

SUMMARY_CAPTION = (
    "Each method in one line. *survived*: every key is claimed after these attacks; *worst*: the "
    "fewest claims, then the largest median p, of the suspects within 5 points of the watermarked "
    "model; *removed*: attacks that took the mark of half of the keys or more without costing 5 "
    "points, of which the one at the *least loss* in points of accuracy, and the one with the "
    "*least work* in seconds of one core."
)
HEAD = (
    "method", "attacks", "survived", "worst", "claimed", "p median", "removed", "least loss",
    "least work",
)  # fmt: skip


def summary_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return head and a line for each method that three attacks were tried on, or nothing.

    An innocent suspect is no attack, nor is a forged key.
    """
    attacked: dict[str, list[Row]] = {}
    for row in rows:
        if any(map(outcome, row.finished)):
            attacked.setdefault(row.finished[0]["method"], []).append(row)
    lines = [
        _line(method, of_method)
        for method, of_method in attacked.items()
        if len(of_method) > 2 and _one_mark(of_method)
    ]
    return [list(HEAD), *lines] if lines else []


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    survived = sum(all(record["claimed"] for record in row.finished) for row in rows)
    useful = [row for row in rows if mean_loss(row.finished) <= MAX_LOSS]
    worst = [MISSING] * 3
    if useful:
        row = max(useful, key=_harm)
        claims = sum(record["claimed"] for record in row.finished)
        known = any(record["p_value"] is not None for record in row.finished)
        p = format_p(_harm(row)[1]) if known else MISSING
        worst = [attack_name(row), f"{claims} of {len(row.finished)}", p]
    unmarked = {attack_name(row): removed(row) for row in rows if _is_removed(row)}
    cheapest = [MISSING] * 2
    if unmarked:
        losses = {name: median_loss(records) for name, records in unmarked.items()}
        seconds = {name: median_seconds(records) for name, records in unmarked.items()}
        least, quickest = (min(costs, key=costs.__getitem__) for costs in (losses, seconds))
        cheapest = [f"{least} ({losses[least]:.2f})", f"{quickest} ({seconds[quickest]:.1f} s)"]
    return [method, str(len(rows)), str(survived), *worst, str(len(unmarked)), *cheapest]


def _is_removed(row: Row) -> bool:
    """Return whether the attack removed the mark of half of the keys or more."""
    return 2 * len(removed(row)) >= len(row.finished)


def _harm(row: Row) -> tuple[float, float]:
    """Return the fewer claims first, then the larger median p: more is worse for the owner."""
    claims = sum(record["claimed"] for record in row.finished)
    # A suspect that nobody can judge is an attacker's success.
    p = statistics.median(1.0 if r["p_value"] is None else r["p_value"] for r in row.finished)
    return -claims / len(row.finished), p


def _one_mark(rows: Sequence[Row]) -> bool:
    """Return whether each seed has one marked model; else rows are settings, no attacks on it."""
    models: dict[int, set[str]] = {}
    for record in (record for row in rows for record in row.finished):
        models.setdefault(record["seed"], set()).add(record["stages"].get("watermarked", MISSING))
    return all(len(addresses) == 1 for addresses in models.values())
