"""The configs of a sweep's cells: equal to what Hydra composes, in a tenth of its time."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hydra import compose
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from softmark.settings import with_absolute_paths

SECTIONS = ("method", "attack")  # the groups that a sweep varies most
# An interpolation that may lead into a section: it names one, or holds another interpolation.
REFERENCE = re.compile(rf"\$\{{[^}}]*(\$\{{|\b({'|'.join(SECTIONS)})\b)")
SEED = re.compile(r"seed=\d+")
SEED_REFERENCE = re.compile(r"\$\{[^}]*(\$\{|\bseed\b)")


class CellComposer:
    """Composes the configs of many cells.

    Hydra takes a quarter of a second for each config, however little changes. Here Hydra composes
    the config without method and attack once, and each choice of a method or an attack once by
    itself. A cell's config is their union, with the cell's values set and its interpolations
    resolved. What can't be taken apart like this, Hydra composes as a whole.

    Use it while Hydra is initialised, as inside of ``settings.configs()``.

    Args:
        sweep: The config of the sweep, as Hydra composed it, whose jobs the cells are; None
            outside of a sweep. Its overrides of Hydra's own config and its time are the jobs' too.
        start: The folder at which relative paths begin; None for the current one.
    """

    def __init__(self, sweep: DictConfig | None = None, start: str | None = None) -> None:
        overrides = [] if sweep is None else OmegaConf.to_container(sweep.hydra.overrides.hydra)
        self._sweep, self._hydra_overrides, self._start = sweep, tuple(overrides), start
        self._bases: dict[tuple[tuple[str, ...], ...], _Base | None] = {}
        self._sections: dict[tuple[str, ...], DictConfig] = {}
        self._configs: dict[tuple[str, ...], tuple[dict[str, Any], bool]] = {}

    def compose(self, cell: Sequence[str]) -> dict[str, Any]:
        """Return the config of the overrides ``cell`` as plain containers, all resolved.

        Cells that differ in their seed alone share these containers: don't change them.

        Raises:
            HydraException: There is no such choice or key.
        """
        cell = (*self._hydra_overrides, *cell)
        overrides, seed = _without_seed(cell)
        config, follows_seed = self._config(overrides)
        if seed is None:
            return config
        return self._config(cell)[0] if follows_seed else {**config, "seed": seed}

    def _config(self, overrides: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
        """Return the config of ``overrides``, and whether anything in it follows from the seed."""
        if overrides not in self._configs:
            try:
                self._configs[overrides] = self._union(overrides)
            except (HydraException, OmegaConfBaseException, _Inseparable):
                config = compose("config", list(overrides))  # or says what is wrong
                self._configs[overrides] = self._resolve(config), _follows_seed(config)
        return self._configs[overrides]

    def _union(self, overrides: tuple[str, ...]) -> tuple[dict[str, Any], bool]:
        """Return what ``_config`` does, put together from what was composed before."""
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        inside = {name: [o for o in parsed if _section_name(o) == name] for name in SECTIONS}
        choices = {name: _choices(name, lines) for name, lines in inside.items()}
        chosen = [name for name in SECTIONS if choices[name]]
        values = [o for name in chosen for o in inside[name] if o not in choices[name]]
        others = [o for o in parsed if _section_name(o) not in chosen]
        base = self._base(_lines(others), tuple(chosen))
        config = base.config
        if values:
            # One may be set through an interpolation, and change what that refers to.
            config = copy.deepcopy(config)
        with open_dict(config):
            for name in chosen:
                config[name] = self._section(name, _lines(choices[name]))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        follows_seed = base.follows_seed or any(_follows_seed(config[name]) for name in chosen)
        if values or base.plain is None:
            return self._resolve(config), follows_seed
        # Only the sections are new.
        sections = {name: _plain(config[name]) for name in chosen}
        return {**base.plain, **sections}, follows_seed

    def _base(self, overrides: tuple[str, ...], without: tuple[str, ...]) -> _Base:
        """Return the config of ``overrides`` without the groups ``without``."""
        if (overrides, without) not in self._bases:
            config = compose("config", [*overrides, *(f"~{name}" for name in without)])
            separable = not any(name in config for name in without)
            self._bases[overrides, without] = self._base_of(config) if separable else None
        base = self._bases[overrides, without]
        if base is None:
            raise _Inseparable("another file sets something in a section, before or after it")
        return base

    def _base_of(self, config: DictConfig) -> _Base:
        """Return ``config`` with its resolved form, where no section has a say in that."""
        texts = json.dumps(OmegaConf.to_container(config))
        independent = not REFERENCE.search(texts)
        plain = self._resolve(config) if independent else None
        return _Base(config, plain, _follows_seed(config))

    def _resolve(self, config: DictConfig) -> dict[str, Any]:
        """Return ``config`` as its job sees it: plain, with absolute paths."""
        if self._sweep is not None:
            OmegaConf.copy_cache(self._sweep, config)
        return with_absolute_paths(_plain(config), self._start)

    def _section(self, name: str, choices: tuple[str, ...]) -> DictConfig:
        """Return the node ``name`` that its ``choices``, NAME=CHOICE first, make alone."""
        if choices not in self._sections:
            loader = GlobalHydra.instance().config_loader()
            # Also in the folders of hydra.searchpath.
            _, files = loader._parse_overrides_and_create_caching_repo(
                "config", list(self._hydra_overrides)
            )
            first, *others = OverridesParser.create().parse_overrides(list(choices))
            path = f"{name}/{first.value()}"
            defaults = create_defaults_list(files, path, others, False, False).defaults
            config = loader._compose_config_from_defaults_list(defaults, files)
            if list(config) != [name]:
                raise _Inseparable(f"{path} sets more than {name}")
            self._sections[choices] = config[name]
        return self._sections[choices]


class _Base(NamedTuple):
    """A config without sections, and the same resolved; None where it refers to a section."""

    config: DictConfig
    plain: dict[str, Any] | None
    follows_seed: bool


def _follows_seed(config: DictConfig) -> bool:
    """Return whether an interpolation in ``config`` may lead to the seed."""
    return bool(SEED_REFERENCE.search(json.dumps(OmegaConf.to_container(config))))


def _plain(config: DictConfig) -> dict[str, Any]:
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


class _Inseparable(Exception):
    """The config isn't the union of its sections and of all else."""


