"""Rows of a table, from records: one row for the cells that differ in their seed only.

Records alone say what a row is, not the commands that made them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from softmark.experiment import record as schema
from softmark.experiment.plan import UNHASHED
from softmark.report.numbers import MISSING

Record = dict[str, Any]
FIELDS = dataclasses.fields(schema.Record)
# Overrides that a section's title, a row's first columns and its seeds show anyway.
SHOWN_ELSEWHERE = {"data", "scale", "method", "attack", "seed"}


def filled(record: Record) -> Record:
    """Return ``record`` with every field of the schema, its default where older code wrote none.

    Such a record may have an address of today: the schema is no part of that.
    """
    known = {name: value for name, value in record.items() if value is not None}
    defaults = {
        field.name: field.default_factory() if callable(field.default_factory) else field.default
        for field in FIELDS
    }
    return {**defaults, **known}


@dataclass(frozen=True)
class Row:
    """The cells that differ in their seed only.

    Attributes:
        name: The values of the config keys in which rows differ.
        records: One a seed; None where it is missing.
        stale: How many of the seeds only older code has made.
    """

    name: tuple[str, ...]
    records: tuple[Record | None, ...]
    stale: int = 0

    @property
    def finished(self) -> list[Record]:
        """Return the records of cells that have run to their end."""
        return [record for record in self.records if record and record["status"] == "done"]


def rows_of(records: Sequence[Record], *, stale: bool) -> tuple[list[Row], list[str]]:
    """Return a row for the records that differ in their seed only, and the keys of its name.

    The first two keys are method and attack. Of a seed that occurs twice, the later record is
    another copy.

    Args:
        records: All of a section.
        stale: Whether older code made them; commit and versions tell rows apart then, too.
    """
    groups: dict[tuple[Any, int], list[Record]] = {}
    chosen: dict[str, None] = {}
    copies: Counter[tuple[Any, int]] = Counter()
    for record in sorted(records, key=lambda record: (record["seed"], record["date"])):
        overridden = _overridden(record)
        chosen |= dict.fromkeys(overridden)
        identity = _identity(record, overridden, stale)
        copies[identity, record["seed"]] += 1
        groups.setdefault((identity, copies[identity, record["seed"]]), []).append(record)
    settings = [
        {**_settings(of_row[0], stale), "copy": str(copy)} for (_, copy), of_row in groups.items()
    ]
    varied = _varied(settings, list(chosen))
    rows = [
        Row(tuple(of_row.get(key, MISSING) for key in varied), tuple(records_of_row))
        for of_row, records_of_row in zip(settings, groups.values(), strict=True)
    ]
    return sorted(rows, key=lambda row: [_natural(part) for part in row.name]), varied


def _overridden(record: Record) -> dict[str, str]:
    """Return what the command line set, by key, but for what is shown elsewhere."""
    lines = (line.partition("=")[::2] for line in record["overrides"])
    return {
        key: value or "removed"
        for key, value in ((key.lstrip("+"), value) for key, value in lines)
        if key not in SHOWN_ELSEWHERE and key.partition(".")[0] not in UNHASHED
    }


def _identity(record: Record, overridden: dict[str, str], stale: bool) -> tuple[Any, ...]:
    """Return what is equal where all ``_settings`` are: quicker to have than these."""
    nodes = [(name, json.dumps(value)) for name, value in record["config"].items()]
    nodes = [node for node in nodes if node[0] != "seed"]
    texts = dict(nodes)
    others = []
    for key, value in overridden.items():
        name = key.partition(".")[0]
        # The config says it better.
        if name not in texts or key not in leaves(name, texts[name]):
            others.append((key, value))
    versions = tuple(record["versions"].items()) if stale else ()
    commit = record["commit"] if stale else None
    names = (record["method"], record["attack"], str(record["precision"]))
    return (*names, tuple(nodes), tuple(others), commit, versions)


def _settings(record: Record, stale: bool) -> dict[str, str]:
    """Return all settings in which rows may differ, by key; the config goes before overrides."""
    settings = _overridden(record)
    for name, value in record["config"].items():
        settings |= leaves(name, json.dumps(value))
    settings |= {"method": record["method"], "attack": record["attack"]}
    settings |= {"precision": str(record["precision"])}
    settings.pop("seed", None)
    if stale:
        settings |= {"commit": str(record["commit"] or MISSING)}
        settings |= {f"version of {name}": text for name, text in record["versions"].items()}
    return settings


@functools.lru_cache(maxsize=10_000)
def leaves(name: str, text: str) -> dict[str, str]:
    """Return the leaves of the node ``name`` of a config, which is ``text`` in JSON: not to change.

    Thousands of records share few nodes.
    """
    return dict(flat({name: json.loads(text)}))


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of a config as dotted key and text; a list is a leaf."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, str) else json.dumps(value)


def _varied(settings: list[dict[str, str]], chosen: Iterable[str]) -> list[str]:
    """Return as many keys as it takes to tell all rows apart: of ``chosen`` before the others.

    What always goes together with a key before it makes no column: a row's details show it.
    """

    def width(key: str) -> int:
        return max(len(row.get(key, "")) for row in settings)

    varied = ["method", "attack"]
    # For each row the number of its group: rows of one group agree in all of ``varied``.
    groups = _groups([tuple(row.get(key) for key in varied) for row in settings])
    others = {key for row in settings for key in row} - set(chosen)
    # Short values read best; of the others the outermost: recipe.lr before attack.recipe.lr.
    outermost = sorted(others, key=lambda key: (key.count("."), len(key), key))
    for key in [*sorted(chosen, key=width), *outermost]:
        finer = _groups(
            [(group, row.get(key)) for group, row in zip(groups, settings, strict=True)]
        )
        if max(finer, default=0) > max(groups, default=0):
            varied.append(key)
            groups = finer
    return varied


def _groups(values: Sequence[Hashable]) -> list[int]:
    """Return a number for each value, from 0 on: equal ones have equal numbers."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _natural(text: str) -> tuple[bool, float, str]:
    """Return a key that sorts numbers by size, then "none", then other words."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, "" if text in ("none", MISSING) else text
