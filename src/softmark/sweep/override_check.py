"""One line of overrides against a config of conf/, checked before torch is imported.

What a line makes must have the shape of the config that its choices of groups make alone: the same
keys, and values of the same type. That holds for what ``+``, ``++``, ``~`` and ``@`` do as well.
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
from softmark.nodes import near, short
from softmark.renamed import current
from softmark.settings import CONF, configs
from softmark.sweep.config_shape import check_finite, fit

LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_submitit_launcher", "parallel"),
    "submitit_slurm": ("hydra_submitit_launcher", "parallel"),
    "ray": ("hydra_ray_launcher", "ray"),
}
# The groups that a cell can do without.
SPARE = ("table", "protocol")
NO_KEYS = ("hydra", "_target_", "_partial_")  # what a config holds and nobody sets


def _absent(plugin: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{plugin}") is None


class Base(NamedTuple):
    """What choices of groups make: with Hydra's own config, without it, and resolved."""

    whole: DictConfig
    config: DictConfig
    plain: dict[str, Any]


def checked(name: str, line: list[str]) -> dict[str, Any]:
    """``conf/NAME.yaml`` with the overrides ``line``, each of one value, resolved.

    Raises ``InputError`` for an override that can't work.
    """
    line = current(line)
    for override in map(parse, line):
        if override.is_sweep_override():
            raise InputError(f"{override.input_line}: one value is needed here, not a sweep")
    with configs():
        return checked_line(name, line)


def checked_line(name: str, line: list[str]) -> dict[str, Any]:
    parsed = [parse(text) for text in line]
    groups = [override for override in parsed if _is_group(override)]
    values = [override for override in parsed if not _is_group(override)]
    for override in groups:
        check_group(override)
    base = _base(name, tuple(o.input_line for o in groups if o.package is None))
    # A choice at another place, GROUP@KEY=CHOICE, must fit there as a value must.
    chosen = _base(name, tuple(o.input_line for o in groups))
    fit(base.plain, chosen.plain)
    for override in values:
        _check_key(override, chosen.whole)
    _check_hydra(values, chosen)
    own = [override for override in values if not override.is_hydra_override()]
    plain = _plain(_applied(chosen.config, own), whole=True)
    # First what was named: others may only follow it by an interpolation.
    named = {override.key_or_group.partition(".")[0] for override in own}
    fit(dict(sorted(chosen.plain.items(), key=lambda item: item[0] not in named)), plain)
    check_finite(plain)  # what was added, too
    return plain


def parse(line: str) -> Override:
    """Return the override that ``line`` says; a glob(...) becomes the choices that it matches.

    Raise ``InputError`` for one that can't be read, and for a glob(...) that matches nothing.
    """
    try:
        override = OverridesParser.create().parse_override(line)
        if override.value_type != ValueType.GLOB_CHOICE_SWEEP:
            return override
        names = matched(override.key_or_group, override.value())
        listed = f"{override.get_key_element()}=choice({','.join(names)})"
        return replace(OverridesParser.create().parse_override(listed), input_line=line)
    except InputError:
        raise
    except Exception:  # of Hydra, of its grammar, or of a number with too many digits
        raise InputError(
            f"{short(line)}: it can't be read; an override is KEY=VALUE, with quotes around a "
            "value that holds commas, brackets or spaces"
        ) from None


def matched(group: str, pattern: Glob) -> list[str]:
    """Return the choices of ``group`` that ``pattern`` matches, each once.

    In the order of the patterns, and by name among those of one pattern: glob([none,*]) begins
    with none.
    """
    names = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    found = [name for one in pattern.include for name in Glob([one], pattern.exclude).filter(names)]
    if not found:
        raise InputError(f"{group}: no choice of it matches {', '.join(pattern.include)}")
    return list(dict.fromkeys(found))


@functools.lru_cache(maxsize=32)
def _base(name: str, groups: tuple[str, ...]) -> Base:
    """Composing takes a fifth of a second: once for all values of a sweep."""
    try:
        whole = compose(name, list(groups), return_hydra_config=True)
    except Exception as error:  # Hydra raises ValueError and AttributeError too
        raise InputError(_said(error)) from None
    config = copy.deepcopy(whole)
    with open_dict(config):
        del config["hydra"]
    return Base(whole, config, _plain(config, whole=False))


def _applied(config: DictConfig, values: list[Override]) -> DictConfig:
    config = copy.deepcopy(config)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
    except Exception as error:
        raise InputError(_said(error)) from None
    return config


