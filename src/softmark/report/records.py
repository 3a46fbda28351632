"""All records of a folder, and which of them the code of today would make."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from softmark.data.cache import decode, fingerprint
from softmark.data.hub import Hub
from softmark.data.sources import Digits, ImageFolder
from softmark.data.synthetic import Synthetic
from softmark.errors import InputError
from softmark.experiment.cell import colluders_of, steps_of
from softmark.experiment.plan import UNHASHED
from softmark.experiment.planner import Planner
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


class RecordCheck:
    """Says which records of ``output`` the code, versions and data of today would make."""

    def __init__(self, output: Path):
        self._output = output
        self._planner = Planner()
        self._readable: dict[str, bool] = {}  # by the source of the data

    def is_current(self, record: Record) -> bool:
        """Return whether a run of today would make ``record`` where it lies."""
        if not record["config"]:
            return False
        try:
            # What is written is resolved; Hydra would resolve it again.
            if "${" in json.dumps(record["config"]):
                return False
            # A plan needs the unhashed keys, which no record has.
            config = {**dict.fromkeys(UNHASHED), **record["config"]}
            # "auto" is another precision elsewhere, and on another device.
            config |= {"precision": record["precision"], "output_dir": str(self._output)}
            config["trainer"] = {"accelerator": "cpu"}
            if not _is_bounded(config) or not self._is_readable(config["data"]["source"]):
                return False
            return self._planner.plan(config).record.stem == record["address"]
        # A config of any age may fail in any way; this code can't make its cell then.
        except Exception:
            return False

    def _is_readable(self, source: Any) -> bool:
        """Return whether the data can be read: tried once for all records."""
        text = json.dumps(source)
        if text not in self._readable:
            self._readable[text] = _is_readable(source, self._output / "data")
        return self._readable[text]


def _is_bounded(config: dict[str, Any]) -> bool:
    """Return whether its plan has as few stages as a cell may have: each costs time and memory."""
    pools = [config["innocents"][pool] for pool in ("calibration", "evaluation")]
    steps = list(steps_of(config["attack"]))
    held = 1 + sum(len(colluders_of(step)) for step in steps)
    return max(*pools, held * len(steps)) <= MAX_STAGES


def _is_readable(source: Any, folder: Path) -> bool:
    """Return whether ``folder`` has the decoded data of ``source``, or will soon.

    Nothing is downloaded, drawn or decoded because a record says so, but the digits.
    """
    if not isinstance(source, dict) or not all(map(_is_plain, source.values())):
        return False
    arguments = {name: value for name, value in source.items() if name != "_target_"}
    target = source.get("_target_")
    kind = SOURCES.get(target) if isinstance(target, str) else None
    if kind is None or arguments.keys() != {field.name for field in dataclasses.fields(kind)}:
        return False
    if kind is not Digits:
        return fingerprint(kind(**arguments), folder) is not None
    try:
        decode(kind(), folder)
    except InputError:
        return False
    return True


def _is_plain(value: Any) -> bool:
    """Return whether ``value`` is no node, and no text that Hydra would resolve."""
    if isinstance(value, str):
        return "${" not in value
    return value is None or isinstance(value, bool | int | float)
