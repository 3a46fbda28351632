"""Whether a config has the shape of its defaults: the same keys, and values of the same types."""

from __future__ import annotations

from typing import Any

from softmark.errors import InputError
from softmark.nodes import WORDS, fits, near, short

# What may stand where the default is null, or an empty list.
EXAMPLES = {
    "only": ["ROLE/ADDRESS"],
    "data.name": "NAME",
    "data.path": "DIR",
    "data.size": 32,
    "data.source.name": "NAME",
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
    "verifier.messages": ["NAME"],
}
# What a plan reads of a node, if it is there.
PLANNING = {
    "steps": {"1": {"_target_": "CLASS"}},
    "colluders": ["NAME"],
    "merges": True,
    "control": {"_target_": "CLASS"},
}
# What may be null though its default isn't.
NULLABLE = (
    "data.source.test_split",
    "data.roles.limit",
    "data.roles.judge_limit",
    "trainer.threads",
)
# What may stand where any text has the right type.
CHOICES = {"precision": ("auto", "bf16-mixed", "32-true")}


def fit(default: Any, value: Any, key: str = "") -> None:
    """Raises ``InputError`` where ``value`` hasn't the shape of ``default``; ``key``: of both.

    A null default takes what ``EXAMPLES`` shows. No number here may be negative, unless its default
    is. In a mapping of mappings names are free, as
    those of simulated attacks and of kinds of innocents; any other mapping keeps its keys.
    """
    nullable = default is None or key in NULLABLE
    if value is None and nullable:
        return
    default = default or EXAMPLES.get(key, default)
    if default is None or default == "???":
        return  # nothing is known: whatever takes it will say what it needs
    if not (type(value) is type(default) or (type(default) is float and fits(value, float))):
        wanted = "null or " * nullable + _kind(default)
        if not nullable and not isinstance(default, list | dict):
            wanted += f", as the default {key}={short(default)}"
        raise InputError(f"{key}={short(value)} is {_kind(value)}: it must be {wanted}")
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
            fit(default[0], one, f"{key}[{number}]")
    elif isinstance(default, dict):
        _fit_mapping(default, value, key)


def _fit_mapping(default: dict[str, Any], value: dict[Any, Any], key: str) -> None:
    below = {name: f"{key}.{name}" if key else str(name) for name in [*default, *value]}
    if strange := [name for name in value if not isinstance(name, str)]:
        raise InputError(f"{below[strange[0]]}: a key must be text; quotes make it so")
    if all(isinstance(one, dict) for one in default.values()):
        like = {name: old for one in default.values() for name, old in one.items()}
        for name, one in value.items():
            if "_target_" in default.get(name, {}):
                fit(default[name], one, below[name])
            else:
                _fit_free(like, one, below[name])
        return
    is_object = "_target_" in default
    another = is_object and value.get("_target_", default["_target_"]) != default["_target_"]
    for name, old in default.items():
        # Another class has arguments of its own.
        if another and name != "name":
            continue
        if name not in value:
            raise InputError(f"{below[name]} is missing, and it is needed")
        fit(old, value[name], below[name])
    for name in [name for name in value if name not in default]:
        # The class says which arguments it takes; how it is called is no setting.
        if not is_object or name.startswith("_"):
            there = [below[old] for old in default if not old.startswith("_")]
            raise InputError(f"{below[name]}: there is no such key{near(below[name], there)}")
        if name in PLANNING:
            fit(PLANNING[name], value[name], below[name])


def _fit_free(like: dict[str, Any], value: Any, key: str) -> None:
    """Checks a mapping whose name is free; ``like``: the keys of those beside it, if any."""
    if not isinstance(value, dict):
        raise InputError(f"{key}={short(value)} is {_kind(value)}: it must be a mapping")
    if not like or "_target_" in like:
        # The class says which other arguments it takes.
        for name in PLANNING.keys() & value.keys():
            fit(PLANNING[name], value[name], f"{key}.{name}")
        return
    for name, one in value.items():
        if name not in like:
            raise InputError(f"{key}.{name}: there is no such key{near(str(name), like)}")
        if isinstance(like[name], dict) and isinstance(one, dict):
            continue  # settings that the maker of this object checks
        fit(like[name], one, f"{key}.{name}")


def check_finite(value: Any, key: str = "") -> None:
    """Raises ``InputError`` for a number in ``value`` that is infinite or none."""
    if isinstance(value, float) and not fits(value, float):
        raise InputError(f"{key}={value}: a finite number is needed")
    below = enumerate(value) if isinstance(value, list) else ()
    for name, one in value.items() if isinstance(value, dict) else below:
        check_finite(one, f"{key}.{name}" if key else str(name))


def _kind(value: Any) -> str:
    names = {**WORDS, dict: "a mapping", list: "a list", type(None): "null"}
    return names.get(type(value), type(value).__name__)
