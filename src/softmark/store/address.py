"""The address of a stage: a hash of everything that decides its result.

That is its own config, the definitions that make it, the versions of torch and Lightning, and the
addresses of its parents. A definition counts by what it says, not by where it lies or how it names
its own names. Code is read and never imported: an address doesn't cost the seconds that torch
takes.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from softmark.errors import InputError
from softmark.store.canonical import Written, sha256, written
from softmark.store.names import Place, find, home_of, spot_of

# What a config node is called in tables: it decides no result, and no class is given it.
DISPLAY_NAME = "name"


@dataclass(frozen=True)
class Stage:
    """One thing to make: a victim, an innocent, a watermarked model, a suspect or a verdict.

    Args:
        role: what it is; the first part, up to a slash, names its folder in the store.
        config: plain containers, hashed. Each ``_target_`` counts by its code, the ``name`` of a
            node that has one doesn't count.
        code: more roots of ``code_hash``; the first one makes the stage.
        parents: the stages whose results it reads.
        judges: whether its result is what judges say. Where its code calls a judging method, it
            judges as well.

    Example:
        >>> code = ("softmark.recipe:Recipe",)
        >>> victim = Stage("victim", {"seed": 0}, code)
        >>> len(victim.address), victim.address == Stage("victim", {"seed": 1}, code).address
        (16, False)
    """

    role: str
    config: dict[str, Any]
    code: tuple[str, ...]
    parents: tuple[Stage, ...] = ()
    judges: bool = False

    @functools.cached_property
    def address(self) -> str:
        """Return 16 hex digits: a collision among a million stages has odds of 3e-8."""
        nodes = list(_nodes(self.config))
        roots = frozenset([*self.code, *(node["_target_"] for node in nodes)])
        judges = self.judges or any(_trace(root, False).judges for root in roots)
        words = _words(roots, judges).union(_texts(self.config))
        identity = {
            "role": self.role,
            "config": _by_code(self.config, judges, words),
            "code": sorted({_root_hash(root, judges, words) for root in self.code}),
            "versions": _versions(),
            "parents": [parent.address for parent in self.parents],
        }
        return _dumped_hash(identity)[:16]

    @functools.cached_property
    def targets(self) -> frozenset[str]:
        """Return every ``_target_`` in this stage's config and in those of its ancestors."""
        targets = frozenset(node["_target_"] for node in _nodes(self.config))
        return targets.union(*(parent.targets for parent in self.parents))


def code_hash(roots: Iterable[str], *, judges: bool) -> str:
    """Return the SHA-256 of definitions and of all of ours that their syntax leads to.

    Ours are softmark and what lies in the folder of a root's package; a library's definition counts
    by its full name. What doesn't count: the names of our definitions and modules, of local
    variables, and of parameters that no call among these definitions names; docstrings, comments,
    layout, import statements, type annotations. What an object that is passed in does isn't
    followed: name its class as a root.

    Args:
        roots: ``module:Name``, or ``module.Name`` as in a ``_target_``; their order doesn't count.
        judges: whether the ``JUDGING_METHODS`` of classes count as well.

    Raises:
        InputError: a root isn't there.
    """
    roots = frozenset(roots)
    words = _words(roots, judges)
    return sha256("\n".join(sorted({_root_hash(root, judges, words) for root in roots})))


def config_hash(config: Any, *, judges: bool) -> str:
    """Return the SHA-256 of a config by what its classes say, whatever they and it are called.

    Args:
        config: plain containers.
        judges: as of ``code_hash``.

    Raises:
        InputError: a class isn't there.
    """
    roots = frozenset(node["_target_"] for node in _nodes(config))
    words = _words(roots, judges).union(_texts(config))
    return _dumped_hash(_by_code(config, judges, words))


def _dumped_hash(identity: Any) -> str:
    return sha256(json.dumps(identity, sort_keys=True, allow_nan=False))


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in ``config`` with a ``_target_``, the outer ones first."""
    if isinstance(config, dict):
        if isinstance(config.get("_target_"), str):
            yield config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _nodes(value)


def _texts(config: Any) -> Iterator[str]:
    """Yield every key and every text in ``config``: each may be given to a parameter."""
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict):
        yield from config
        config = list(config.values())
    if isinstance(config, list | tuple):
        for value in config:
            yield from _texts(value)


def _by_code(config: Any, judges: bool, words: frozenset[str]) -> Any:
    """Return ``config`` with a hash of code for each ``_target_``, without display names."""
    if isinstance(config, list | tuple):
        return [_by_code(value, judges, words) for value in config]
    if not isinstance(config, dict):
        return config
    named = {name: _by_code(value, judges, words) for name, value in config.items()}
    if isinstance(target := config.get("_target_"), str):
        named.pop(DISPLAY_NAME, None)
        named["_target_"] = _root_hash(target, judges, words)
    return named


class Trace(NamedTuple):
    """A root and all that it leads to, numbered in the order in which they are met.

    Args:
        attributes: what is taken of the root's definition, dotted.
        definitions: what each one says, with the numbers of those that it refers to.
        parameters: the names of their parameters.
        words: the names that their calls and strings may give to parameters.
        judges: whether one of them calls a judging method.
    """

    attributes: str
    definitions: tuple[tuple[Written, tuple[int, ...]], ...]
    parameters: frozenset[str]
    words: frozenset[str]
    judges: bool


@functools.cache
def _trace(root: str, judges: bool) -> Trace:
    """Follow ``root`` to all that it leads to. Raise ``InputError`` where it isn't there."""
    top, *names = root.replace(":", ".").split(".")
    home = home_of(top)
    definition, attributes = find(Place(top, tuple(names)), home)
    if spot_of(top) is None or (definition and not definition.names):
        raise InputError(f"_target_ names {root}: there is no such class")
    definitions: list[tuple[Written, tuple[int, ...]]] = []
    if definition is not None:
        # Numbered in the order in which they are met: recursion ends, and no name is left.
        numbers = {definition: 0}
        for place in (todo := [definition]):
            text = written(place, home, judges)
            todo += [other for other in text.places if other not in numbers]
            referred = tuple(numbers.setdefault(other, len(numbers)) for other in text.places)
            definitions.append((text, referred))
    return Trace(
        ".".join(attributes),
        tuple(definitions),
        frozenset(name for text, _ in definitions for name in text.parameters),
        frozenset().union(*(text.words for text, _ in definitions)),
        any(text.judges for text, _ in definitions),
    )


@functools.cache
def _words(roots: frozenset[str], judges: bool) -> frozenset[str]:
    """Return the names that calls and strings among ``roots`` may give to a parameter."""
    return frozenset().union(*(_trace(root, judges).words for root in roots))


def _root_hash(root: str, judges: bool, words: frozenset[str]) -> str:
    """Return the hash of ``root``; ``words``: the names that a caller may give to parameters."""
    return _hashed(root, judges, words & _trace(root, judges).parameters)


@functools.cache
def _hashed(root: str, judges: bool, given: frozenset[str]) -> str:
    """Return the hash of ``root``; ``given``: the names of parameters that count."""
    trace = _trace(root, judges)
    if not trace.definitions:
        return sha256(trace.attributes)
    lines = [trace.attributes]
    for text, numbers in trace.definitions:
        names = [name if name in given else "" for name in text.parameters]
        lines.append(f"{text.digest} {names} {list(numbers)}")
    return sha256("\n".join(lines))


@functools.cache
def _versions() -> dict[str, str]:
    """Return those of the libraries that decide a result: finding them takes long."""
    return {name: importlib.metadata.version(name) for name in ("torch", "pytorch-lightning")}
