"""Innocents by kind: which kinds of independent models a mark confuses with its own."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from softmark.report.numbers import MISSING
from softmark.report.rows import Record, Row

MIN_KINDS = 3  # with fewer, the number of false claims says it all


@dataclass(frozen=True)
class Kind:
    """What was found of one kind of innocent.

    Attributes:
        innocents: The sum over all keys.
        false_flags: The part of the probes that is flagged, the mean over all keys; None where a
            method gives a probe no score.
        false_claims: The sum over all keys.
    """

    innocents: int
    false_flags: float | None
    false_claims: int


def by_kind(rows: Sequence[Row]) -> dict[str, dict[str, Kind]]:
    """Return each kind of innocent by method; nothing where there are fewer than ``MIN_KINDS``.

    All attacks on one key are judged beside the same innocents: they count once.
    """
    distinct: dict[tuple[str, str, str], Record] = {}
    for record in (record for row in rows for record in row.finished):
        if len(record["by_kind"]) >= MIN_KINDS:
            key_address = record["stages"].get("key", record["address"])
            distinct[record["method"], key_address, json.dumps(record["by_kind"])] = record
    counts: dict[str, dict[str, list[dict[str, float]]]] = {}
    for record in distinct.values():
        for name, of_key in record["by_kind"].items():
            counts.setdefault(record["method"], {}).setdefault(name, []).append(of_key)
    return {
        method: {name: _sum(of_keys) for name, of_keys in kinds.items()}
        for method, kinds in counts.items()
    }


def _sum(of_keys: list[dict[str, float]]) -> Kind:
    flags = [counts["false_flags"] for counts in of_keys if counts["false_flags"] is not None]
    return Kind(
        sum(int(counts["innocents"]) for counts in of_keys),
        statistics.fmean(flags) if flags else None,
        sum(int(counts["false_claims"]) for counts in of_keys),
    )


def kind_names(methods: dict[str, dict[str, Kind]]) -> list[str]:
    """Return the names of all kinds, the one that is flagged most first."""
    names = dict.fromkeys(name for kinds in methods.values() for name in kinds)

    def flagged(name: str) -> float:
        return max(kinds[name].false_flags or 0.0 for kinds in methods.values() if name in kinds)

    return sorted(names, key=flagged, reverse=True)


def kinds_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return head and lines of a table by kind of innocent; nothing where there are too few."""
    methods = by_kind(rows)
    if not methods:
        return []
    shown = ("innocents", "false flags in %", "false claims")
    lines = [["kind of innocent", *(f"{method}: {name}" for method in methods for name in shown)]]
    for name in kind_names(methods):
        line = [name]
        for kinds in methods.values():
            kind = kinds.get(name)
            if kind is None:
                line += [MISSING] * 3
                continue
            known = kind.false_flags is not None
            flags = f"{100 * kind.false_flags:.1f}" if known else MISSING
            line += [str(kind.innocents), flags, str(kind.false_claims)]
        lines.append(line)
    return lines
