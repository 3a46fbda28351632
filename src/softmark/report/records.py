"""All records of a folder, and which of them this code would make."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from hydra.utils import get_class, instantiate

from softmark.data.cache import fingerprint
from softmark.errors import InputError
from softmark.experiment.plan import UNHASHED, plan
from softmark.experiment.record import read_record
from softmark.report.columns import COLUMNS, cells
from softmark.report.rows import Record, Row, filled


def read(folder: Path) -> tuple[list[Record], list[str]]:
    """The records in ``folder``, and a line for each file there that is none."""
    records, broken = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            if record := read_record(path):
                records.append(_checked(record, path))
        except InputError as error:
            broken.append(str(error).replace(str(path), path.name))
    return records, broken


def _checked(record: Record, path: Path) -> Record:
    """``record``, filled. Raises ``InputError`` where it lacks what every table needs."""
    try:
        for name in ("data", "scale", "method", "attack", "seed", "date", "versions"):
            record[name]
        whole = filled(record)
        cells(Row((), (whole,)), list(COLUMNS))
        own = record["address"] == path.stem
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: a record that lacks {error}; remove it") from error
    if not own:
        raise InputError(f"{path}: the record of {record['address']}; remove it")
    return whole


def current(record: Record, output: Path) -> bool:
    """Whether this code, with these versions and data, would make ``record`` where it lies."""
    if not record["config"]:
        return False
    # A plan needs the unhashed keys, which no record has. "auto" is another precision elsewhere.
    config = {**dict.fromkeys(UNHASHED), **record["config"]}
    config |= {"precision": record["precision"], "output_dir": str(output)}
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
