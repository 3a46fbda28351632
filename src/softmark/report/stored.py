"""List the stages in a store and the records that need them; remove the others."""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softmark.errors import InputError
from softmark.experiment.record import read_record
from softmark.store.lock import locked
from softmark.store.store import TRAINING, manifest

ADDRESS = re.compile("[0-9a-f]{16}")
MIB = 2**20
MAX_ROWS = 1000  # of a table; more stages are listed line by line


@dataclass(frozen=True)
class Entry:
    """A stage in the store.

    Attributes:
        folder: Its folder.
        role: The folder's name in the store.
        description: Method, attack, model and seed; None where it is damaged.
        bytes: The size of its files.
        modified: When its folder was, in seconds since the epoch.
        num_records: How many records need it.
    """

    folder: Path
    role: str
    description: str | None
    bytes: int
    modified: float
    num_records: int


def list_and_prune(output_dir: Path, prune: bool, yes: bool) -> None:
    """Print the stages in ``output_dir``, and remove those that no record needs if ``prune``.

    Args:
        output_dir: of experiments.
        prune: remove what no record needs and what killed runs left, after asking.
        yes: don't ask.

    Raises:
        InputError: there is no store, or nobody can know what is needed.
    """
    store, records = (output_dir / name for name in ("store", "records"))
    if not store.is_dir():
        raise InputError(f"{store}: there is no such folder; --output-dir=DIR names another")
    entries, broken = _survey(store, records)
    _show(store, entries)
    for reason in broken:
        print(f"broken record: {reason}", file=sys.stderr)
    if prune:
        _prune(store, records, yes)


def _survey(store: Path, records: Path) -> tuple[list[Entry], list[str]]:
    """Return all stages, by role, and what is wrong with each broken record."""
    num_records: Counter[str] = Counter()
    broken = []
    for path in sorted(records.glob("*.json")):
        try:
            num_records.update(_addresses(path))
        except InputError as error:
            broken.append(str(error))
    entries = [_entry(base, num_records) for base in _bases(store) if base.is_dir()]
    return sorted(entries, key=lambda entry: (entry.role, entry.folder)), broken


def _addresses(path: Path) -> set[str]:
    """Return the addresses of the stages that a record lists. Raise ``InputError`` if broken."""
    record = read_record(path)
    if record is None:  # removed meanwhile
        return set()
    try:
        listed = record["stages"].values()
        # One address, several, or None, as of the control of a method that has none.
        lists = [some if isinstance(some, list) else [some] for some in listed]
        addresses = {address for some in lists for address in some if address is not None}
        if not all(isinstance(address, str) for address in addresses):
            raise TypeError(addresses)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: it lists no stages; remove it") from error
    return addresses


def _bases(store: Path) -> list[Path]:
    """Return every ROLE/ADDRESS that has a folder, a lock or an unfinished folder."""
    paths = (path for path in store.glob("*/*") if ADDRESS.fullmatch(path.stem))
    return sorted({path.with_suffix("") for path in paths})


