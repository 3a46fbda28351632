"""Somebody's own watermark in an experiment: from their class, or an object, to overrides.

    python run.py method._target_=mine.Mine

Their file lies in the current folder, or wherever Python looks for modules. What the class takes is
read off it: ``recipe`` becomes that of the data, every other argument keeps its default.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softmark.errors import InputError, reason_of
from softmark.nodes import short, suggestion
from softmark.recipe import Recipe
from softmark.sweep.spelling import quoted

TARGET = re.compile(r"\+{0,2}method\._target_=(?P<target>.*)")
BASE = "method=none"  # what an own method's node begins as
RECIPE = "${recipe}"  # of the data, which an own method trains by unless it brings another
# The victim, trained on as long without a mark: what a mark costs is measured against it.
CONTROL = (
    "+method.control={_target_:softmark.methods.parts.control.Control,"
    "recipe:${..recipe},epochs_factor:${..epochs_factor},"
    "batch_size_factor:${..batch_size_factor}}"
)
NAMED = ("message", "epochs_factor", "batch_size_factor")  # always, as the control reads them
SET = ("_target_", "name")  # keys of the base's node


def with_own_method(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with what ``method._target_=CLASS`` stands for.

    They stay as they are where a ``method=`` is chosen as well, or none is replaced. The current
    folder is looked through for modules after all others.

    Raises:
        InputError: there is no such class, or it is no watermark.
    """
    see_current_folder()
    found = [match for match in map(TARGET.fullmatch, words) if match]
    if not found or any(word.startswith("method=") for word in words):
        return list(words)
    if len(found) > 1 or re.search(r"[,()]", found[0]["target"]):
        raise InputError("method._target_=CLASS: one class, as mine.Mine")
    target = found[0]["target"]
    kind = find_class(target)
    given = [word for word in words if word.lstrip("+").startswith("method.")]
    own = {re.split("[.=]", word.lstrip("+"))[1] for word in given}
    settings = [line for line in overrides_of(kind) if re.split("[.=]", line)[1] not in own]
    added = [f"+{word}" if _is_new(word) else word for word in given]
    # Options come first, as everywhere.
    others = [word for word in words if word not in given]
    options = [word for word in others if "=" not in word or word.startswith("-")]
    rest = [word for word in others if word not in options]
    return [*options, *settings, *added, *rest]


def _is_new(word: str) -> bool:
    return not word.startswith("+") and re.split("[.=]", word)[1] not in SET


def see_current_folder() -> None:
    """Let modules of the current folder be found, after all others."""
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)


def find_class(target: str) -> type:
    """Return the watermark that ``target``, ``module.Class``, names.

    Raises:
        InputError: it can't be imported, or is no watermark.
    """
    from softmark.methods.contract import check_class

    where, (module, _, name) = f"method._target_={target}", target.rpartition(".")
    if not module:
        raise InputError(f"{where}: MODULE.CLASS is needed, as mine.Mine")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise InputError(
                f"{where}: no module {error.name} in {Path.cwd()} or where Python looks for them"
            ) from None
        raise InputError(f"{where}: {module} can't be imported: {short(error)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {short(reason_of(error) or error)}"
        raise InputError(f"{where}: {module} can't be imported: {reason}") from error
    if not hasattr(found, name):
        classes = [other for other, value in vars(found).items() if inspect.isclass(value)]
        raise InputError(f"{where}: {module} has no class {name}{suggestion(name, classes)}")
    kind = getattr(found, name)
    check_class(kind, where)
    return kind


def overrides_of(method: Any) -> list[str]:
    """Return the overrides that make ``method``, a watermark or its class, that of a cell.

    Example:
        >>> from softmark.methods import Adi
        >>> overrides_of(Adi(num_triggers=50))[1:4]
        ['method._target_=softmark.methods.adi.Adi', 'method.name=Adi', '+method.message=softmark']

    Raises:
        InputError: an experiment can't find the class again, or what an argument was given.
    """
    from softmark.methods.watermark import TrainedWatermark

    kind = method if inspect.isclass(method) else type(method)
    target = f"{kind.__module__}.{kind.__qualname__}"
    if kind.__module__ == "__main__" or "<locals>" in target:
        raise InputError(
            f"{kind.__qualname__} is defined in {kind.__module__}: put it at the top of a file of "
            "its own, as mine.py, and import it, so that its code can be told from another's"
        )
    lines = [BASE, f"method._target_={target}", f"method.name={kind.__name__}"]
    given = {} if inspect.isclass(method) else _arguments(method)
    # A config names every number of our own classes (``nodes.make``).
    ours = kind.__module__.startswith("softmark.")
    for name, default in _defaults(kind).items():
        value = given.get(name, default)
        if name == "recipe" and (name not in given or value == Recipe()):
            lines.append(f"+method.recipe={RECIPE}")
        elif name == "message" and not isinstance(value, str):
            lines.append("+method.message=softmark")
        elif name in NAMED or ours or (name in given and value != default):
            lines.append(f"+method.{name}={_text(value, f'{kind.__name__}.{name}')}")
    if issubclass(kind, TrainedWatermark):
        lines.append(CONTROL)
    return lines


def _defaults(kind: type) -> dict[str, Any]:
    """Return each argument of ``kind`` with its default."""
    defaults = {name: one.default for name, one in inspect.signature(kind).parameters.items()}
    made = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    factories = {f.name: f.default_factory for f in made}
    for name, factory in factories.items():
        if name in defaults and factory is not dataclasses.MISSING:
            defaults[name] = factory()
    return defaults


def _arguments(method: Any) -> dict[str, Any]:
    """Return what ``method`` was made with. Raise ``InputError`` where it doesn't keep that."""
    values = {}
    for name in _defaults(type(method)):
        if not hasattr(method, name):
            raise InputError(
                f"{type(method).__name__} keeps no {name}: make it a dataclass, or keep each "
                "argument under its own name, so that an experiment can make it again"
            )
        values[name] = getattr(method, name)
    return values


def _text(value: Any, where: str) -> str:
    """Return ``value`` as Hydra reads it in an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][\w.-]*", value) else quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(one, where) for one in value)}]"
    if isinstance(value, functools.partial) and not value.args:
        kind = value.func
        target = f"{kind.__module__}.{kind.__qualname__}"
        value = {"_target_": target, "_partial_": True, **value.keywords}
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        kind = type(value)
        value = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        pairs = (
            f"{name}:{RECIPE if one == Recipe() else _text(one, where)}"
            for name, one in value.items()
        )
        return f"{{{','.join(pairs)}}}"
    raise InputError(f"{where}={short(value)}: a number, a text, a list or a dataclass is needed")
