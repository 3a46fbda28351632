"""The columns of a table: each turns the finished records of a row into text."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from softmark.experiment.record import NEVER_ASKED
from softmark.report.numbers import MISSING, format_mean, format_p, mean_interval
from softmark.report.rows import Record, Row

MAX_LOSS = 0.05  # of accuracy; a suspect that lost more is no longer worth stealing
Column = Callable[[Sequence[Record]], str]


def error_variance(records: Sequence[Record], name: str) -> float:
    """Return the variance of the accuracy ``name`` that comes from the size of the test set."""
    known = [r for r in records if r["judged_samples"] and r[name] is not None]
    if not known:
        return 0.0
    mean = statistics.fmean(record[name] for record in known)
    return mean * (1 - mean) / min(record["judged_samples"] for record in known)


def cost_variance(records: Sequence[Record], against: str) -> float:
    """Return the variance of a cost in accuracy that comes from the size of the test set.

    Both models are tested on the same n samples. Only those count on which exactly one is right, a
    fraction d of them: the variance is (d - cost^2) / n.
    """
    name = f"{against}_disagreement"
    needed = ("judged_samples", name, f"{against}_accuracy")
    known = [r for r in records if all(r[field] is not None for field in needed)]
    if not known:
        return 0.0
    disagreement = statistics.fmean(record[name] for record in known)
    cost = statistics.fmean(costs(known, against))
    return max(0.0, disagreement - cost**2) / min(record["judged_samples"] for record in known)


def costs(records: Sequence[Record], against: str) -> list[float | None]:
    """Return what each mark costs: the accuracy of the model ``against`` less the marked one's."""
    name = f"{against}_accuracy"
    return [
        None if record[name] is None else record[name] - record["watermarked_accuracy"]
        for record in records
    ]


def field_interval(records: Sequence[Record], name: str) -> tuple[float, float, float]:
    """Return ``mean_interval`` of a field, with the test set's error where it is a suspect's."""
    variance = error_variance(records, name) if name == "suspect_accuracy" else 0.0
    return mean_interval([record[name] for record in records], variance)


def accuracy_loss(record: Record) -> float:
    """Return what the attack cost in accuracy: the watermarked model's less the suspect's."""
    return record["watermarked_accuracy"] - record["suspect_accuracy"]


def mean_loss(records: Sequence[Record]) -> float:
    """Return the mean of ``accuracy_loss``."""
    return statistics.fmean(map(accuracy_loss, records))


def _accuracy(model: str) -> Column:
    name = f"{model}_accuracy"
    return lambda records: format_mean([r[name] for r in records], error_variance(records, name))


def _cost(against: str) -> Column:
    return lambda records: format_mean(costs(records, against), cost_variance(records, against))


def _suspect(records: Sequence[Record]) -> str:
    """Return the suspect's accuracy, with a dagger where its mean loss is above 5 points."""
    return _accuracy("suspect")(records) + (" †" if mean_loss(records) > MAX_LOSS else "")


def _fraction(name: str) -> Column:
    return lambda records: format_mean([record[name] for record in records])


def _p(summary: Callable[[Iterable[float]], float], name: str = "p_value") -> Column:
    def column(records: Sequence[Record]) -> str:
        p = [record[name] for record in records if record[name] is not None]
        return format_p(summary(p)) if p else MISSING

    return column


def _claims(records: Sequence[Record]) -> str:
    """Return in how many of the cells that have a key, and could have a mark, a claim is made."""
    keyed = [r for r in records if r["commitment"] and r["reason"] != NEVER_ASKED]
    return f"{sum(record['claimed'] for record in keyed)} of {len(keyed)}" if keyed else MISSING


def _claimed(records: Sequence[Record]) -> str:
    """Return ``_claims`` for a table of one seed."""
    return {"0 of 1": "no", "1 of 1": "yes"}.get(_claims(records), _claims(records))


def _forged(records: Sequence[Record]) -> str:
    """Return how many of the attackers' own keys are claimed."""
    claimed = [r["forged_claimed"] for r in records if r["forged_claimed"] is not None]
    return f"{sum(claimed)} of {len(claimed)}" if claimed else MISSING


