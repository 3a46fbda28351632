"""What lies in the store, who needs it, and a way to be rid of the rest.

    python scripts/store.py
    python scripts/store.py --prune

A stage is needed where a record lists it, be it the record of a cell that failed.
"""

import argparse
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

from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table
from rich.text import Text

from softmark.errors import InputError
from softmark.experiment.record import read_record
from softmark.store.store import manifest

ADDRESS = re.compile("[0-9a-f]{16}")
MIB = 2**20


@dataclass(frozen=True)
class Entry:
    """A stage's folder: ``what`` it is (None: damaged) and how many records need it."""

    folder: Path
    role: str
    what: str | None
    bytes: int
    made: float  # seconds since the epoch
    needed: int


def main() -> int:
    options = _options()
    store, records = (options.output_dir / name for name in ("store", "records"))
    try:
        if not store.is_dir():
            raise InputError(f"{store}: there is no such folder; --output-dir=DIR names another")
        entries, broken = _survey(store, records)
        _show(store, entries)
        for reason in broken:
            print(f"broken record: {reason}", file=sys.stderr)
        if options.prune:
            _prune(store, records, options.yes)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Lists the stages in the store.")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the stages that no record needs and what killed runs left; not while a run is "
        "at work, as the cell that it makes has no record yet",
    )
    parser.add_argument("--yes", action="store_true", help="prune without asking")
    return parser.parse_args()


def _survey(store: Path, records: Path) -> tuple[list[Entry], list[str]]:
    """Every stage's folder, by role, and what is wrong with each broken record."""
    needs: Counter[str] = Counter()
    broken = []
    for path in sorted(records.glob("*.json")):
        try:
            needs.update(_addresses(path))
        except InputError as error:
            broken.append(str(error))
    entries = [_entry(base, needs) for base in _bases(store) if base.is_dir()]
    return sorted(entries, key=lambda entry: (entry.role, entry.folder)), broken


def _addresses(path: Path) -> set[str]:
    """The addresses of the stages that a record lists. Raises ``InputError`` if it is broken."""
    record = read_record(path)
    if record is None:  # removed meanwhile
        return set()
    try:
        listed = record["stages"].values()
        # One address, several, or None, as of the control of a method that has none.
        lists = [some if isinstance(some, list) else [some] for some in listed]
        found = {address for some in lists for address in some if address is not None}
        if not all(isinstance(address, str) for address in found):
            raise TypeError(found)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: it lists no stages; remove it") from error
    return found


def _bases(store: Path) -> list[Path]:
    """Every ROLE/ADDRESS of which there is a folder, a lock or something half-made."""
    found = (path for path in store.glob("*/*") if ADDRESS.fullmatch(path.stem))
    return sorted({path.with_suffix("") for path in found})


def _entry(folder: Path, needs: Counter[str]) -> Entry:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    made = folder.stat().st_mtime
    try:
        found = manifest(folder)
        role, what = str(found["role"]), _what(found["config"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        # A run would make it anew: it is of use to nobody.
        return Entry(folder, folder.parent.name, None, size, made, 0)
    return Entry(folder, role, what, size, made, needs[folder.name])


def _what(config: dict[str, Any]) -> str:
    """``usp, seed 0``, ``distill, convnet, seed 0`` or ``convnet, party half, seed 2``."""
    nodes = [config[name] for name in ("method", "model") if name in config]
    names = [node["name"] for node in (*config.get("attacks", [])[-1:], *nodes)]
    rest = [f"{key} {config[key]}" for key in ("party", "seed") if key in config]
    return ", ".join([*names, *rest])


def _show(store: Path, entries: list[Entry]) -> None:
    table = Table()
    for name in ("role", "address", "what"):
        table.add_column(name, no_wrap=name == "address")
    for name in ("MiB", "age", "needed by"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in entries:
        what = Text("damaged", "red") if entry.what is None else Text(entry.what)
        size = f"{entry.bytes / MIB:.1f}"
        age, needed = _age(time.time() - entry.made), str(entry.needed)
        table.add_row(entry.role, entry.folder.name, what, size, age, needed)
    Console().print(table)
    needless = [entry for entry in entries if not entry.needed]
    print(f"{_sum(entries)}; of these no record needs {_sum(needless)}")
    if making := list(store.glob("*/*.making")):
        print(f"{len(making)} half-made: by a run at work, or by one that was killed")


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _sum(entries: list[Entry]) -> str:
    size = sum(entry.bytes for entry in entries) / MIB
    return f"{len(entries)} stage{'s' * (len(entries) != 1)} ({size:.1f} MiB)"


def _prune(store: Path, records: Path, yes: bool) -> None:
    needless = _needless(store, records)
    left = [part for base in _bases(store) for part in _left_over(base) if part.exists()]
    if not needless and not left:
        print("nothing to remove")
        return
    question = f"remove {_sum(needless)} and {len(left)} locks and half-made folders? [y/N] "
    if not yes and not _agreed(question):
        print("nothing is removed")
        return
    # A run may have ended while the question was open, and need some of them.
    needless = [entry for entry in _needless(store, records) if entry in needless]
    gone = {entry.folder for entry in needless}
    for base in sorted(gone | {part.with_suffix("") for part in left}):
        _remove(base, base in gone)
    print(f"removed {_sum(needless)}")


def _needless(store: Path, records: Path) -> list[Entry]:
    """The stages to remove. Raises ``InputError`` where it can't be known what is needed."""
    entries, broken = _survey(store, records)
    if broken:
        raise InputError("nothing is removed: nobody knows what a broken record needs")
    if making := next(_held(store), None):
        raise InputError(f"nothing is removed: a run is at work and may need it ({making})")
    return [entry for entry in entries if not entry.needed]


def _held(store: Path) -> Iterator[Path]:
    for lock in sorted(store.glob("*/*.lock")):
        try:
            with FileLock(lock, timeout=0):
                pass
        except Timeout:
            yield lock.with_suffix("")


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InputError("--prune asks first, and there is no terminal: --yes is the answer")
    with suppress(EOFError, KeyboardInterrupt):
        return input(question).strip().lower() in ("y", "yes")
    print()
    return False


def _left_over(base: Path) -> tuple[Path, Path]:
    return base.with_suffix(".making"), base.with_suffix(".lock")


def _remove(base: Path, gone: bool) -> None:
    """Removes what is left over at ``base`` and, if ``gone``, the stage; not while it is made."""
    making, lock = _left_over(base)
    with suppress(Timeout), FileLock(lock, timeout=0):
        shutil.rmtree(making, ignore_errors=True)
        if gone:
            shutil.rmtree(base)
        lock.unlink()


if __name__ == "__main__":
    sys.exit(main())
