"""All records of a folder, and which of them the code of today would make."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from softmark.data.cache import decode, fingerprint
from softmark.data.hub import Hub
from softmark.data.sources import Digits, ImageFolder
from softmark.data.synthetic import Synthetic
from softmark.errors import InputError
from softmark.experiment.plan import UNHASHED, plan, steps_of
from softmark.experiment.record import read_record
from softmark.nodes import short
from softmark.report.columns import COLUMNS, cells
from softmark.report.rows import Record, Row, filled

# A record is data: of the classes that it names, only these are ever made.
SOURCES = {
    "softmark.data.sources.Digits": Digits,
    "softmark.data.hub.Hub": Hub,
    "softmark.data.sources.ImageFolder": ImageFolder,
    "softmark.data.synthetic.Synthetic": Synthetic,
}
MAX_STAGES = 2000  # innocents of a pool, or steps of an attack, that a record may ask for


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """Return the records in ``folder``, and a line for each file there that is none."""
    records, broken = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            if record := read_record(path):
                records.append(_checked(record, path))
        except InputError as error:
            broken.append(str(error).replace(str(path), path.name))
    return records, broken


def _checked(record: Record, path: Path) -> Record:
    """Return ``record``, filled. Raise ``InputError`` where it lacks what every table needs."""
    try:
        for name in ("data", "scale", "method", "attack", "seed", "date", "versions"):
            record[name]
        complete = filled(record)
        cells(Row((), (complete,)), list(COLUMNS))
        in_place = record["address"] == path.stem
    # It may hold anything in any place.
    except Exception as error:
        raise InputError(f"{path}: a record that lacks {short(error)}; remove it") from error
    if not in_place:
        raise InputError(f"{path}: the record of {record['address']}; remove it")
    return complete


def current(record: Record, output: Path) -> bool:
    """Return whether the code, versions and data of today would make ``record`` where it lies."""
    if not record["config"]:
        return False
    try:
        # What is written is resolved; Hydra would resolve it again.
        if "${" in json.dumps(record["config"]):
            return False
        # A plan needs the unhashed keys, which no record has.
        config = {**dict.fromkeys(UNHASHED), **record["config"]}
        # "auto" is another precision elsewhere.
        config |= {"precision": record["precision"], "output_dir": str(output)}
        if not _bounded(config) or not _is_readable(json.dumps(config["data"]["source"]), output):
            return False
        return plan(config).record.stem == record["address"]
    # A config of any age may fail in any way; this code can't make its cell then.
    except Exception:
        return False


def _bounded(config: dict[str, Any]) -> bool:
    """Return whether its plan has as few stages as a cell may have: each costs time and memory."""
    pools = [config["innocents"][pool] for pool in ("calibration", "evaluation")]
    steps = list(steps_of(config["attack"]))
    held = 1 + sum(len(step.get("colluders") or ()) for step in steps)
    return max(*pools, held * len(steps)) <= MAX_STAGES


@functools.lru_cache(maxsize=64)
def _is_readable(source: str, output: Path) -> bool:
    """Return whether the data can be read: tried once, and not for each of thousands of records.

    Nothing is downloaded, drawn or decoded because a record says so, but the digits.
    """
    config = json.loads(source)
    if not isinstance(config, dict) or not all(map(_is_plain, config.values())):
        return False
    target = config.pop("_target_", None)
    kind = SOURCES.get(target) if isinstance(target, str) else None
    if kind is None or config.keys() != {field.name for field in dataclasses.fields(kind)}:
        return False
    if kind is not Digits:
        return fingerprint(kind(**config), output / "data") is not None
    try:
        decode(kind(), output / "data")
    except InputError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Return whether ``value`` is no node, and no text that Hydra would resolve."""
    if isinstance(value, str):
        return "${" not in value
    return value is None or isinstance(value, bool | int | float)
