"""Build the object of a config node, or say in one line why the node makes none."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate

from softmark.errors import InputError

# What a plan reads of an attack's node, beside the arguments of its class.
PLAN_KEYS = ("steps", "colluders", "merges")
# What records and plans read of any object's node; no class is given it.
DISPLAY_KEYS = ("name", "control", "certificate")
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
OF_HYDRA = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")


def make(node: dict[str, Any], where: str = "") -> Any:
    """Build the object that a config node describes, after checking it against the signatures.

    Args:
        node: plain containers with a ``_target_``. Its ``PLAN_KEYS``, and the ``DISPLAY_KEYS`` of
            every node in it, aren't passed on.
        where: the node's path in the config, for messages.

    Raises:
        InputError: whatever goes wrong. One that a class raises comes out as it is, any other
            names the key.

    Example:
        >>> make({"_target_": "datetime.timedelta", "hours": 2, "name": "shown in tables"})
        datetime.timedelta(seconds=7200)
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise InputError(f"{where or 'the node'}: a mapping with a _target_ is needed")
    node = _for_classes({name: value for name, value in node.items() if name not in PLAN_KEYS})
    try:
        _check(node, where)
        return _build(node, where)
    except Exception as error:
        raise InputError(_reason(error, where)) from error


def _build(value: Any, where: str) -> Any:
    """Return ``value``, a checked node or what stands in one, with the object of each node.

    Hydra's ``instantiate`` copies and resolves each node anew, which took half of a cell's time: it
    builds what isn't a class of softmark, or asks for more than a call.
    """
    if isinstance(value, list):
        return [_build(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if "_target_" not in value:
        return {name: _build(item, f"{where}.{name}") for name, item in value.items()}
    target, partial = _located(value["_target_"]), value.get("_partial_", False)
    try:
        if not _is_plain(value, target):
            return instantiate(value, _convert_="all")
        arguments = {
            name: _build(item, f"{where}.{name}" if where else str(name))
            for name, item in value.items()
            if name not in OF_HYDRA
        }
        return functools.partial(target, **arguments) if partial else target(**arguments)
    except Exception as error:
        raise InputError(_reason(error, where)) from error


def _is_plain(node: dict[str, Any], target: Any) -> bool:
    """Return whether ``node`` asks for a call of a class of softmark, ``target``, and no more."""
    ours = isinstance(target, type) and target.__module__.startswith("softmark.")
    more = any(name in node for name in OF_HYDRA if name not in ("_target_", "_partial_"))
    return ours and not more and isinstance(node.get("_partial_", False), bool)


def suggestion(word: str, choices: Iterable[str], cutoff: float = 0.6, prefix: str = "") -> str:
    """Return the end of a message: which of ``choices`` was meant by ``word``, if one is like it.

    Args:
        word: what was typed.
        choices: what there is.
        cutoff: how alike the two must be, from 0 to 1.
        prefix: what stands before each of ``choices``.

    Example:
        >>> suggestion("epoch", ["epochs", "lr"], prefix="recipe.")
        '; did you mean recipe.epochs?'
    """
    close = difflib.get_close_matches(word, list(choices), 1, cutoff)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def short(value: Any) -> str:
    """Return ``value`` on one line of a message, at most 120 characters long.

    What a terminal would take for a command (an escape, a bell) becomes a blank.

    Example:
        >>> short("a\\x1b[2J\\nb")
        'a [2J b'
    """
    text = "".join(c if c.isprintable() else " " for c in str(value)[:10_000])
    return " ".join(text.split())[:120]


def _for_classes(node: Any) -> Any:
    """Return ``node`` without what records and plans alone read of each object."""
    if isinstance(node, list):
        return [_for_classes(value) for value in node]
    if not isinstance(node, dict):
        return node
    left_out = DISPLAY_KEYS if "_target_" in node else ()
    return {name: _for_classes(value) for name, value in node.items() if name not in left_out}


def _reason(error: BaseException, where: str) -> str:
    """Return one line about ``error``, which came out of the node ``where``."""
    inner = re.search(r"full_key: (\S+)", str(error))
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        error, cause = cause, cause.__cause__
    path = ".".join(filter(None, [where, inner and inner[1]]))
    return f"{path or 'the node'}: {short(error)} ({type(error).__name__})"


def _check(node: dict[str, Any], where: str) -> None:
    """Raise ``InputError`` for a key or plain value of ``node`` that its class doesn't take."""
    paths = {name: f"{where}.{name}" if where else str(name) for name in node}
    location = short(node["_target_"])
    try:
        target = _located(node["_target_"])
    except Exception as error:
        raise InputError(f"{paths['_target_']}={_reason(error, location)}") from error
    if (parameters := _parameters(target)) is not None:
        _check_arguments(node, where, target, parameters)
    for name, value in node.items():
        for path, inner in _nodes(value, paths[name]):
            _check(inner, path)


def _check_arguments(
    node: dict[str, Any], where: str, target: Any, parameters: Mapping[str, inspect.Parameter]
) -> None:
    """Raise ``InputError`` for what ``target`` doesn't take, or needs and isn't given."""
    paths = {name: f"{where}.{name}" if where else str(name) for name in [*node, *parameters]}
    called, hints = getattr(target, "__name__", target), _hints(target)
    if reserved := [name for name in DISPLAY_KEYS if name in parameters]:
        raise InputError(
            f"{paths['_target_']}={short(node['_target_'])}: {called} isn't configurable, since it "
            f"takes an argument called {reserved[0]}: call that otherwise"
        )
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in (name for name in node if name not in OF_HYDRA):
        if name not in parameters and not takes_any:
            meant = suggestion(str(name), parameters)
            raise InputError(f"{paths[name]}: {called} takes no such argument{meant}")
        if needed := _type_error(node[name], hints.get(name, Any)):
            raise InputError(f"{paths[name]}={short(node[name])}: {needed} is needed")
    if node.get("_partial_") or "_args_" in node:
        return
    # Softmark's own defaults are for calls without a config: a config names every number.
    ours = dataclasses.is_dataclass(target) and target.__module__.startswith("softmark.")
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and (ours or parameter.default is parameter.empty) and name not in node:
            raise InputError(f"{paths[name]} is missing: {called} needs it")


@functools.lru_cache
def _located(name: Any) -> Any:
    """Return what ``name`` names. Hydra raises where that isn't there, or must not be called."""
    return instantiate({"_target_": name, "_partial_": True}).func


@functools.lru_cache
def _parameters(target: Any) -> Mapping[str, inspect.Parameter] | None:
    """Return what ``target`` takes; None where it doesn't say, as some classes of C."""
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):
        return None


@functools.lru_cache
def _hints(target: Any) -> dict[str, Any]:
    """Return the arguments' types; none where only a type checker has what they name."""
    try:
        if dataclasses.is_dataclass(target):
            # Field by field, each in the module of the class that defines it.
            return typing.get_type_hints(target)
        return typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    except Exception:
        return {}


def _nodes(value: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes of objects in ``value``, outermost only, each with its path."""
    if isinstance(value, dict) and "_target_" in value:
        yield where, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _nodes(inner, f"{where}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nodes(inner, f"{where}[{number}]")


def _type_error(value: Any, hint: Any) -> str:
    """Return what the type ``hint`` asks for, if ``value`` isn't that; else nothing."""
    kind, inner = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        errors = [_type_error(value, choice) for choice in inner]
        return "" if "" in errors else " or ".join(errors)
    if kind is typing.Literal:
        return "" if value in inner else " or ".join(map(str, inner))
    if kind is type(None):
        return "" if value is None else "null"
    if kind in TYPE_NAMES:
        return "" if fits(value, kind) else TYPE_NAMES[kind]
    if kind in (functools.partial, Callable):
        if not isinstance(value, dict) or value.get("_partial_") is not True:
            return "a node with _partial_: true"
        return _class_error(value, inner[0]) if kind is functools.partial and inner else ""
    if kind in (dict, Mapping):
        if not isinstance(value, dict):
            return "a mapping"
        errors = [_type_error(item, inner[1]) for item in value.values()] if inner else []
        return next((f"in the mapping, {error}" for error in errors if error), "")
    if kind in (list, tuple, Sequence):
        if not isinstance(value, list):
            return "a list"
        errors = [_type_error(item, inner[0]) for item in value] if inner else []
        return next((f"in the list, {error}" for error in errors if error), "")
    return _class_error(value, kind)


def _class_error(value: Any, kind: Any) -> str:
    """Return what the class ``kind`` asks for, if ``value`` is no node of it; else nothing."""
    if not isinstance(kind, type) or kind in (Any, object):
        return ""
    needed = f"a node of the class {kind.__name__}"
    if not isinstance(value, dict) or "_target_" not in value:
        return needed
    target = _located(value["_target_"])
    # A protocol names no classes, and a function may return any.
    comparable = isinstance(target, type) and not getattr(kind, "_is_protocol", False)
    return needed if comparable and not issubclass(target, kind) else ""


def fits(value: Any, kind: type) -> bool:
    """Return whether ``value`` is of ``kind``: bool, int, float (finite; an int will do) or str.

    Example:
        >>> fits(1, float), fits(True, int)
        (True, False)
    """
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and abs(value) <= sys.float_info.max
    return type(value) is kind
