"""Overrides against a config of conf/, checked before torch is imported.

What overrides make must have the shape of the config that their choices of groups make alone: the
same keys, and values of the same type. That holds for what ``+``, ``++``, ``~`` and ``@`` do too.
"""

from __future__ import annotations

import copy
import functools
import importlib.util
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override, ValueType
from omegaconf import DictConfig, OmegaConf, open_dict

from softmark.errors import InputError
from softmark.nodes import short, suggestion
from softmark.renamed import current
from softmark.settings import config_files, configs, with_absolute_paths
from softmark.sweep.config_shape import check_finite, check_shape
from softmark.sweep.spelling import folders_of, spelled

# The Python package of a launcher's plugin, and the extra of softmark that installs it.
LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_submitit_launcher", "parallel"),
    "submitit_slurm": ("hydra_submitit_launcher", "parallel"),
    "ray": ("hydra_ray_launcher", "ray"),
}
OPTIONAL_GROUPS = ("table", "protocol")  # a cell can do without them
INTERNAL_KEYS = ("hydra", "_target_", "_partial_")  # nobody sets them


class Composed(NamedTuple):
    """What choices of groups make: with Hydra's own config, without it, and resolved."""

    with_hydra: DictConfig
    config: DictConfig
    plain: dict[str, Any]


def compose_checked(name: str, overrides: list[str]) -> dict[str, Any]:
    """Return ``conf/NAME.yaml`` with ``overrides``, each of one value, resolved.

    Raises:
        InputError: An override can't work.
    """
    overrides = spelled(overrides)
    with configs(folders_of(overrides)):
        overrides = current(overrides)
        for override in map(parse_override, overrides):
            if override.is_sweep_override():
                raise InputError(f"{override.input_line}: one value is needed here, not a sweep")
        return check_overrides(name, overrides)


def check_overrides(name: str, overrides: list[str]) -> dict[str, Any]:
    """Do the work of ``compose_checked`` in ``settings.configs()``, with overrides of today."""
    parsed = [parse_override(line) for line in overrides]
    choices = [override for override in parsed if _is_choice(override)]
    values = [override for override in parsed if not _is_choice(override)]
    for override in choices:
        check_choice(override)
    default = _compose(name, tuple(o.input_line for o in choices if o.package is None))
    # A choice at another place, GROUP@KEY=CHOICE, must fit there as a value must.
    chosen = _compose(name, tuple(o.input_line for o in choices))
    check_shape(default.plain, chosen.plain)
    for override in values:
        _check_key(override, chosen.with_hydra)
    _check_hydra_values(values, chosen)
    task_values = [override for override in values if not override.is_hydra_override()]
    plain = _resolve(_set_values(chosen.config, task_values), complete=True)
    # First what was named: others may only follow it by an interpolation.
    named = {override.key_or_group.partition(".")[0] for override in task_values}
    named_first = sorted(chosen.plain.items(), key=lambda item: item[0] not in named)
    check_shape(dict(named_first), plain)
    check_finite(plain)  # what was added, too
    return with_absolute_paths(plain)


def parse_override(line: str) -> Override:
    """Return the override that ``line`` says; a glob(...) becomes the choices that it matches.

    Raises:
        InputError: It can't be read, or its glob(...) matches nothing.
    """
    try:
        override = OverridesParser.create().parse_override(line)
        if override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            return override
        names = matching_choices(override.key_or_group, override.value())
        listed = f"{override.get_key_element()}=choice({','.join(names)})"
        return replace(OverridesParser.create().parse_override(listed), input_line=line)
    except InputError:
        raise
    except Exception:  # of Hydra, of its grammar, or of a number with too many digits
        raise InputError(
            f"{short(line)}: it can't be read; an override is KEY=VALUE, with quotes around a "
            "value that holds commas, brackets or spaces"
        ) from None


def matching_choices(group: str, pattern: Glob) -> list[str]:
    """Return the choices of ``group`` that ``pattern`` matches, each once.

    In the order of the patterns, and by name among those of one pattern: glob([none,*]) begins
    with none.
    """
    names = choices_of(group)
    matches = [
        name for one in pattern.include for name in Glob([one], pattern.exclude).filter(names)
    ]
    if not matches:
        raise InputError(f"{group}: no choice of it matches {', '.join(pattern.include)}")
    return list(dict.fromkeys(matches))


@functools.lru_cache(maxsize=32)
def _compose(name: str, choices: tuple[str, ...]) -> Composed:
    """Return what ``choices`` make: kept, as composing takes a quarter of a second."""
    try:
        with_hydra = compose(name, list(choices), return_hydra_config=True)
    except Exception as error:  # Hydra raises ValueError and AttributeError too
        raise InputError(_reason(error)) from None
    config = copy.deepcopy(with_hydra)
    with open_dict(config):
        del config["hydra"]
    return Composed(with_hydra, config, _resolve(config, complete=False))


def _set_values(config: DictConfig, values: list[Override]) -> DictConfig:
    config = copy.deepcopy(config)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except Exception as error:
        raise InputError(_reason(error)) from None
    return config


