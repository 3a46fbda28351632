"""Innocents by kind: which kinds of independent models a mark confuses with its own."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from softmark.report.intervals import MISSING
from softmark.report.rows import Record, Row

FEW = 3  # kinds; with fewer, the number of false claims says it all


@dataclass(frozen=True)
class Kind:
    """``innocents`` and ``false_claims`` are sums over keys, ``false_flags`` is their mean.

    None where a method gives no score a probe.
    """

    innocents: int
    false_flags: float | None
    false_claims: int


def by_kind(rows: Sequence[Row]) -> dict[str, dict[str, Kind]]:
    """Method, kind of innocent, and what was found; nothing where there are fewer than ``FEW``.

    All attacks on one key are judged beside the same innocents: they count once.
    """
    keys: dict[tuple[str, str, str], Record] = {}
    for record in (record for row in rows for record in row.done):
        if len(record["by_kind"]) >= FEW:
            key = record["stages"].get("key", record["address"])
            keys[record["method"], key, json.dumps(record["by_kind"])] = record
    found: dict[str, dict[str, list[dict[str, float]]]] = {}
    for record in keys.values():
        for name, counts in record["by_kind"].items():
            found.setdefault(record["method"], {}).setdefault(name, []).append(counts)
    return {
        method: {name: _together(counts) for name, counts in kinds.items()}
        for method, kinds in found.items()
    }


def _together(counts: list[dict[str, float]]) -> Kind:
    flags = [each["false_flags"] for each in counts if each["false_flags"] is not None]
    return Kind(
        sum(int(each["innocents"]) for each in counts),
        statistics.fmean(flags) if flags else None,
        sum(int(each["false_claims"]) for each in counts),
    )


def names_of(found: dict[str, dict[str, Kind]]) -> list[str]:
    """All kinds, the one that is flagged most first."""
    names = dict.fromkeys(name for kinds in found.values() for name in kinds)

    def flagged(name: str) -> float:
        return max(kinds[name].false_flags or 0.0 for kinds in found.values() if name in kinds)

    return sorted(names, key=flagged, reverse=True)


def kinds_table(rows: Sequence[Row]) -> list[list[str]]:
    """Head and lines of a table by kind of innocent; nothing where ``by_kind`` finds nothing."""
    found = by_kind(rows)
    if not found:
        return []
    shown = ("innocents", "false flags in %", "false claims")
    lines = [["kind of innocent", *(f"{method}: {what}" for method in found for what in shown)]]
    for name in names_of(found):
        line = [name]
        for kinds in found.values():
            kind = kinds.get(name)
            if kind is None:
                line += [MISSING] * 3
                continue
            known = kind.false_flags is not None
            flags = f"{100 * kind.false_flags:.1f}" if known else MISSING
            line += [str(kind.innocents), flags, str(kind.false_claims)]
        lines.append(line)
    return lines
