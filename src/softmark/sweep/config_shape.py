"""Check that a config has the shape of its defaults: the same keys, values of the same types."""

from __future__ import annotations

from typing import Any

from softmark.errors import InputError
from softmark.nodes import TYPE_NAMES, fits, short, suggestion

# What may stand where the default is null, or an empty list.
EXAMPLES = {
    "worker": "DIR",
    "data.name": "NAME",
    "data.path": "DIR",
    "data.size": 32,
    "data.source.dataset": "NAME",
    "data.source.path": "DIR",
    "data.source.size": 32,
    "data.source.subset": "NAME",
    "data.roles.limit": 1000,
    "data.roles.judge_limit": 1000,
    "attack.samples": 100,
    "logger.group": "GROUP",
    "logger.mode": "offline",
    "method.detector.hidden": [128],
    "trainer.threads": 1,
    "trainer.workers": 2,
    "verifier.messages": ["NAME"],
}
# What the plan of a cell reads of a node, if it is there.
PLAN_KEY_EXAMPLES = {
    "steps": {"1": {"_target_": "CLASS"}},
    "colluders": ["NAME"],
    "merges": True,
    "control": {"_target_": "CLASS"},
    "certificate": {"_target_": "CLASS"},
}
# These may be null though their default isn't.
NULLABLE = (
    "data.source.test_split",
    "data.roles.limit",
    "data.roles.judge_limit",
    "trainer.threads",
    "trainer.workers",
)
# The only texts that a key takes.
CHOICES = {"precision": ("auto", "bf16-mixed", "32-true")}


def check_shape(default: Any, value: Any, key: str = "") -> None:
    """Raise ``InputError`` unless ``value`` has the shape of ``default``; both stand at ``key``.

    A null default takes what ``EXAMPLES`` shows. No number may be negative, unless its default is.
    In a mapping of mappings names are free, as those of simulated attacks and of kinds of
    innocents; any other mapping keeps its keys.
    """
    nullable = default is None or key in NULLABLE
    if value is None and nullable:
        return
    if key.endswith(".colluders") and type(value) is int:
        return  # a number in place of names: the plan says which will do
    default = default or EXAMPLES.get(key, default)
    if default is None or default == "???":
        return  # nothing is known: whatever takes it will say what it needs
    if not (type(value) is type(default) or (type(default) is float and fits(value, float))):
        required = "null or " * nullable + _type_name(default)
        if not nullable and not isinstance(default, list | dict):
            required += f", as the default {key}={short(default)}"
        raise InputError(f"{key}={short(value)} is {_type_name(value)}: it must be {required}")
    if type(default) is float and not fits(value, float):
        raise InputError(f"{key}={short(value)}: a finite number is needed")
    if type(default) in (int, float) and value < 0 <= default:
        raise InputError(f"{key}={short(value)}: it can't be negative")
    if type(default) is int and value >= 2**63:
        raise InputError(f"{key}={short(value)}: it must be below 2^63")
    if value not in CHOICES.get(key, [value]):
        raise InputError(f"{key}={short(value)}: {', '.join(CHOICES[key])}")
    if isinstance(default, list):
        for number, one in enumerate(value if default else []):
            check_shape(default[0], one, f"{key}[{number}]")
    elif isinstance(default, dict):
        _check_mapping(default, value, key)


def _check_mapping(default: dict[str, Any], value: dict[Any, Any], key: str) -> None:
    paths = {name: f"{key}.{name}" if key else str(name) for name in [*default, *value]}
    if non_texts := [name for name in value if not isinstance(name, str)]:
        raise InputError(f"{paths[non_texts[0]]}: a key must be text; quotes make it so")
    if all(isinstance(one, dict) for one in default.values()):
        siblings = {name: one for mapping in default.values() for name, one in mapping.items()}
        for name, one in value.items():
            if "_target_" in default.get(name, {}):
                check_shape(default[name], one, paths[name])
            else:
                _check_free_mapping(siblings, one, paths[name])
        return
    is_object = "_target_" in default
    other_class = is_object and value.get("_target_", default["_target_"]) != default["_target_"]
    for name, expected in default.items():
        # Another class has arguments of its own.
        if other_class and name != "name":
            continue
        if name not in value:
            raise InputError(f"{paths[name]} is missing, and it is needed")
        check_shape(expected, value[name], paths[name])
    for name in [name for name in value if name not in default]:
        # The class says which arguments it takes; how it is called is no setting.
        if not is_object or name.startswith("_"):
            known = [paths[other] for other in default if not other.startswith("_")]
            raise InputError(f"{paths[name]}: there is no such key{suggestion(paths[name], known)}")
        if name in PLAN_KEY_EXAMPLES:
            check_shape(PLAN_KEY_EXAMPLES[name], value[name], paths[name])


def _check_free_mapping(siblings: dict[str, Any], value: Any, key: str) -> None:
    """Check a mapping whose name is free; ``siblings``: the keys of those beside it, if any."""
    if not isinstance(value, dict):
        raise InputError(f"{key}={short(value)} is {_type_name(value)}: it must be a mapping")
    if not siblings or "_target_" in siblings:
        # The class says which other arguments it takes.
        for name in PLAN_KEY_EXAMPLES.keys() & value.keys():
            check_shape(PLAN_KEY_EXAMPLES[name], value[name], f"{key}.{name}")
        return
    for name, one in value.items():
        if name not in siblings:
            raise InputError(f"{key}.{name}: there is no such key{suggestion(str(name), siblings)}")
        if isinstance(siblings[name], dict) and isinstance(one, dict):
            continue  # settings that the maker of this object checks
        check_shape(siblings[name], one, f"{key}.{name}")


def check_finite(value: Any, key: str = "") -> None:
    """Raise ``InputError`` for a number in ``value`` that is infinite or none."""
    if isinstance(value, float) and not fits(value, float):
        raise InputError(f"{key}={value}: a finite number is needed")
    elements = enumerate(value) if isinstance(value, list) else ()
    for name, one in value.items() if isinstance(value, dict) else elements:
        check_finite(one, f"{key}.{name}" if key else str(name))


def _type_name(value: Any) -> str:
    names = {**TYPE_NAMES, dict: "a mapping", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)
