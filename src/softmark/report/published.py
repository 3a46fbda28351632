"""Published tables as records: what a CSV that ``softmark report`` wrote says of each cell.

So a comparison or a page can be made where nothing was run. What a CSV doesn't hold (the config,
the training curves, single tests) such a record doesn't hold either.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.nodes import short
from softmark.renamed import ATTACKS
from softmark.report.rows import FIELDS, Record, Row, filled, rows_of

KINDS = {field.name: str(field.type).partition(" ")[0] for field in FIELDS}
# What every table of cells has, however old.
NEEDED = (
    *("method", "attack", "seed", "status", "watermarked_accuracy", "suspect_accuracy"),
    *("p_value", "claimed", "address"),
)
# A CSV of before doesn't say which data it is about: its file's name does, up to the first dash.
DATA_OF_FILES = {"full": ("cifar10", "full")}
CHOSEN = ("method", "attack", "data", "scale", "seed")
UNKNOWN = "not in the published table"


def published_records(path: Path) -> list[Record]:
    """Return a record for each line of the CSV ``path``, attacks under today's names.

    A column that is no field of a record varied in the sweep: it becomes an override.

    Raises:
        InputError: the file can't be read, or is no table of cells.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: {short(getattr(error, 'strerror', None) or error)}") from error
    missing = [name for name in NEEDED if not lines or name not in lines[0]]
    if missing:
        raise InputError(f"{path}: no CSV of softmark report: no column {', '.join(missing)}")
    records = []
    for number, line in enumerate(lines, 2):
        try:
            records.append(_record(line, path))
        except (LookupError, ValueError, TypeError) as error:
            raise InputError(f"{path}, line {number}: {short(error)}") from error
    return records


def _record(line: dict[str, str], path: Path) -> Record:
    prefix = path.stem.partition("-")[0]
    data, scale = DATA_OF_FILES.get(prefix, (prefix, "small"))
    known = {name: _value(name, text) for name, text in line.items() if name in KINDS}
    attack = ATTACKS.get(known["attack"], known["attack"])
    shown = {**known, "attack": attack}
    # As far as the table says what was run; a varied key is no field of a record.
    overrides = [f"{name}={shown[name]}" for name in CHOSEN if shown.get(name) is not None]
    overrides += [f"{name}={text}" for name, text in line.items() if name not in KINDS]
    record = {
        "data": data,
        "scale": scale,
        "innocent_suspect": attack.startswith("innocent_"),
        # Of a method without keys there is nothing to commit to.
        "commitment": None if known["method"] == "none" else UNKNOWN,
        **{name: value for name, value in known.items() if value is not None},
        "attack": attack,
        "overrides": overrides,
    }
    return filled(record)


def _value(name: str, text: str) -> Any:
    """Return what the CSV's ``text`` is in a record; None for nothing."""
    if text == "":
        return None
    kind = KINDS[name]
    if kind == "bool":
        return {"True": True, "False": False}[text]
    return {"int": int, "float": float}.get(kind, str)(text)


def published_tables(paths: Sequence[Path]) -> dict[tuple[str, str], tuple[list[Row], list[str]]]:
    """Return rows, and the keys of their names, by data set and scale, of the tables ``paths``.

    Where several tables have a method after an attack, on the same data, the first one counts.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    owners: dict[tuple[str, ...], Path] = {}
    for path in paths:
        for record in published_records(path):
            group = (record["data"], record["scale"])
            # All seeds of a cell come from one table.
            settings = [line for line in record["overrides"] if not line.startswith("seed=")]
            cell = (*group, record["method"], record["attack"], *settings)
            if owners.setdefault(cell, path) == path:
                groups.setdefault(group, []).append(record)
    return {group: rows_of(records, stale=False) for group, records in groups.items()}
