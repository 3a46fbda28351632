"""The commitment to a key: the file that its owner publishes before any suspect is seen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.owner.key import Key
from softmark.owner.statement import SHA256, Statement, canonical

COMMITMENT = "softmark.commitment.json"
FORMAT = "softmark commitment 3"
MAX_NAME = 200  # letters of the owner's name, and of the model's
MAX_BYTES = 2**23  # of a commitment file: ten thousand customers take 700 kB


def publication(
    statement: Statement,
    owner: str | None = None,
    name: str | None = None,
    models: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what to publish before any suspect is seen; nothing in it is secret.

    Args:
        statement: what was committed to.
        owner: who the owner is, in words.
        name: what the owner calls the model.
        models: the SHA-256 of each file with a marked model, by its name. The pattern of the mark
            follows from the statement, so that no statement can hold them.
    """
    return {
        "format": FORMAT,
        "commitment": statement.commitment,
        "statement": statement.as_dict(),
        "owner": owner,
        "name": name,
        "models": dict(models or {}),
        "softmark": version("softmark"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def fingerprint(published: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what was published, each word of it."""
    return hashlib.sha256(canonical(published)).hexdigest()


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
    words = {name: str(content.get(name))[:100] for name in ("date", "softmark")}
    names, models = {name: content.get(name) for name in ("owner", "name")}, content.get("models")
    models = {} if models is None else models
    valid = all(name is None or isinstance(name, str) for name in names.values())
    if not valid or max(len(name or "") for name in names.values()) > MAX_NAME:
        raise InputError(f"{path}: owner and name are texts of {MAX_NAME} letters at most")
    if not isinstance(models, dict) or not all(
        isinstance(value, str) and SHA256.fullmatch(value) for value in models.values()
    ):
        raise InputError(f"{path}: models holds a SHA-256 for each file")
    return {**content, **words, **names, "models": models}


def check_unedited(published: Mapping[str, Any], key: Key, path: Path) -> None:
    """Raise ``InputError`` if the file beside ``key`` isn't as it was written, date included."""
    if key.published and fingerprint(published) != key.published:
        raise InputError(
            f"{path}: it was edited after it was written (date, owner, model or another word): no "
            "verdict can stand on it. Take the one that was published"
        )


def remarks_on_file(published: Mapping[str, Any], key: Key) -> list[str]:
    """Return what a reader must know of a commitment file that isn't the one beside ``key``.

    It may be the one from before the training, or an edited one: only its publication tells.
    """
    if not key.published or not published or fingerprint(published) == key.published:
        return []
    return [
        "the commitment file shown isn't the one that was written with the key: its date, owner or "
        "model differ, and only the place where it was published tells which is right"
    ]


def check_published(published: Mapping[str, Any], key: Key) -> None:
    """Raise ``InputError`` if ``published`` is the commitment of another key."""
    commitment = str(published.get("commitment"))
    if commitment != key.commitment:
        raise InputError(
            f"the published commitment {commitment[:16]}... isn't the key's, "
            f"{key.commitment[:16]}...: no verdict can stand on it"
        )