def _resolve(config: DictConfig, *, complete: bool) -> dict[str, Any]:
    """Return ``config`` without interpolations; ``complete``: nothing may be missing."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=complete)
    except RecursionError:
        raise InputError("an interpolation ${...} leads back to itself") from None
    except Exception as error:  # a resolver may raise anything
        key = getattr(error, "full_key", None) or "the config"
        raise InputError(f"{key}: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Return the first lines of an error, and the first of its cause."""
    lines = [*str(error).splitlines()[:2], *str(error.__cause__ or "").splitlines()[:1]]
    lines = [line for line in map(short, lines) if line and not line.startswith("full_key:")]
    return "\n".join(lines) or type(error).__name__


def _is_choice(override: Override) -> bool:
    """Return whether ``override`` chooses a file of a group."""
    group = override.key_or_group
    return group.startswith("hydra/") or config_files().repository.group_exists(group)


def choices_of(group: str) -> list[str]:
    """Return the names of the files of ``group``, in conf/ and the folders beside it."""
    return config_files().get_group_options(group)


def check_choice(override: Override) -> None:
    """Raise ``InputError`` unless the choice of ``override`` is a file of its group."""
    line, group, chosen = override.input_line, override.key_or_group, override.value()
    if override.is_sweep_override() or isinstance(chosen, list | dict):
        raise InputError(f"{line}: one choice is needed")
    if override.is_delete() and override.package is None and group not in OPTIONAL_GROUPS:
        raise InputError(f"{line}: {group} is needed{_listed(choices_of(group))}")
    plugin, extra = LAUNCHERS.get(str(chosen), ("", ""))
    missing = plugin and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None
    if group == "hydra/launcher" and missing:
        raise InputError(f"{line} isn't installed: pip install -e '.[{extra}]'")
    if override.is_delete() and chosen is None:
        return
    if chosen is not None and group.startswith("hydra/"):
        return
    if not _is_a_choice(group, chosen):
        choices = choices_of(group)
        meant = suggestion(str(chosen), choices)
        raise InputError(f"{group}={short(chosen)}: no such choice{meant}{_listed(choices)}")


def _is_a_choice(group: str, chosen: Any) -> bool:
    """Return whether ``group`` has a file ``chosen``, without a look at its other files."""
    if not isinstance(chosen, str) or "/" in chosen or chosen.endswith((".yaml", ".yml")):
        return False
    return config_files().repository.config_exists(f"{group}/{chosen}")


def _listed(choices: list[str]) -> str:
    return f"\nthere are: {', '.join(choices)}" if choices else ""


def _check_key(override: Override, config: DictConfig) -> None:
    """Raise ``InputError`` for a key that isn't there, or lies in what is another key's copy."""
    key = override.key_or_group
    node: Any = config
    *parents, last = key.split(".")
    for depth, part in enumerate(parents, 1):
        if not isinstance(node, DictConfig) or part not in node:
            node = None
            break
        if OmegaConf.is_interpolation(node, part):
            source = OmegaConf.to_container(node, resolve=False)[part]
            raise InputError(f"{key}: {'.'.join(parents[:depth])} is {source}: change that instead")
        node = node[part]
    if override.is_add() or override.is_force_add():
        return
    if not isinstance(node, DictConfig) or last not in node:
        raise InputError(f"{key}: there is no such key{_key_suggestion(key, node, config)}")


def _key_suggestion(key: str, node: Any, config: DictConfig) -> str:
    """Return the end of a message: the key that was meant, else those that are there."""
    parent, _, last = key.rpartition(".")
    if not isinstance(node, DictConfig):
        return suggestion(key, _all_keys(config))
    names = [str(name) for name in node if name not in INTERNAL_KEYS]
    if meant := suggestion(last, names, 0.7, f"{parent}." if parent else ""):
        return meant
    others = (other for other in _all_keys(config) if not other.startswith("innocents."))
    elsewhere = [other for other in others if other.rpartition(".")[2] == last]
    if elsewhere and not parent:
        return f"; did you mean {min(elsewhere, key=len)}?"
    return f"\n{parent or 'the config'} has: {', '.join(names)}"


def _all_keys(config: DictConfig) -> Iterator[str]:
    """Yield the dotted keys of ``config``, outer ones first."""
    for name in config:
        if name in INTERNAL_KEYS:
            continue
        yield str(name)
        child = None if OmegaConf.is_missing(config, name) else config[name]
        if isinstance(child, DictConfig):
            yield from (f"{name}.{inner}" for inner in _all_keys(child))


def _check_hydra_values(values: list[Override], chosen: Composed) -> None:
    """Check values of Hydra's own config: their types, and the folders that it writes to."""
    hydra_values = [override for override in values if override.is_hydra_override()]
    if not hydra_values:
        return
    for override in hydra_values:
        if override.is_delete():
            raise InputError(f"{override.input_line}: Hydra needs it")
        if swept := override.key_or_group.partition("hydra.sweeper.params.")[2]:
            line = f"{swept}={override.value()}"
            raise InputError(f"{override.key_or_group}: say what is swept over itself, as {line}")
    config = _set_values(chosen.with_hydra, values)
    for override in hydra_values:
        if override.key_or_group in ("hydra.run.dir", "hydra.sweep.dir"):
            try:
                folder = OmegaConf.select(config, override.key_or_group)
            except Exception as error:
                raise InputError(f"{override.key_or_group}: {_reason(error)}") from None
            check_writable(override.key_or_group, folder)


def check_writable(key: str, folder: str) -> None:
    """Raise ``InputError`` unless files can be written to ``folder``, the value of ``key``."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{key}={folder} can't be written: {reason}") from None
