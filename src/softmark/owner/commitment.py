"""The file that is published of a key, before any suspect is seen."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.owner.key import Key
from softmark.owner.statement import Statement
from softmark.verification.judge import Verdict

COMMITMENT = "softmark.commitment.json"
FORMAT = "softmark commitment 3"
LARGEST = 2**23  # bytes of a commitment file: ten thousand customers take 700 kB


def publication(statement: Statement) -> dict[str, Any]:
    """What to publish before any suspect is seen; nothing in it is secret."""
    return {
        "format": FORMAT,
        "commitment": statement.commitment,
        "statement": statement.as_dict(),
        "softmark": version("softmark"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def publish(key: Key, folder: str | Path = ".") -> Path:
    """Writes ``softmark.commitment.json`` into ``folder``; an older one of the key stays as it is.

    Raises ``InputError`` where another key's lies there.
    """
    return write_publication(publication(key.statement), Path(folder))


def write_publication(made: Mapping[str, Any], folder: Path) -> Path:
    """As ``publish``, of what ``publication`` gave."""
    path = folder / COMMITMENT
    if path.exists():
        there = read_publication(path)["commitment"]
        if there == made["commitment"]:
            return path
        raise InputError(f"{path}: the commitment of another key, {there[:16]}..., lies there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(made, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: it can't be written ({error.strerror})") from error
    return path


def read_publication(path: Path) -> dict[str, Any]:
    """What ``publish`` wrote; its ``commitment`` fits its ``statement``.

    Raises ``InputError`` where it isn't there, or something else is.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(f"{path}: more than {LARGEST} bytes are no commitment")
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: it can't be read as a commitment ({reason})") from error
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        raise InputError(f"{path}: not a commitment of this version of softmark")
    try:
        statement = Statement.read(made.get("statement"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if made.get("commitment") != statement.commitment:
        raise InputError(
            f"{path}: its commitment isn't that of its statement, {statement.commitment[:16]}...: "
            "no verdict can stand on it"
        )
    return {**made, **{name: str(made.get(name))[:100] for name in ("date", "softmark")}}


def check_published(published: Mapping[str, Any], key: Key) -> None:
    """Raises ``InputError`` where ``published`` is the commitment of another key."""
    there = str(published.get("commitment"))
    if there != key.commitment:
        raise InputError(
            f"the published commitment {there[:16]}... isn't the key's, {key.commitment[:16]}...: "
            "no verdict can stand on it"
        )


def told_apart(verdict: Verdict, tried: int) -> int:
    """So many customers' marks can be tried on a suspect with p still at its level; 0 for none.

    ``tried``: how many the verdict's p is multiplied by. At most a billion.
    """
    if not verdict.claimed:
        return 0
    (level,) = set(verdict.levels.values())
    return math.floor(min(10**9, tried * level / verdict.p_value))