def _corrected(records: Sequence[Record]) -> str:
    """Return the least p of an attacker's key times the number of keys that they tried."""
    p = [
        r["forged_p_value"] * r["config"]["attack"].get("keys", 1)
        for r in records
        if r["forged_p_value"] is not None
    ]
    return format_p(min([1.0, *p])) if p else MISSING


def _false_claims(records: Sequence[Record]) -> str:
    return f"{sum(r['false_claims'] for r in records)} of {sum(r['innocents'] for r in records)}"


def _radius(records: Sequence[Record]) -> str:
    """Return the least distance of weights within which a claim by triggers is certain."""
    radii = [r["certified_radius"] for r in records if r["certified_radius"] is not None]
    return f"{min(radii):.3g}" if radii else MISSING


def _identified(records: Sequence[Record]) -> str:
    """Return the messages that the verdicts identify, with their number where seeds differ."""
    messages = [record["identified"] or "none" for record in records]
    counts = {message: messages.count(message) for message in dict.fromkeys(messages)}
    if len(counts) == 1:
        return messages[0]
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _told_apart(records: Sequence[Record]) -> str:
    """Return how many customers could be registered and one who colluded still be named.

    Of the colluder of the smallest p: the level of a claim over p. The median over records.
    """
    counts = [
        record["config"]["verifier"]["levels"]["exact"] / min(record["colluders"].values())
        for record in records
        if record["colluders"]
    ]
    if not counts:
        return MISSING
    count = statistics.median(counts)
    return "none" if count < 1 else f"{round(count)}" if count < 9999 else f"{count:.0e}"


# In the order of a table: what decides comes before what only describes.
COLUMNS: dict[str, Column] = {
    "claimed": _claimed,
    "claims": _claims,
    "p": _p(max),
    "p median": _p(statistics.median),
    "p max": _p(max),
    "p min": _p(min),
    "forged": _forged,
    "forged p": _p(min, "forged_p_value"),  # the largest claim of an attacker
    "corrected p": _corrected,
    "identified": _identified,
    "owner's p": _p(max, "owner_p_value"),  # of what all customers' copies share
    "told apart": _told_apart,
    "suspect": _suspect,
    "cost": _cost("control"),
    "vs victim": _cost("victim"),
    "victim": _accuracy("victim"),
    "control": _accuracy("control"),
    "marked": _accuracy("watermarked"),
    "mark acc.": _fraction("watermark_accuracy"),
    "mark acc. of 10": _fraction("watermark_accuracy_of_10"),
    "mark recall": _fraction("mark_recall"),
    "innocents' recall": _fraction("innocent_recall"),
    "certified l2": _radius,
    "false claims": _false_claims,
}
# Columns that some methods, attacks or verifiers alone fill, with the record's field.
OPTIONAL = {
    "forged": "forged_p_value",
    "forged p": "forged_p_value",
    "corrected p": "forged_p_value",
    "identified": "identification",
    "owner's p": "owner_p_value",
    "told apart": "colluders",
    "control": "control_accuracy",
    "mark recall": "mark_recall",
    "certified l2": "certified_radius",
    "innocents' recall": "innocent_recall",
}


def columns(rows: Sequence[Row], *, brief: bool) -> list[str]:
    """Return which of ``COLUMNS`` these rows fill; ``brief``: those that fit a terminal."""
    records = [record for row in rows for record in row.records if record]
    several = max((len(row.records) for row in rows), default=1) > 1
    left_out = {"p", "claimed"} if several else {"p median", "p max", "p min", "claims"}
    left_out |= {
        name for name, field in OPTIONAL.items() if all(record[field] is None for record in records)
    }
    if brief:
        left_out |= {"victim", "control", "marked", "mark acc. of 10", "p min", "false claims"}
    return [name for name in COLUMNS if name not in left_out]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """Return the text of each column of one row."""
    if not row.finished:
        word = "failed" if any(row.records) else "stale" if row.stale else MISSING
        return [word] + [""] * (len(names) - 1)
    return [COLUMNS[name](row.finished) for name in names]


def heading(name: str) -> str:
    """Return a column's heading: the last part of ``method.marking.eps``, ``method/detector``."""
    return re.split("[./]", name)[-1]
