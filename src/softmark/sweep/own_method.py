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

TARGET_OVERRIDE = re.compile(r"\+{0,2}method\._target_=(?P<target>.*)")
UNMARKED = "method=none"  # what the node of an own method begins as
RECIPE_OF_DATA = "${recipe}"  # of the data, which an own method trains by unless it brings another
# The victim, trained on as long without a mark: what a mark costs is measured against it.
CONTROL_OVERRIDE = (
    "+method.control={_target_:softmark.methods.parts.control.Control,"
    "recipe:${..recipe},epochs_factor:${..epochs_factor},"
    "batch_size_factor:${..batch_size_factor}}"
)
ALWAYS_GIVEN = ("message", "epochs_factor", "batch_size_factor")  # the control reads them
KEYS_OF_UNMARKED = ("_target_", "name")  # keys of the node of method=none


def with_own_method(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with what ``method._target_=CLASS`` stands for.

    They stay as they are where a ``method=`` is chosen as well, or none is replaced. The current
    folder is looked through for modules after all others.

    Raises:
        InputError: there is no such class, or it is no watermark.
    """
    see_current_folder()
    targets = [match for match in map(TARGET_OVERRIDE.fullmatch, words) if match]
    if not targets or any(word.startswith("method=") for word in words):
        return list(words)
    if len(targets) > 1 or re.search(r"[,()]", targets[0]["target"]):
        raise InputError("method._target_=CLASS: one class, as mine.Mine")
    target = targets[0]["target"]
    watermark = find_class(target)
    method_overrides = [word for word in words if word.lstrip("+").startswith("method.")]
    keys = {re.split("[.=]", word.lstrip("+"))[1] for word in method_overrides}
    defaults = [line for line in overrides_of(watermark) if re.split("[.=]", line)[1] not in keys]
    own_overrides = [f"+{word}" if _adds_key(word) else word for word in method_overrides]
    # Options come first, as everywhere.
    others = [word for word in words if word not in method_overrides]
    options = [word for word in others if "=" not in word or word.startswith("-")]
    choices = [word for word in others if word not in options]
    return [*options, *defaults, *own_overrides, *choices]


def _adds_key(word: str) -> bool:
    return not word.startswith("+") and re.split("[.=]", word)[1] not in KEYS_OF_UNMARKED


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
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise InputError(
                f"{where}: no module {error.name} in {Path.cwd()} or where Python looks for them"
            ) from None
        raise InputError(f"{where}: {module} can't be imported: {short(error)}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {short(reason_of(error) or error)}"
        raise InputError(f"{where}: {module} can't be imported: {reason}") from error
    if not hasattr(imported, name):
        classes = [other for other, value in vars(imported).items() if inspect.isclass(value)]
        raise InputError(f"{where}: {module} has no class {name}{suggestion(name, classes)}")
    watermark = getattr(imported, name)
    check_class(watermark, where)
    return watermark


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

    watermark = method if inspect.isclass(method) else type(method)
    target = f"{watermark.__module__}.{watermark.__qualname__}"
    if watermark.__module__ == "__main__" or "<locals>" in target:
        raise InputError(
            f"{watermark.__qualname__} is defined in {watermark.__module__}: put it at the top of "
            "a file of its own, as mine.py, and import it, so that its code can be told from "
            "another's"
        )
    overrides = [UNMARKED, f"method._target_={target}", f"method.name={watermark.__name__}"]
    given = {} if inspect.isclass(method) else _arguments_of(method)
    # A config names every number of our own classes (``nodes.make``).
    is_ours = watermark.__module__.startswith("softmark.")
    for name, default in _defaults_of(watermark).items():
        value = given.get(name, default)
        if name == "recipe" and (name not in given or value == Recipe()):
            overrides.append(f"+method.recipe={RECIPE_OF_DATA}")
        elif name == "message" and not isinstance(value, str):
            overrides.append("+method.message=softmark")
        elif name in ALWAYS_GIVEN or is_ours or (name in given and value != default):
            overrides.append(
                f"+method.{name}={_override_value(value, f'{watermark.__name__}.{name}')}"
            )
    if issubclass(watermark, TrainedWatermark):
        overrides.append(CONTROL_OVERRIDE)
    return overrides


def _defaults_of(watermark: type) -> dict[str, Any]:
    """Return each argument of ``watermark`` with its default."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(watermark).parameters.items()
    }
    class_fields = dataclasses.fields(watermark) if dataclasses.is_dataclass(watermark) else ()
    factories = {field.name: field.default_factory for field in class_fields}
    for name, factory in factories.items():
        if name in defaults and factory is not dataclasses.MISSING:
            defaults[name] = factory()
    return defaults


def _arguments_of(method: Any) -> dict[str, Any]:
    """Return what ``method`` was made with. Raise ``InputError`` where it doesn't keep that."""
    values = {}
    for name in _defaults_of(type(method)):
        if not hasattr(method, name):
            raise InputError(
                f"{type(method).__name__} keeps no {name}: make it a dataclass, or keep each "
                "argument under its own name, so that an experiment can make it again"
            )
        values[name] = getattr(method, name)
    return values


def _override_value(value: Any, where: str) -> str:
    """Return ``value`` as Hydra reads it in an override."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if re.fullmatch(r"[A-Za-z_][\w.-]*", value) else quoted(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_override_value(item, where) for item in value)}]"
    if isinstance(value, functools.partial) and not value.args:
        kind = value.func
        target = f"{kind.__module__}.{kind.__qualname__}"
        value = {"_target_": target, "_partial_": True, **value.keywords}
    if dataclasses.is_dataclass(value) and not inspect.isclass(value):
        fields = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.init
        }
        kind = type(value)
        value = {"_target_": f"{kind.__module__}.{kind.__qualname__}", **fields}
    if isinstance(value, Mapping):
        pairs = (
            f"{name}:{RECIPE_OF_DATA if item == Recipe() else _override_value(item, where)}"
            for name, item in value.items()
        )
        return f"{{{','.join(pairs)}}}"
    raise InputError(f"{where}={short(value)}: a number, a text, a list or a dataclass is needed")