def _entry(folder: Path, num_records: Counter[str]) -> Entry:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    modified = folder.stat().st_mtime
    try:
        stage = manifest(folder)
        role, description = str(stage["role"]), _describe(stage["config"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        # A run would make it anew: nobody needs it.
        return Entry(folder, folder.parent.name, None, size, modified, 0)
    return Entry(folder, role, description, size, modified, num_records[folder.name])


def _describe(config: dict[str, Any]) -> str:
    """Return ``usp, seed 0``, ``distill, convnet, seed 0`` or ``convnet, party half, seed 2``."""
    nodes = [config[name] for name in ("method", "model") if name in config]
    names = [node["name"] for node in (*config.get("attacks", [])[-1:], *nodes)]
    numbers = [f"{name} {config[name]}" for name in ("party", "seed") if name in config]
    return ", ".join([*names, *numbers])


def _show(store: Path, entries: list[Entry]) -> None:
    # Rich takes a millisecond a row to fit a table to the terminal.
    show = _print_lines if len(entries) > MAX_ROWS else _print_table
    show(entries)
    unused = [entry for entry in entries if not entry.num_records]
    print(f"{_sum(entries)}; no record needs {_sum(unused)} of them")
    if unfinished := list(store.glob("*/*.making")):
        print(f"{len(unfinished)} unfinished: of a run at work, or of one that was killed")


def _print_lines(entries: list[Entry]) -> None:
    for entry in entries:
        role, address, stage, *numbers = _cells(entry)
        print(f"{role:<11}  {address}  {'  '.join(f'{n:>7}' for n in numbers)}  {stage}")


def _print_table(entries: list[Entry]) -> None:
    table = Table()
    for name in ("role", "address", "stage"):
        table.add_column(name, no_wrap=name == "address")
    for name in ("MiB", "age", "records"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        role, address, stage, *numbers = _cells(entry)
        style = "red" if entry.description is None else ""
        table.add_row(role, address, Text(stage, style), *numbers)
    Console().print(table)


def _cells(entry: Entry) -> list[str]:
    """Return role, address, description, MiB, age and the number of records, as text."""
    size, age = f"{entry.bytes / MIB:.1f}", _age(time.time() - entry.modified)
    stage = "damaged" if entry.description is None else entry.description
    return [entry.role, entry.folder.name, stage, size, age, str(entry.num_records)]


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _sum(entries: list[Entry]) -> str:
    size = sum(entry.bytes for entry in entries) / MIB
    return f"{len(entries)} stage{'s' * (len(entries) != 1)} ({size:.1f} MiB)"


def _prune(store: Path, records: Path, yes: bool) -> None:
    unused = _unused(store, records)
    left = [part for base in _bases(store) for part in _left_over(base) if part.exists()]
    if not unused and not left:
        print("nothing to remove")
        return
    question = f"remove {_sum(unused)} and {len(left)} locks and unfinished folders? [y/N] "
    if not yes and not _agreed(question):
        print("nothing is removed")
        return
    # A run may have ended while the question was open, and need some of them.
    unused = [entry for entry in _unused(store, records) if entry in unused]
    folders = {entry.folder for entry in unused}
    for base in sorted(folders | {part.with_suffix("") for part in left}):
        _remove(base, base in folders)
    print(f"removed {_sum(unused)}")


def _unused(store: Path, records: Path) -> list[Entry]:
    """Return the stages to remove. Raise ``InputError`` where it can't be known what is needed."""
    entries, broken = _survey(store, records)
    if broken:
        raise InputError("nothing is removed: nobody knows what a broken record needs")
    if stage := next(_locked(store), None):
        raise InputError(f"nothing is removed: a run is at work and may need it ({stage})")
    return [entry for entry in entries if not entry.num_records]


def _locked(store: Path) -> Iterator[Path]:
    """Yield the stages that a run is making now."""
    for lock in sorted(store.glob("*/*.lock")):
        try:
            with locked(lock, store, timeout=0):
                pass
        except Timeout:
            yield lock.with_suffix("")


def _agreed(question: str) -> bool:
    """Return whether the person at the terminal says yes."""
    if not sys.stdin.isatty():
        raise InputError("--prune asks first, and there is no terminal: --yes is the answer")
    with suppress(EOFError, KeyboardInterrupt):
        return input(question).strip().lower() in ("y", "yes")
    print()
    return False


def _left_over(base: Path) -> tuple[Path, Path, Path]:
    return base.with_suffix(".making"), base.with_suffix(TRAINING), base.with_suffix(".lock")


def _remove(base: Path, stage: bool) -> None:
    """Remove lock and unfinished folder of ``base`` and, if ``stage``, its folder; none in use."""
    *unfinished, lock = _left_over(base)
    with suppress(Timeout), locked(lock, base.parent.parent, timeout=0):
        for folder in unfinished:
            shutil.rmtree(folder, ignore_errors=True)
        if stage:
            shutil.rmtree(base)
        lock.unlink()
