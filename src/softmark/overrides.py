"""The command line, checked before anything runs: groups, keys, and the types of values."""

from __future__ import annotations

import difflib
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from softmark.errors import InputError

CONF = Path(__file__).parents[2] / "conf"


LAUNCHERS = {
    "joblib": ("hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_submitit_launcher", "parallel"),
    "submitit_slurm": ("hydra_submitit_launcher", "parallel"),
    "ray": ("hydra_ray_launcher", "ray"),
}


def _absent(plugin: str) -> bool:
    return importlib.util.find_spec(f"hydra_plugins.{plugin}") is None


def check(arguments: list[str]) -> None:
    """Raises ``InputError`` for an override that can't work: one to three lines.

    Each value of a sweep is tried by itself, with the first value of every other override: as
    many checks as there are values, not their product.
    """
    told = get_args_parser().parse_known_args(arguments)[0]
    if told.help or told.hydra_help or told.shell_completion:
        return
    table, lines = with_table(told.overrides)
    parsed = [_parse(line) for line in lines]
    for override in parsed:
        if override.is_sweep_override() and not (told.multirun or table):
            raise InputError(f"{override.input_line} is a sweep of several values: add -m")
    values = [_values(override) for override in parsed]
    first = [texts[0] for texts in values]
    with _hydra():
        base, whole = _check_choices(first)
        _check_writable(Path(whole.output_dir))
        for place, texts in enumerate(values):
            for text in texts[1:]:
                override = _parse(text)
                if _is_group(override):
                    _check_choices([*first[:place], text, *first[place + 1 :]])
                else:
                    _check_value(override, base)


def with_table(given: list[str]) -> tuple[dict[str, Any], list[str]]:
    """The chosen table, and what it sweeps over, but for what ``given`` narrows, before ``given``.

    Nothing and ``given`` where no table is chosen. Raises ``InputError`` for one that isn't there.
    """
    chosen = [_parse(line) for line in given if line.startswith("table=")]
    if not chosen:
        return {}, given
    _check_group(chosen[-1])
    told = OmegaConf.load(CONF / "table" / f"{chosen[-1].value()}.yaml")
    narrowed = {line.split("=", 1)[0].lstrip("+~") for line in given}
    params = OmegaConf.to_container(told.hydra.sweeper.params)
    swept = [f"{key}={value}" for key, value in params.items() if key not in narrowed]
    return OmegaConf.to_container(told.table), [*swept, *given]


def _parse(line: str) -> Override:
    try:
        return OverridesParser.create().parse_override(line)
    except HydraException:
        raise InputError(
            f"{line}: it can't be read; an override is KEY=VALUE, with quotes around a value that "
            "holds commas, brackets or spaces"
        ) from None


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"output_dir={folder} can't be written: {error.strerror}") from None


def _values(override: Override) -> list[str]:
    """An override as the overrides that a sweep makes of it."""
    if not override.is_sweep_override():
        return [override.input_line]
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _hydra():
    if GlobalHydra.instance().is_initialized():
        GlobalHydra.instance().clear()
    return initialize_config_dir(str(CONF), version_base="1.3")


def _check_choices(line: list[str]) -> tuple[DictConfig, DictConfig]:
    """Checks one override of each kind; the config of its choices alone, and of the whole line."""
    parsed = [_parse(text) for text in line]
    for override in parsed:
        _check_group(override)
    base = _compose([override.input_line for override in parsed if _is_group(override)])
    for override in parsed:
        if not _is_group(override):
            _check_value(override, base)
    return base, _compose(line)


def _compose(line: list[str]) -> DictConfig:
    try:
        return compose("config", line, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        told = [part.strip() for part in str(error).splitlines() if part.strip()]
        raise InputError("\n".join(told[:2])) from None


def _is_group(override: Override) -> bool:
    return (CONF / override.key_or_group).is_dir() or override.key_or_group.startswith("hydra/")


def _check_group(override: Override) -> None:
    folder = CONF / override.key_or_group
    plugin, extra = LAUNCHERS.get(str(override.value()), ("", ""))
    if override.key_or_group == "hydra/launcher" and plugin and _absent(plugin):
        raise InputError(f"{override.input_line} isn't installed: pip install -e '.[{extra}]'")
    if override.key_or_group.startswith("hydra/") or not folder.is_dir():
        return
    there = sorted(path.stem for path in folder.glob("*.yaml"))
    value = override.value()
    for chosen in value if isinstance(value, list) else [value]:
        if override.is_delete() or chosen is None or chosen in there:
            continue
        raise InputError(
            f"{override.key_or_group}={chosen}: no such choice{_near(str(chosen), there)}\n"
            f"there are: {', '.join(there) or 'none yet'}"
        )


def _check_value(override: Override, base: DictConfig) -> None:
    if override.is_add() or override.is_force_add():
        return
    key = override.key_or_group
    parent, _, last = key.rpartition(".")
    node = OmegaConf.select(base, parent) if parent else base
    if not isinstance(node, DictConfig) or last not in node:
        raise InputError(f"{key}: there is no such key{_near(key, _keys(base))}")
    if key.startswith("hydra.") or override.is_delete():
        return
    # ??? has no type of its own; whatever follows will say what it needs.
    old = None if OmegaConf.is_missing(node, last) else node[last]
    new = override.value()
    if old is None or isinstance(new, dict | list) or _same_type(old, new):
        return
    raise InputError(
        f"{key}={new} is {_kind(new)}: it must be {_kind(old)}, as the default {key}={old}"
    )


def _same_type(old: Any, new: Any) -> bool:
    if isinstance(old, float):
        return isinstance(new, float | int) and not isinstance(new, bool)
    if isinstance(old, str):
        # A quoted value is Hydra's QuotedString; an interpolation is text until it is resolved.
        return isinstance(new, str) or type(new).__name__ == "QuotedString"
    if isinstance(new, str) and "${" in new:
        return True
    return type(old) is type(new)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if value is None:
        return "null"
    names = {int: "a whole number", float: "a number", str: "text"}
    return names.get(type(value), "text" if type(value).__name__ == "QuotedString" else "a mapping")


def _keys(config: DictConfig) -> list[str]:
    found = []
    for key in config:
        if key in ("hydra", "_target_", "_partial_"):
            continue
        found.append(str(key))
        child = None if OmegaConf.is_missing(config, key) else config[key]
        if isinstance(child, DictConfig):
            found += [f"{key}.{below}" for below in _keys(child)]
    return found


def _near(word: str, there: list[str]) -> str:
    close = difflib.get_close_matches(word, there, 1, 0.6)
    return f"; did you mean {close[0]}?" if close else ""
