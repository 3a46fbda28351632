"""The footnotes of a table: sentences without their full stop."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from softmark.experiment.provenance import processor
from softmark.report.columns import cells
from softmark.report.rows import Record, Row

MARK_ACCURACY = (
    "Watermark accuracy (mark acc.) says how often single probes of this model are told from "
    "innocents' probes; it recognises a model, not a key"
)
CERTIFIED = (
    "certified l2: the least distance, over the keys, by which an attack must move the watermarked "
    "model's weights before a claim by triggers can be lost, at noise on the weights (Bansal et "
    "al. 2022)"
)
SMOKE = "scale=smoke shows that everything runs: no figure here means anything"
FORGED = (
    "forged: claims with the attacker's own key; forged p: the least p of such a key; corrected p: "
    "the same, multiplied by the number of keys that the attacker tried"
)
COST = (
    "Cost is the control's accuracy less the watermarked model's; the control is the victim, "
    "trained on for as long and in the same way without a mark; vs victim is the victim's accuracy "
    "less the same"
)
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?")


def seed_notes(rows: Sequence[Row]) -> list[str]:
    """Return what the numbers of several seeds are; nothing for one seed."""
    count = max((len(row.records) for row in rows), default=1)
    if count == 1:
        return []
    if count == 2:
        return ["The values of both seeds"]
    return [
        f"Mean ± 95 % interval over {count} seeds",
        "The intervals of models' accuracies and of costs include the test set's own error",
    ]


def footnotes(rows: Sequence[Row]) -> list[str]:
    """Return notes on nulls, the dagger, costs, watermark accuracy, processors and warnings."""
    records = [record for row in rows for record in row.finished]
    nulls: dict[str, dict[str, None]] = {}
    for record in records:
        if record["null"]:
            nulls.setdefault(record["method"], {})[record["null"]] = None
    methods: dict[str, list[str]] = {}
    for method, of_method in nulls.items():
        methods.setdefault(" or ".join(of_method), []).append(method)
    lines = [f"p of {', '.join(names)} stands on {null}" for null, names in methods.items()]
    if any("†" in cell for row in rows for cell in cells(row, ["suspect"])):
        lines.append("† more than 5 points worse than the watermarked model")
    if any(record["control_accuracy"] is not None for record in records):
        lines.append(COST)
    if any(record["forged_p_value"] is not None for record in records):
        lines.append(FORGED)
    if any(record["watermark_accuracy"] is not None for record in records):
        lines.append(MARK_ACCURACY)
    if any(record["certified_radius"] is not None for record in records):
        lines.append(CERTIFIED)
    if any(record["scale"] == "smoke" for record in records):
        lines.append(SMOKE)
    return [*lines, *_processors(records), *_warnings(records)]


def gap_notes(rows: Sequence[Row]) -> list[str]:
    """Return why cells failed, and how many only older code has made."""
    reasons = [r["reason"] for row in rows for r in row.records if r and r["status"] == "failed"]
    lines = [f"Failed: {reason}" for reason in dict.fromkeys(reasons)]
    if stale := sum(row.stale for row in rows):
        cells = "1 cell was" if stale == 1 else f"{stale} cells were"
        lines.append(f"{cells} last made by older code: not shown, to be run again")
    return lines


def made_with(records: Sequence[Record]) -> str:
    """Return the commits, versions, machines and dates that occur in the records."""
    versions = {", ".join(f"{k} {v}" for k, v in record["versions"].items()) for record in records}
    machines = {record["machine"] for record in records} - {None}
    commits = sorted({record["commit"] for record in records} - {None})
    dates = sorted(record["date"][:10] for record in records)
    days = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    commit = f"commit {', '.join(commits)}" if commits else ""
    return "; ".join(filter(None, [commit, *sorted(versions), *sorted(machines), days])) + "."


def _warnings(records: Sequence[Record]) -> list[str]:
    """Return each warning once, with the least and the largest of each number in it."""
    templates: dict[str, list[list[str]]] = {}
    for record in records:
        for warning in record["warnings"]:
            templates.setdefault(NUMBER.sub("{}", warning), []).append(NUMBER.findall(warning))
    lines = []
    for template, numbers in templates.items():
        ends = [(min(n, key=float), max(n, key=float)) for n in zip(*numbers, strict=True)]
        text = template.format(*(" to ".join(dict.fromkeys(pair)) for pair in ends))
        lines.append(f"Warning ({len(numbers)} of {len(records)} cells): {text}")
    return lines


def _processors(records: Sequence[Record]) -> list[str]:
    """Return which processors made the records, unless it was this machine's alone."""
    # "2 cores of AMD EPYC, NVIDIA H100": the number of cores is no kind of processor.
    machines = [record["machine"] for record in records if record["machine"]]
    kinds = Counter(machine.partition(" cores of ")[2] or machine for machine in machines)
    this_processor = processor()
    if len(kinds) < 2 and all(kind.startswith(this_processor) for kind in kinds):
        return []
    listed = ", ".join(f"{kind} ({n} of {len(machines)} cells)" for kind, n in kinds.items())
    known = any(kind.startswith(this_processor) for kind in kinds)
    other = "" if known else f"; the table was written on {this_processor}"
    return [f"Last digits may differ between processors: made on {listed}{other}"]
