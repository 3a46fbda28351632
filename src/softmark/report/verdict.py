"""The verdict of one cell in words."""

from __future__ import annotations

from softmark.report.intervals import MISSING, number, percent
from softmark.report.rows import Record

MODELS = ("victim", "control", "watermarked", "suspect")


def claim(record: Record) -> str:
    if record["p_value"] is None:
        return record["reason"] or "no p-value"
    verdict = "claimed" if record["claimed"] else "not claimed"
    return f"{verdict} ({record['reason']})" if record["reason"] else verdict


def facts(record: Record) -> list[tuple[str, str]]:
    """Name and text of each line of a verdict: claims first, then what they cost and rest on."""
    p_value = f"{number(record['p_value'])} ({record['probes']} probes)"
    lines = [
        ("verdict", claim(record)),
        ("p-value", p_value if record["p_value"] is not None else ""),
        ("its null", ", ".join(f"{name} {number(p)}" for name, p in record["tests"].items())),
        ("p before the attack", _known(record["p_before_attack"], number)),
        ("the attacker", _attacker(record)),
        ("attacker's own key", _forged(record)),
        ("carries the message", _identified(record)),
        ("innocents falsely claimed", _false_claims(record)),
        ("most false flags", _worst_kind(record)),
        ("accuracies", _accuracies(record)),
        ("cost of the mark", _cost(record)),
        ("watermark accuracy", _watermark_accuracy(record)),
        ("mark recall", _known(record["mark_recall"], percent)),
        ("unusable answers", f"{record['unusable']}" if record["unusable"] else ""),
        *(("warning", warning) for warning in record["warnings"]),
    ]
    return [(name, text) for name, text in lines if text]


def _known(value: float | None, write) -> str:
    return "" if value is None else write(value)


def _attacker(record: Record) -> str:
    """What they needed, knew and spent."""
    if record["access"] is None:
        return ""
    knows = ", knows the method" if record["knows"] == "method" else ""
    spent = f"{record['queries']} queries, {record['epochs']:g} epochs"
    note = f"; {record['attack_note']}" if record["attack_note"] else ""
    return f"has {record['access']}{knows}; {spent}{note}"


def _forged(record: Record) -> str:
    if record["forged_p_value"] is None:
        return ""
    word = "claimed" if record["forged_claimed"] else "not claimed"
    return f"{word}, p {number(record['forged_p_value'])}"


def _identified(record: Record) -> str:
    """Whose mark it is, where messages were registered."""
    p_values = record["identification"]
    if not p_values:
        return ""
    of = f"p {number(min(p_values.values()))}, corrected for {len(p_values)} messages"
    return f"{record['identified'] or 'none proven'} ({of})"


def _false_claims(record: Record) -> str:
    if not record["innocents"]:
        return MISSING
    bound = percent(record["false_claims_upper"])
    return f"{record['false_claims']} of {record['innocents']} (95 %: at most {bound})"


def _worst_kind(record: Record) -> str:
    kinds = record["by_kind"]
    if not kinds:
        return ""
    name = max(kinds, key=lambda name: kinds[name]["false_flags"] or 0.0)
    return f"{name}, {percent(kinds[name]['false_flags'])} of its probes"


def _accuracies(record: Record) -> str:
    known = {model: record[f"{model}_accuracy"] for model in MODELS}
    return ", ".join(f"{name} {percent(a)}" for name, a in known.items() if a is not None)


def _cost(record: Record) -> str:
    marked = record["watermarked_accuracy"]
    found = [
        f"{100 * (record[f'{name}_accuracy'] - marked):.2f} points against the {name}"
        for name in ("control", "victim")
        if None not in (marked, record[f"{name}_accuracy"])
    ]
    return ", ".join(found)


def _watermark_accuracy(record: Record) -> str:
    single, ten = record["watermark_accuracy"], record["watermark_accuracy_of_10"]
    found = [
        f"{percent(value)} for {probes}"
        for value, probes in ((single, "one probe"), (ten, "ten together"))
        if value is not None
    ]
    return ", ".join(found)
