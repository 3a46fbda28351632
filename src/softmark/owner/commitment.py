"""The commitment to a key: the file that its owner publishes before any suspect is seen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.owner.key import Key
from softmark.owner.statement import Statement

COMMITMENT = "softmark.commitment.json"
FORMAT = "softmark commitment 3"
MAX_BYTES = 2**23  # of a commitment file: ten thousand customers take 700 kB


def publication(statement: Statement) -> dict[str, Any]:
    """Return what to publish before any suspect is seen; nothing in it is secret."""
    return {
        "format": FORMAT,
        "commitment": statement.commitment,
        "statement": statement.as_dict(),
        "softmark": version("softmark"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def publish(key: Key, folder: str | Path = ".") -> Path:
    """Write ``softmark.commitment.json``: publish it where its date can be proven.

    Nothing in it is secret. Its statement holds all that the owner could choose, and its hash is
    the commitment. A claim proves something only if the commitment is older than the dispute.

    Args:
        key: of ``mark`` or ``new_key``.
        folder: where to; created if need be. A file of the same key stays as it is, date included.

    Returns:
        The path of the file.

    Raises:
        InputError: where it can't be written, or another key's commitment lies there.

    Example:
        >>> path = softmark.publish(marked.key, folder)
        >>> path.name
        'softmark.commitment.json'
    """
    return write_publication(publication(key.statement), Path(folder))


def write_publication(content: Mapping[str, Any], folder: Path) -> Path:
    """Write what ``publication`` returned, as ``publish`` does."""
    path = folder / COMMITMENT
    if path.exists():
        existing = read_publication(path)["commitment"]
        if existing == content["commitment"]:
            return path
        raise InputError(f"{path}: the commitment of another key, {existing[:16]}..., lies there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: it can't be written ({error.strerror})") from error
    return path


def read_publication(path: Path) -> dict[str, Any]:
    """Return what ``publish`` wrote.

    Raises:
        InputError: where the file isn't there, is something else, or holds a commitment that isn't
            the hash of its statement.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: more than {MAX_BYTES} bytes are no commitment")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: it can't be read as a commitment ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a commitment of this version of softmark")
    try:
        statement = Statement.read(content.get("statement"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if content.get("commitment") != statement.commitment:
        raise InputError(
            f"{path}: its commitment isn't that of its statement, {statement.commitment[:16]}...: "
            "no verdict can stand on it"
        )
    return {**content, **{name: str(content.get(name))[:100] for name in ("date", "softmark")}}


def check_published(published: Mapping[str, Any], key: Key) -> None:
    """Raise ``InputError`` if ``published`` is the commitment of another key."""
    commitment = str(published.get("commitment"))
    if commitment != key.commitment:
        raise InputError(
            f"the published commitment {commitment[:16]}... isn't the key's, "
            f"{key.commitment[:16]}...: no verdict can stand on it"
        )
