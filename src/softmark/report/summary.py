"""Each method in one line: the attacks that it survives, the worst one, the cheapest removal.

And by family of attacks: how many of those that count each method survives.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from softmark.report.columns import MAX_LOSS, mean_loss
from softmark.report.numbers import MISSING, format_p
from softmark.report.outcomes import Outcome, is_attack, outcome_of
from softmark.report.price import attack_name, median_loss, median_seconds, removed
from softmark.report.rows import Row

SUMMARY_CAPTION = (
    "Each method in one line. *survived*: every key is claimed after these attacks, of those that "
    "count: which leave a suspect within 5 points of the watermarked model and could hurt a mark; "
    "*families*: those of whose attacks that count all are survived; *apart*: attacks that don't "
    "count, since the suspect is useless or the order of each answer is kept; *worst*: the fewest "
    "claims, then the largest median p, of the suspects within 5 points; *removed*: attacks that "
    "took the mark of half of the keys or more without costing 5 points, of which the one at the "
    "*least loss* in points of accuracy, and the one with the *least work* in seconds of one core."
)
FAMILIES_CAPTION = (
    "By family of attacks: how many of those that count every key survives. *apart*: attacks that "
    "don't count, since they leave a *useless* suspect, more than 5 points below the watermarked "
    "model, or keep the order of each answer and can't hurt (*harmless*)."
)
HEAD = (
    "method", "attacks", "survived", "families", "apart", "worst", "claimed", "p median",
    "removed", "least loss", "least work",
)  # fmt: skip


def summary_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return head and a line for each method that three attacks were tried on, or nothing."""
    lines = [_line(method, of_method) for method, of_method in _attacked(rows).items()]
    return [list(HEAD), *lines] if lines else []


def families_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return head and a line for each method of ``summary_table``: what survives, by family."""
    attacked = {method: list(map(outcome_of, some)) for method, some in _attacked(rows).items()}
    families = list(dict.fromkeys(one.family for some in attacked.values() for one in some))
    if len(families) < 2:
        return []
    lines = [["method", *families, "apart"]]
    for method, of_method in attacked.items():
        by_family = _by_family(of_method)
        texts = [_of(by_family.get(name, [])) for name in families]
        lines.append([method, *texts, _apart(of_method)])
    return lines


def _attacked(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the attacks on each method that three were tried on.

    An innocent suspect is no attack, nor is a forged key.
    """
    attacked: dict[str, list[Row]] = {}
    for row in filter(is_attack, rows):
        attacked.setdefault(row.finished[0]["method"], []).append(row)
    return {
        method: of_method
        for method, of_method in attacked.items()
        if len(of_method) > 2 and _one_mark(of_method)
    }


def _by_family(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes that count, by family."""
    by_family: dict[str, list[Outcome]] = {}
    for one in outcomes:
        if not one.apart:
            by_family.setdefault(one.family, []).append(one)
    return by_family


def _of(outcomes: Sequence[Outcome]) -> str:
    survived = sum(one.survived() for one in outcomes)
    return f"{survived} of {len(outcomes)}" if outcomes else MISSING


def _apart(outcomes: Sequence[Outcome]) -> str:
    """Return how many attacks don't count, by the reason."""
    counts = Counter(one.apart for one in outcomes if one.apart)
    return ", ".join(f"{count} {why}" for why, count in counts.items()) or "0"


def _line(method: str, rows: Sequence[Row]) -> list[str]:
    outcomes = list(map(outcome_of, rows))
    by_family = _by_family(outcomes)
    whole = sum(all(one.survived() for one in some) for some in by_family.values())
    counted = [one for some in by_family.values() for one in some]
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
    tally = [_of(counted), f"{whole} of {len(by_family)}", _apart(outcomes)]
    return [method, str(len(rows)), *tally, *worst, str(len(unmarked)), *cheapest]


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