def _plain(config: DictConfig, *, whole: bool) -> dict[str, Any]:
    """``config`` without interpolations; ``whole``: nothing may be missing."""
    try:
        return OmegaConf.to_container(config, resolve=True, throw_on_missing=whole)
    except RecursionError:
        raise InputError("an interpolation ${...} leads back to itself") from None
    except Exception as error:  # a resolver may raise anything
        key = getattr(error, "full_key", None) or "the config"
        raise InputError(f"{key}: {_said(error)}") from None


def _said(error: BaseException) -> str:
    """The first lines of an error, and the first of what it came from."""
    lines = [*str(error).splitlines()[:2], *str(error.__cause__ or "").splitlines()[:1]]
    kept = [line for line in map(short, lines) if line and not line.startswith("full_key:")]
    return "\n".join(kept) or type(error).__name__


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() or override.key_or_group.startswith("hydra/")


def check_group(override: Override) -> None:
    line, group, chosen = override.input_line, override.key_or_group, override.value()
    if override.is_sweep_override() or isinstance(chosen, list | dict):
        raise InputError(f"{line}: one choice is needed")
    there = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
    listed = f"\nthere are: {', '.join(there)}" if there else ""
    if override.is_delete() and override.package is None and group not in SPARE:
        raise InputError(f"{line}: {group} is needed{listed}")
    plugin, extra = LAUNCHERS.get(str(chosen), ("", ""))
    if group == "hydra/launcher" and plugin and _absent(plugin):
        raise InputError(f"{line} isn't installed: pip install -e '.[{extra}]'")
    if override.is_delete() and chosen is None:
        return
    if chosen is None or (chosen not in there and not group.startswith("hydra/")):
        wanted = near(str(chosen), there)
        raise InputError(f"{group}={short(chosen)}: no such choice{wanted}{listed}")


def _check_key(override: Override, config: DictConfig) -> None:
    """Raises ``InputError`` for a key that isn't there, or lies in what is another key's copy."""
    key = override.key_or_group
    node: Any = config
    *above, last = key.split(".")
    for place, part in enumerate(above, 1):
        if not isinstance(node, DictConfig) or part not in node:
            node = None
            break
        if OmegaConf.is_interpolation(node, part):
            source = OmegaConf.to_container(node, resolve=False)[part]
            raise InputError(f"{key}: {'.'.join(above[:place])} is {source}: change that instead")
        node = node[part]
    if override.is_add() or override.is_force_add():
        return
    if not isinstance(node, DictConfig) or last not in node:
        raise InputError(f"{key}: there is no such key{_meant(key, node, config)}")


def _meant(key: str, node: Any, config: DictConfig) -> str:
    """The end of a message: the key that was meant, else those that are there."""
    above, _, last = key.rpartition(".")
    if not isinstance(node, DictConfig):
        return near(key, _keys(config))
    there = [str(name) for name in node if name not in NO_KEYS]
    if meant := near(last, there, 0.7, f"{above}." if above else ""):
        return meant
    found = (other for other in _keys(config) if not other.startswith("innocents."))
    elsewhere = [other for other in found if other.rpartition(".")[2] == last]
    if elsewhere and not above:
        return f"; did you mean {min(elsewhere, key=len)}?"
    return f"\n{above or 'the config'} has: {', '.join(there)}"


def _keys(config: DictConfig) -> Iterator[str]:
    for key in config:
        if key in NO_KEYS:
            continue
        yield str(key)
        child = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(child, DictConfig):
            yield from (f"{key}.{below}" for below in _keys(child))


def _check_hydra(values: list[Override], chosen: Base) -> None:
    """Checks what is Hydra's own: its types, and the folders that it writes to."""
    own = [override for override in values if override.is_hydra_override()]
    if not own:
        return
    for override in own:
        if override.is_delete():
            raise InputError(f"{override.input_line}: Hydra needs it")
    config = _applied(chosen.whole, values)
    for override in own:
        if override.key_or_group in ("hydra.run.dir", "hydra.sweep.dir"):
            try:
                folder = OmegaConf.select(config, override.key_or_group)
            except Exception as error:
                raise InputError(f"{override.key_or_group}: {_said(error)}") from None
            check_writable(override.key_or_group, folder)


def check_writable(key: str, folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{key}={folder} can't be written: {reason}") from None
