"""The columns of a table: what each says of the finished cells of a row."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence

from softmark.report.intervals import MISSING, interval, number, spelled
from softmark.report.rows import Record, Row

USELESS = 0.05  # the loss of accuracy beyond which a suspect is no longer worth stealing
Column = Callable[[Sequence[Record]], str]


def error_variance(done: Sequence[Record], name: str) -> float:
    """The variance that the size of the test set gives to the accuracy ``name``."""
    known = [r for r in done if r["judged_samples"] and r[name] is not None]
    if not known:
        return 0.0
    mean = statistics.fmean(record[name] for record in known)
    return mean * (1 - mean) / min(record["judged_samples"] for record in known)


def cost_variance(done: Sequence[Record], against: str) -> float:
    """The variance that the size of the test set gives to a cost in accuracy.

    Both models are tested on the same samples: only those count on which exactly one is right, a
    part d of n, so that it is (d - cost^2) / n.
    """
    name = f"{against}_disagreement"
    needed = ("judged_samples", name, f"{against}_accuracy")
    known = [record for record in done if all(record[each] is not None for each in needed)]
    if not known:
        return 0.0
    apart = statistics.fmean(record[name] for record in known)
    cost = statistics.fmean(costs(known, against))
    return max(0.0, apart - cost**2) / min(record["judged_samples"] for record in known)


def costs(done: Sequence[Record], against: str) -> list[float | None]:
    """What the mark costs in accuracy: that of the model ``against`` less the watermarked one's."""
    name = f"{against}_accuracy"
    return [
        None if record[name] is None else record[name] - record["watermarked_accuracy"]
        for record in done
    ]


def interval_of(done: Sequence[Record], name: str) -> tuple[float, float, float]:
    """``interval`` of the field ``name``, with the test set's error where it is a suspect's."""
    tested = error_variance(done, name) if name == "suspect_accuracy" else 0.0
    return interval([record[name] for record in done], tested)


def loss(record: Record) -> float:
    """What the attack cost in accuracy: the watermarked model's less the suspect's."""
    return record["watermarked_accuracy"] - record["suspect_accuracy"]


def lost(done: Sequence[Record]) -> float:
    """``loss`` on average."""
    return statistics.fmean(map(loss, done))


def _accuracy(model: str) -> Column:
    name = f"{model}_accuracy"
    return lambda done: spelled([record[name] for record in done], error_variance(done, name))


def _cost(against: str) -> Column:
    return lambda done: spelled(costs(done, against), cost_variance(done, against))


def _suspect(done: Sequence[Record]) -> str:
    """With a dagger where it is on average more than 5 points worse than the watermarked model."""
    return _accuracy("suspect")(done) + (" †" if lost(done) > USELESS else "")


def _share(name: str) -> Column:
    return lambda done: spelled([record[name] for record in done])


def _p(summary: Callable[[Iterable[float]], float], name: str = "p_value") -> Column:
    def column(done: Sequence[Record]) -> str:
        p = [record[name] for record in done if record[name] is not None]
        return number(summary(p)) if p else MISSING

    return column


def _claims(done: Sequence[Record]) -> str:
    """In how many of the cells that have a key a claim is made."""
    keyed = [record for record in done if record["commitment"]]
    return f"{sum(record['claimed'] for record in keyed)} of {len(keyed)}" if keyed else MISSING


def _claimed(done: Sequence[Record]) -> str:
    """``_claims`` in a table of one seed."""
    return {"0 of 1": "no", "1 of 1": "yes"}.get(_claims(done), _claims(done))


def _forged(done: Sequence[Record]) -> str:
    """In how many of the cells that have one an attacker's own key is claimed."""
    claimed = [r["forged_claimed"] for r in done if r["forged_claimed"] is not None]
    return f"{sum(claimed)} of {len(claimed)}" if claimed else MISSING


def _corrected(done: Sequence[Record]) -> str:
    """The least p of an attacker's key, multiplied by the number of keys that they tried."""
    p = [
        r["forged_p_value"] * r["config"]["attack"].get("keys", 1)
        for r in done
        if r["forged_p_value"] is not None
    ]
    return number(min([1.0, *p])) if p else MISSING


def _false(done: Sequence[Record]) -> str:
    return f"{sum(r['false_claims'] for r in done)} of {sum(r['innocents'] for r in done)}"


def _names(done: Sequence[Record]) -> str:
    """The messages that the verdicts name, with their number where seeds differ."""
    named = [record["identified"] or "none" for record in done]
    counts = {name: named.count(name) for name in dict.fromkeys(named)}
    if len(counts) == 1:
        return named[0]
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


# In the order of a table: first what decides, last what only describes.
COLUMNS: dict[str, Column] = {
    "claimed": _claimed,
    "claims": _claims,
    "p": _p(max),
    "p median": _p(statistics.median),
    "p worst": _p(max),
    "p least": _p(min),
    "forged": _forged,
    "forged p": _p(min, "forged_p_value"),  # the largest claim of an attacker
    "corrected p": _corrected,
    "names": _names,
    "suspect": _suspect,
    "cost": _cost("control"),
    "vs victim": _cost("victim"),
    "victim": _accuracy("victim"),
    "control": _accuracy("control"),
    "marked": _accuracy("watermarked"),
    "mark acc.": _share("watermark_accuracy"),
    "of 10": _share("watermark_accuracy_of_10"),
    "mark recall": _share("mark_recall"),
    "false claims": _false,
}
# What some methods, attacks or verifiers alone have: the column, and the record's field.
OPTIONAL = {
    "forged": "forged_p_value",
    "forged p": "forged_p_value",
    "corrected p": "forged_p_value",
    "names": "identification",
    "control": "control_accuracy",
    "mark recall": "mark_recall",
}


def columns(rows: Sequence[Row], *, brief: bool) -> list[str]:
    """Which of ``COLUMNS`` say something of these rows; ``brief``: those that fit a terminal."""
    records = [record for row in rows for record in row.records if record]
    several = max((len(row.records) for row in rows), default=1) > 1
    left_out = {"p", "claimed"} if several else {"p median", "p worst", "p least", "claims"}
    left_out |= {
        name for name, field in OPTIONAL.items() if all(record[field] is None for record in records)
    }
    if brief:
        left_out |= {"victim", "control", "marked", "of 10", "p least", "false claims"}
    return [name for name in COLUMNS if name not in left_out]


def cells(row: Row, names: Sequence[str]) -> list[str]:
    """The text of one row, over its finished cells."""
    if not row.done:
        word = "failed" if any(row.records) else "stale" if row.stale else MISSING
        return [word] + [""] * (len(names) - 1)
    return [COLUMNS[name](row.done) for name in names]


def heading(key: str) -> str:
    """What stands above a column: the last part of ``method.marking.eps``, ``method/detector``."""
    return re.split("[./]", key)[-1]
