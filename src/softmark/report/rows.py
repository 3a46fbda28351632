"""How records become rows: one row for the cells that differ in their seed only.

Nothing here knows the commands that made the records: a record tells its overrides and its config.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from softmark.experiment import record as schema
from softmark.experiment.plan import UNHASHED
from softmark.report.intervals import MISSING

Record = dict[str, Any]
# Overrides that say nothing beside a section's title, a row's first columns and its seeds.
SHOWN = {"data", "scale", "method", "attack", "seed"}


def filled(record: Record) -> Record:
    """``record`` with every field of the schema: one that older code didn't write has its default.

    It may have been written under the same address: the schema is no part of that.
    """
    known = {name: value for name, value in record.items() if value is not None}
    return {**dataclasses.asdict(schema.Record()), **known}


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only; ``stale``: how many only older code has made."""

    name: tuple[str, ...]
    records: tuple[Record | None, ...]
    stale: int = 0

    @property
    def done(self) -> list[Record]:
        return [record for record in self.records if record and record["status"] == "done"]


def rows_of(records: Sequence[Record], *, stale: bool) -> tuple[list[Row], list[str]]:
    """A row for the records that differ in their seed only, and the names of what else differs.

    The first two names are method and attack. What older code made (``stale``) is distinguished by
    commit and versions too, and where a seed occurs twice even so, the later one is another copy.
    """
    groups: dict[str, tuple[dict[str, str], list[Record]]] = {}
    chosen: dict[str, None] = {}
    copies: Counter[tuple[str, int]] = Counter()
    for record in sorted(records, key=lambda record: (record["seed"], record["date"])):
        chosen |= dict.fromkeys(_overridden(record))
        facts = _facts(record, stale)
        copies[json.dumps(facts), record["seed"]] += 1
        facts["copy"] = str(copies[json.dumps(facts), record["seed"]])
        groups.setdefault(json.dumps(facts), (facts, []))[1].append(record)
    varied = _varied([facts for facts, _ in groups.values()], list(chosen))
    rows = [
        Row(tuple(facts.get(key, MISSING) for key in varied), tuple(own))
        for facts, own in groups.values()
    ]
    return sorted(rows, key=lambda row: [_natural(part) for part in row.name]), varied


def _overridden(record: Record) -> dict[str, str]:
    """The keys that the command line chose, with their values, but for those shown elsewhere."""
    lines = (line.partition("=")[::2] for line in record["overrides"])
    return {
        key: value or "removed"
        for key, value in ((key.lstrip("+"), value) for key, value in lines)
        if key not in SHOWN and key.partition(".")[0] not in UNHASHED
    }


def _facts(record: Record, stale: bool) -> dict[str, str]:
    """All that tells one row from another, by key: the config's leaves before the overrides."""
    facts = {**_overridden(record), **dict(flat(record["config"]))}
    facts |= {"method": record["method"], "attack": record["attack"]}
    facts |= {"precision": str(record["precision"])}
    facts.pop("seed", None)
    if stale:
        facts |= {"commit": str(record["commit"] or MISSING)}
        facts |= {f"version of {name}": version for name, version in record["versions"].items()}
    return facts


def flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a config as dotted key and text; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)


def _varied(facts: list[dict[str, str]], chosen: Iterable[str]) -> list[str]:
    """As many keys as it takes to tell all rows apart: first of ``chosen``, then of the others.

    What always goes together with a key before it makes no column: a row's details show it.
    """

    def names(keys: list[str]) -> int:
        return len({tuple(fact.get(key) for key in keys) for fact in facts})

    def width(key: str) -> int:
        return max(len(fact.get(key, "")) for fact in facts)

    varied = ["method", "attack"]
    others = {key for fact in facts for key in fact} - set(chosen)
    # Short values read best; of the others the outermost: recipe.lr before attack.recipe.lr.
    outermost = sorted(others, key=lambda key: (key.count("."), len(key), key))
    for key in [*sorted(chosen, key=width), *outermost]:
        if names([*varied, key]) > names(varied):
            varied.append(key)
    return varied


def _natural(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by size and before words, and "none" before other words."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, "" if text in ("none", MISSING) else text
