"""Each method in one line: how many attacks it survives, its worst one, the cheapest removal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from softmark.report.columns import USELESS, lost
from softmark.report.intervals import MISSING, number
from softmark.report.price import attack_of, loss_of, outcome, removed, seconds_of
from softmark.report.rows import Row

ABOUT = (
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
    """Head and a line for each method that three attacks were tried on, or nothing.

    An innocent suspect is no attack, nor is a forged key.
    """
    tried: dict[str, list[Row]] = {}
    for row in rows:
        if any(map(outcome, row.done)):
            tried.setdefault(row.done[0]["method"], []).append(row)
    lines = [_line(method, own) for method, own in tried.items() if len(own) > 2 and _one_mark(own)]
    return [list(HEAD), *lines] if lines else []


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    survived = sum(all(record["claimed"] for record in row.done) for row in rows)
    useful = [row for row in rows if lost(row.done) <= USELESS]
    worst = [MISSING] * 3
    if useful:
        row = max(useful, key=_harm)
        claims = sum(record["claimed"] for record in row.done)
        known = any(record["p_value"] is not None for record in row.done)
        p = number(_harm(row)[1]) if known else MISSING
        worst = [attack_of(row), f"{claims} of {len(row.done)}", p]
    ends = ((row, removed(row)) for row in rows)
    gone = {attack_of(row): keys for row, keys in ends if 2 * len(keys) >= len(row.done)}
    cheap = [MISSING] * 2
    if gone:
        losses = {name: loss_of(keys) for name, keys in gone.items()}
        works = {name: seconds_of(keys) for name, keys in gone.items()}
        least, quick = (min(costs, key=costs.__getitem__) for costs in (losses, works))
        cheap = [f"{least} ({losses[least]:.2f})", f"{quick} ({works[quick]:.1f} s)"]
    return [method, str(len(rows)), str(survived), *worst, str(len(gone)), *cheap]


def _harm(row: Row) -> tuple[float, float]:
    """What an attack does to the claims: more is worse for the owner."""
    claims = sum(record["claimed"] for record in row.done)
    # A suspect that nobody can judge is an attacker's success.
    p = statistics.median(1.0 if r["p_value"] is None else r["p_value"] for r in row.done)
    return -claims / len(row.done), p


def _one_mark(rows: Sequence[Row]) -> bool:
    """Whether each seed has one marked model: else the rows are settings, not attacks on it."""
    models: dict[int, set[str]] = {}
    for record in (record for row in rows for record in row.done):
        models.setdefault(record["seed"], set()).add(record["stages"].get("watermarked", MISSING))
    return all(len(each) == 1 for each in models.values())
