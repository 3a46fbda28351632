"""The commitment: what is bound, and what is published, before any suspect is seen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.nodes import make
from softmark.verification.judge import Verdict

COMMITMENT = "softmark.commitment.json"
FORMAT = "softmark commitment 2"


def commit(key: Key, probes: Tensor, config: Mapping[str, Any]) -> None:
    """Binds ``key`` to its method, to ``probes`` and to the levels of a claim."""
    terms = make({**config["verifier"], "probes": len(probes)}, "verifier").terms
    node = {name: value for name, value in config["method"].items() if name != "control"}
    key.commit(node, terms, unlabelled(probes))


def unlabelled(probes: Tensor) -> Samples:
    """``probes`` as samples whose labels nobody knows."""
    return Samples(probes, torch.full((len(probes),), -1))


def check_same(probes: Samples, committed: str, where: str) -> None:
    """Raises ``InputError`` where ``probes`` haven't the fingerprint ``committed``."""
    if probes.fingerprint != committed:
        raise InputError(
            f"{where}: their fingerprint is {probes.fingerprint[:16]}..., not {committed[:16]}... "
            "to which the key was committed: other probes, another order, or another type of number"
        )


def publication(key: Key) -> dict[str, Any]:
    """What to publish before any suspect is seen; nothing in it is secret.

    ``seeds``: hashes, so that what a claim rests on can be checked later without the secret; one
    for each customer, in the order in which they were named.
    """
    return {
        "format": FORMAT,
        "commitment": key.commitment,
        "seeds": seed_hashes(key),
        "method": key.method["name"],
        "classes": key.classes,
        "probes": key.probes,
        "terms": key.terms,
        "softmark": version("softmark"),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def publish(key: Key, folder: str | Path = ".") -> Path:
    """Writes ``softmark.commitment.json`` into ``folder``; an older one of the key stays as it is.

    Raises ``InputError`` where another key's lies there.
    """
    path = Path(folder) / COMMITMENT
    if path.exists():
        there = read_publication(path)["commitment"]
        if there == key.commitment:
            return path
        raise InputError(f"{path}: the commitment of another key, {str(there)[:16]}..., lies there")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(publication(key), indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{path}: it can't be written ({error.strerror})") from error
    return path


def read_publication(path: Path) -> dict[str, Any]:
    """What ``publish`` wrote. Raises ``InputError`` where it isn't there, or something else is."""
    try:
        made = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: it can't be read as a commitment ({error})") from error
    if not isinstance(made, dict) or made.get("format") != FORMAT:
        raise InputError(f"{path}: not a commitment of this version of softmark")
    return made


def check_published(published: Mapping[str, Any], key: Key) -> None:
    """Raises ``InputError`` where ``published`` is the commitment of another key."""
    there = str(published.get("commitment"))
    if there != key.commitment:
        raise InputError(
            f"the published commitment {there[:16]}... isn't the key's, {key.commitment[:16]}...: "
            "no verdict can stand on it"
        )


def seed_hashes(key: Key) -> list[str]:
    """SHA-256 of method, classes, sizes, each customer's seed, or the only one, ``key.known``."""
    messages = customers_of(key)
    named = [key.for_message(message) for message in messages] if messages else [key]
    sizes = [0 if part is None else part.numel() for part in (key.usual, key.expected)]
    head = json.dumps([key.method["name"], key.classes, *sizes]).encode()
    return [hashlib.sha256(head + each.seed() + key.known()).hexdigest() for each in named]


def customers_of(key: Key) -> list[str]:
    """The customers of a key that marked a copy for each; empty for a key of one message."""
    if not hasattr(key, "customers"):
        return []
    return json.loads(bytes(key.customers.tolist()))


def told_apart(verdict: Verdict, tried: int) -> int:
    """So many customers' marks can be tried on a suspect with p still at its level; 0 for none.

    ``tried``: how many the verdict's p is multiplied by. At most a billion.
    """
    if not verdict.claimed:
        return 0
    (level,) = set(verdict.levels.values())
    return math.floor(min(10**9, tried * level / verdict.p_value))