def _without_seed(cell: Sequence[str]) -> tuple[tuple[str, ...], int | None]:
    """Return the overrides of ``cell`` but for its seed, and the seed: one config serves all seeds.

    Whether anything follows from the seed, the composed config shows.
    """
    seeds = [line for line in cell if re.match(r"[+~]*seed\b", line)]
    if len(seeds) != 1 or not SEED.fullmatch(seeds[0]):
        return tuple(cell), None
    overrides = tuple(line for line in cell if line not in seeds)
    return overrides, int(seeds[-1].removeprefix("seed="))


def _section_name(override: Override) -> str:
    """Return the group in which ``override`` chooses or sets something; empty for another place."""
    name = re.split("[./]", override.key_or_group)[0]
    return name if override.package is None and name in SECTIONS else ""


def _choices(name: str, overrides: list[Override]) -> list[Override]:
    """Return the choices of files among ``overrides``, NAME=CHOICE first; empty without that."""
    groups = [override for override in overrides if "." not in override.key_or_group]
    first = [override for override in groups if override.key_or_group == name]
    if not first:
        return []
    if len(first) > 1 or any(o.is_add() or o.is_force_add() or o.is_delete() for o in groups):
        raise _Inseparable("Hydra knows which of them counts")
    return [*first, *(override for override in groups if override not in first)]


def _lines(overrides: list[Override]) -> tuple[str, ...]:
    return tuple(override.input_line for override in overrides)
