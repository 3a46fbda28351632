"""The verdict of one cell in words."""

from __future__ import annotations

from collections.abc import Callable

from softmark.report.numbers import MISSING, format_p, format_percent
from softmark.report.rows import Record

MODELS = ("victim", "control", "watermarked", "suspect")


def claim(record: Record) -> str:
    """Return whether a claim is made, or why there is no p-value."""
    if record["p_value"] is None:
        return record["reason"] or "no p-value"
    verdict = "claimed" if record["claimed"] else "not claimed"
    return f"{verdict} ({record['reason']})" if record["reason"] else verdict


def facts(record: Record) -> list[tuple[str, str]]:
    """Return name and text of each line of a verdict: the claim, its price, what it rests on."""
    probes = "" if record["probes"] is None else f" ({record['probes']} probes)"
    p_value = f"{format_p(record['p_value'])}{probes}"
    lines = [
        ("verdict", claim(record)),
        ("p-value", p_value if record["p_value"] is not None else ""),
        ("null", ", ".join(f"{name} {format_p(p)}" for name, p in record["tests"].items())),
        ("p before the attack", _format(record["p_before_attack"], format_p)),
        ("attacker", _attacker(record)),
        ("attacker's own key", _forged(record)),
        ("identified message", _identified(record)),
        ("false claims", _false_claims(record)),
        ("most flagged innocents", _worst_kind(record)),
        ("accuracies", _accuracies(record)),
        ("cost of the mark", _cost(record)),
        ("watermark accuracy", _watermark_accuracy(record)),
        ("mark recall", _format(record["mark_recall"], format_percent)),
        ("certified", _certified(record)),
        ("unusable answers", f"{record['unusable']}" if record["unusable"] else ""),
        *(("warning", warning) for warning in record["warnings"]),
    ]
    return [(name, text) for name, text in lines if text]


def _format(value: float | None, formatter: Callable[[float], str]) -> str:
    return "" if value is None else formatter(value)


def _attacker(record: Record) -> str:
    """Return what they needed, knew and spent."""
    if record["access"] is None:
        return ""
    knows = ", knows the method" if record["knows"] == "method" else ""
    spent = f"{record['queries']} queries, {record['epochs'] or 0:g} epochs"
    note = f"; {record['attack_note']}" if record["attack_note"] else ""
    return f"has {record['access']}{knows}; {spent}{note}"


def _forged(record: Record) -> str:
    if record["forged_p_value"] is None:
        return ""
    word = "claimed" if record["forged_claimed"] else "not claimed"
    return f"{word}, p {format_p(record['forged_p_value'])}"


def _identified(record: Record) -> str:
    """Return whose mark it is, where messages were registered."""
    p_values = record["identification"]
    if not p_values:
        return ""
    of = f"p {format_p(min(p_values.values()))}, corrected for {len(p_values)} messages"
    return f"{record['identified'] or 'none proven'} ({of})"


def _false_claims(record: Record) -> str:
    if not record["innocents"]:
        return MISSING
    counts = f"{record['false_claims']} of {record['innocents']}"
    if record["false_claims_upper"] is None:
        return counts
    return f"{counts} (95 %: at most {format_percent(record['false_claims_upper'])})"


def _worst_kind(record: Record) -> str:
    kinds = record["by_kind"]
    if not kinds:
        return ""
    name = max(kinds, key=lambda kind: kinds[kind]["false_flags"] or 0.0)
    return f"{name}, {format_percent(kinds[name]['false_flags'])} of its probes"


def _accuracies(record: Record) -> str:
    known = {model: record[f"{model}_accuracy"] for model in MODELS}
    return ", ".join(f"{name} {format_percent(a)}" for name, a in known.items() if a is not None)


def _cost(record: Record) -> str:
    marked = record["watermarked_accuracy"]
    costs = [
        f"{100 * (record[f'{name}_accuracy'] - marked):.2f} points against the {name}"
        for name in ("control", "victim")
        if None not in (marked, record[f"{name}_accuracy"])
    ]
    return ", ".join(costs)


def _certified(record: Record) -> str:
    """Return how far weights may move before a claim by triggers can be lost."""
    if record["certified_radius"] is None:
        return ""
    norm = record["certificate"].get("norm")
    of = "" if norm is None else f"; all weights together have {norm:.1f}"
    return f"a claim by triggers, within {record['certified_radius']:.3g} of the weights in l2{of}"


def _watermark_accuracy(record: Record) -> str:
    single, ten = record["watermark_accuracy"], record["watermark_accuracy_of_10"]
    accuracies = [
        f"{format_percent(value)} for {probes}"
        for value, probes in ((single, "one probe"), (ten, "ten together"))
        if value is not None
    ]
    return ", ".join(accuracies)
