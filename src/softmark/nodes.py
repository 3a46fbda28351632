"""The object of a config node, or in one line why the node makes none."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from softmark.errors import InputError

# What a plan reads of an attack's node, beside the arguments of its class.
PLANNING = ("steps", "colluders", "merges")
# What records and plans read of any object's node.
ABOUT = ("name", "control")
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
OF_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def make(node: dict[str, Any], where: str = "") -> Any:
    """The object of ``node``, a plain config node with a ``_target_``; ``where`` is its key.

    No class gets ``ABOUT``, unless it takes that, nor the ``PLANNING`` keys of ``node`` itself.
    Keys and plain values are checked against the signatures first. Raises ``InputError`` for
    whatever goes wrong; one that a class raises comes out as it is, any other names the key.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise InputError(f"{where or 'the node'}: a mapping with a _target_ is needed")
    node = _for_classes({key: value for key, value in node.items() if key not in PLANNING})
    try:
        _check(node, where)
        return instantiate(node, _convert_="all")
    except Exception as error:
        raise InputError(_reason(error, where)) from error


def near(word: str, there: Iterable[str], like: float = 0.6, under: str = "") -> str:
    """The end of a message: what of ``there`` was meant by ``word``, if anything is like it.

    ``under``: what stands before the names of ``there``.
    """
    close = difflib.get_close_matches(word, list(there), 1, like)
    return f"; did you mean {under}{close[0]}?" if close else ""


def short(value: Any) -> str:
    """``value`` on one line of a message."""
    return " ".join(str(value).split())[:120]


def _for_classes(node: Any) -> Any:
    """``node`` without what records and plans read of each object, unless its class takes it."""
    if isinstance(node, list):
        return [_for_classes(value) for value in node]
    if not isinstance(node, dict):
        return node
    taken = _arguments(node) if "_target_" in node else ABOUT
    return {
        key: _for_classes(value) for key, value in node.items() if key not in ABOUT or key in taken
    }


def _arguments(node: dict[str, Any]) -> Collection[str]:
    """The names of the arguments of the node's class; none where they can't be told."""
    try:
        return inspect.signature(_located(node["_target_"])).parameters
    except Exception:
        return ()


def _reason(error: BaseException, where: str) -> str:
    """One line about ``error``, which came out of the node ``where``."""
    inner = re.search(r"full_key: (\S+)", str(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        error, cause = cause, cause.__cause__
    key = ".".join(filter(None, [where, inner and inner[1]]))
    return f"{key or 'the node'}: {short(error)} ({type(error).__name__})"


def _check(node: dict[str, Any], where: str) -> None:
    """Raises ``InputError`` for a key or plain value of ``node`` that its class doesn't take."""
    try:
        target = _located(node["_target_"])
    except Exception as error:
        key = f"{where}._target_" if where else "_target_"
        raise InputError(f"{key}={_reason(error, short(node['_target_']))}") from error
    name = getattr(target, "__name__", target)
    try:
        known = inspect.signature(target).parameters
    except (TypeError, ValueError):  # not every class of C tells its signature
        return
    hints = _hints(target)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in known.values())
    below = {key: f"{where}.{key}" if where else str(key) for key in [*node, *known]}
    for key, value in node.items():
        if key in OF_HYDRA:
            continue
        if key not in known and not takes_any:
            raise InputError(f"{below[key]}: {name} takes no such argument{near(str(key), known)}")
        if wanted := _lacks(value, hints.get(key, Any)):
            raise InputError(f"{below[key]}={short(value)}: {wanted} is needed")
        for path, inner in _nodes(value, below[key]):
            _check(inner, path)
    if node.get("_partial_") or "_args_" in node:
        return
    # Softmark's own defaults are for calls without a config: a config names every number.
    ours = dataclasses.is_dataclass(target) and target.__module__.startswith("softmark.")
    for key, one in known.items():
        named = one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        if named and (ours or one.default is one.empty) and key not in node:
            raise InputError(f"{below[key]} is missing: {name} needs it")


@functools.lru_cache
def _located(name: Any) -> Any:
    """What ``name`` names. Hydra raises where that isn't there, or must not be called."""
    return instantiate({"_target_": name, "_partial_": True}).func


def _hints(target: Any) -> dict[str, Any]:
    """The types of the arguments; none where they can't be told without what a type checker has."""
    try:
        if dataclasses.is_dataclass(target):
            # Field by field, each in the module of the class that defines it.
            return typing.get_type_hints(target)
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    except Exception:
        return {}


def _nodes(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The nodes of objects in ``value``, outermost only, each with its key."""
    if isinstance(value, dict) and "_target_" in value:
        yield where, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _nodes(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nodes(inner, f"{where}[{number}]")


def _lacks(value: Any, hint: Any) -> str:
    """What the type ``hint`` asks for, if ``value`` isn't that; else nothing."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        lacks = [_lacks(value, one) for one in inner]
        return "" if "" in lacks else " or ".join(lacks)
    if kind is typing.Literal:
        return "" if value in inner else " or ".join(map(str, inner))
    if kind is type(None):
        return "" if value is None else "null"
    if kind in WORDS:
        return "" if fits(value, kind) else WORDS[kind]
    if kind in (functools.partial, Callable):
        if not isinstance(value, dict) or value.get("_partial_") is not True:
            return "a node with _partial_: true"
        return _lacks_class(value, inner[0]) if kind is functools.partial and inner else ""
    if kind in (dict, Mapping):
        if not isinstance(value, dict):
            return "a mapping"
        lacks = [_lacks(one, inner[1]) for one in value.values()] if inner else []
        return next((f"in the mapping, {one}" for one in lacks if one), "")
    if kind in (list, tuple, Sequence):
        if not isinstance(value, list):
            return "a list"
        lacks = [_lacks(one, inner[0]) for one in value] if inner else []
        return next((f"in the list, {one}" for one in lacks if one), "")
    return _lacks_class(value, kind)


def _lacks_class(value: Any, kind: Any) -> str:
    if not isinstance(kind, type) or kind in (Any, object):
        return ""
    wanted = f"a node of the class {kind.__name__}"
    if not isinstance(value, dict) or "_target_" not in value:
        return wanted
    target = _located(value["_target_"])
    # A protocol names no classes, and a function may return any.
    telling = isinstance(target, type) and not getattr(kind, "_is_protocol", False)
    return wanted if telling and not issubclass(target, kind) else ""


def fits(value: Any, kind: type) -> bool:
    """Whether ``value`` is a bool, int, float or str as ``kind`` says; a number must be finite."""
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    return type(value) is kind
