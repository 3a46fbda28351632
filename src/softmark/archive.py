"""All records of a folder: which of them this code would make, and how they become rows.

Nothing here knows the commands that made them: a record tells its overrides and its config.
"""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import get_class, instantiate

from softmark.data import fingerprint
from softmark.errors import InputError
from softmark.lab import ELSEWHERE, plan, read_record
from softmark.tables import COLUMNS, MISSING, Record, Row, cells

# Overrides that say nothing beside a section's title, a row's first columns and its seeds.
TOLD = {"data", "scale", "method", "attack", "seed"}


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """The records in ``folder``, and a line for each file there that is none."""
    records, broken = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            if record := read_record(path):
                _check(record, path)
                records.append(record)
        except InputError as error:
            broken.append(str(error).replace(str(path), path.name))
    return records, broken


def _check(record: Record, path: Path) -> None:
    """Raises ``InputError`` for a record that lacks what every table needs, or is another's."""
    try:
        for name in ("data", "scale", "method", "attack", "seed", "date", "versions"):
            record[name]
        cells(Row((), (record,)), list(COLUMNS))
        whole = record["address"] == path.stem
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: a record that lacks {error}; remove it") from error
    if not whole:
        raise InputError(f"{path}: the record of {record['address']}; remove it")


def current(record: Record, output: Path) -> bool:
    """Whether this code, with these versions and data, would make ``record`` where it lies."""
    config = record.get("config")
    if not config:
        return False
    # "auto" is another precision on another machine.
    config = {**config, "precision": record["precision"], "output_dir": str(output)}
    try:
        if not _at_hand(json.dumps(config["data"]["source"]), output):
            return False
        return plan(config).record.stem == record["address"]
    # A config of any age may fail in any way; this code can't make its cell then.
    except Exception:
        return False


@functools.lru_cache(maxsize=64)
def _at_hand(source: str, output: Path) -> bool:
    """Whether the data can be had: tried once, and not for each of hundreds of records."""
    config = json.loads(source)
    module = config["_target_"].rpartition(".")[0]
    # A record is data: it mustn't name just anything to be called.
    nested = any(isinstance(value, dict | list) for value in config.values())
    if nested or not module.startswith("softmark."):
        return False
    if get_class(config["_target_"]).__module__ != module:
        return False
    try:
        fingerprint(instantiate(config), output / "data")
    except InputError:
        return False
    return True


def rows_of(records: Sequence[Record], *, stale: bool) -> tuple[list[Row], list[str]]:
    """A row for the records that differ in their seed only, and the names of what else differs.

    The first two names are method and attack. What older code made (``stale``) is told apart by
    commit and versions too, and where a seed occurs twice even so, the later one is another copy.
    """
    groups: dict[str, tuple[dict[str, str], list[Record]]] = {}
    told: dict[str, None] = {}
    copies: Counter[tuple[str, int]] = Counter()
    for record in sorted(records, key=lambda record: (record["seed"], record["date"])):
        told |= dict.fromkeys(_overridden(record))
        facts = _facts(record, stale)
        copies[json.dumps(facts), record["seed"]] += 1
        facts["copy"] = str(copies[json.dumps(facts), record["seed"]])
        groups.setdefault(json.dumps(facts), (facts, []))[1].append(record)
    varied = _varied([facts for facts, _ in groups.values()], list(told))
    rows = [
        Row(tuple(facts.get(key, MISSING) for key in varied), tuple(own))
        for facts, own in groups.values()
    ]
    return sorted(rows, key=lambda row: [_natural(part) for part in row.name]), varied


def _overridden(record: Record) -> dict[str, str]:
    """The keys that the command line chose, with what it said, but for those told elsewhere."""
    lines = (line.partition("=")[::2] for line in record.get("overrides", ()))
    return {
        key: value or "removed"
        for key, value in ((key.lstrip("+"), value) for key, value in lines)
        if key not in TOLD and key.partition(".")[0] not in ELSEWHERE
    }


def _facts(record: Record, stale: bool) -> dict[str, str]:
    """All that tells one row from another, by key: the config's leaves before the overrides."""
    facts = {**_overridden(record), **dict(flat(record.get("config") or {}))}
    facts |= {"method": record["method"], "attack": record["attack"]}
    facts |= {"precision": str(record.get("precision"))}
    facts.pop("seed", None)
    if stale:
        facts |= {"commit": str(record.get("commit") or MISSING)}
        facts |= {f"version of {name}": version for name, version in record["versions"].items()}
    return facts


def flat(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a config as dotted key and text; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value if isinstance(value, str) else json.dumps(value)


def _varied(facts: list[dict[str, str]], told: Iterable[str]) -> list[str]:
    """As many keys as it takes to tell all rows apart: first of ``told``, then of the others.

    What always goes together with a key before it makes no column: the row's cells tell it.
    """

    def names(keys: list[str]) -> int:
        return len({tuple(fact.get(key) for key in keys) for fact in facts})

    def width(key: str) -> int:
        return max(len(fact.get(key, "")) for fact in facts)

    varied = ["method", "attack"]
    others = {key for fact in facts for key in fact} - set(told)
    # Short values read best; of the others the outermost: recipe.lr before attack.recipe.lr.
    outermost = sorted(others, key=lambda key: (key.count("."), len(key), key))
    for key in [*sorted(told, key=width), *outermost]:
        if names([*varied, key]) > names(varied):
            varied.append(key)
    return varied


def _natural(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by size and before words, and "none" before other words."""
    try:
        return False, float(text), ""
    except ValueError:
        return True, 0.0, "" if text in ("none", MISSING) else text
