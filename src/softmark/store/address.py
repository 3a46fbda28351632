"""The address of a stage: a hash of everything that decides its result.

That is its own config, the definitions that make it, the versions of torch and Lightning, and the
addresses of its parents. A definition counts by what it says, not by where it lies or what it is
called. Code is read and never imported: an address doesn't cost the seconds that torch takes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.store.canonical import sha256, written
from softmark.store.names import Place, find, home_of, spot_of


@dataclass(frozen=True)
class Stage:
    """One thing to make: a victim, an innocent, a watermarked model, a suspect or a verdict.

    ``config``: plain containers, hashed; each ``_target_`` counts by its code. ``code``: more roots
    of ``code_hash``. ``make(folder)`` writes the artefact; what it returns goes into
    ``stage.json``.
    """

    role: str
    config: dict[str, Any]
    code: tuple[str, ...]
    parents: tuple[Stage, ...] = ()
    make: Callable[[Path], dict[str, Any]] = field(default=lambda folder: {}, compare=False)
    judges: bool = False

    @functools.cached_property
    def address(self) -> str:
        """16 hex digits: 64 bits, so that a collision among a million stages has odds of 3e-8."""
        identity = {
            "role": self.role,
            "config": _by_code(self.config, self.judges),
            "code": code_hash(self.code, judges=self.judges),
            "versions": _versions(),
            "parents": [parent.address for parent in self.parents],
        }
        return sha256(json.dumps(identity, sort_keys=True, allow_nan=False))[:16]

    @functools.cached_property
    def targets(self) -> frozenset[str]:
        """Every ``_target_`` in this stage's config and in those of its ancestors."""
        return frozenset(_targets(self.config)).union(*(each.targets for each in self.parents))


def _targets(config: Any) -> Iterator[str]:
    inside: Iterable[Any] = config if isinstance(config, list | tuple) else ()
    if isinstance(config, dict):
        inside = config.values()
        if isinstance(target := config.get("_target_"), str):
            yield target
    for value in inside:
        yield from _targets(value)


@functools.cache
def _versions() -> dict[str, str]:
    """Of the libraries that decide a result; finding them takes longer than hashing a stage."""
    return {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}


def _by_code(config: Any, judges: bool) -> Any:
    """``config`` with the hash of its code in place of each ``_target_``."""
    if isinstance(config, list | tuple):
        return [_by_code(value, judges) for value in config]
    if not isinstance(config, dict):
        return config
    found = {key: _by_code(value, judges) for key, value in config.items()}
    if isinstance(target := config.get("_target_"), str):
        found["_target_"] = _root_hash(target, judges)
    return found


def code_hash(roots: Iterable[str], *, judges: bool) -> str:
    """The SHA-256 of definitions and of every definition of ours that their syntax leads to.

    ``roots``: ``module:Name``, or ``module.Name`` as in a ``_target_``; their order doesn't count.
    Ours are softmark and what lies in the folder of a root's package; a library's definition counts
    by its full name. Our names of definitions and modules, docstrings, comments, layout, import
    statements and type annotations don't count, and with ``judges`` false neither do the
    ``JUDGING_METHODS`` of classes. What an object that is passed in does isn't followed: name its
    class as a root.

    Raises ``InputError`` for a root that isn't there.
    """
    return sha256("\n".join(sorted({_root_hash(root, judges) for root in roots})))


@functools.cache
def _root_hash(root: str, judges: bool) -> str:
    top, *names = root.replace(":", ".").split(".")
    home = home_of(top)
    found, rest = find(Place(top, tuple(names)), home)
    if spot_of(top) is None or (found and not found.names):
        raise InputError(f"_target_ names {root}: there is no such class")
    if found is None:
        return sha256(".".join(rest))
    # Numbered in the order in which they are met: recursion ends, and no name is left.
    numbers = {found: 0}
    lines = [".".join(rest)]
    for definition in (met := [found]):
        text, others = written(definition, home, judges)
        met += [other for other in others if other not in numbers]
        lines.append(f"{text} {[numbers.setdefault(other, len(numbers)) for other in others]}")
    return sha256("\n".join(lines))
