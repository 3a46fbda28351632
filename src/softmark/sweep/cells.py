"""The cells of a sweep: the overrides of each, and the config that they make."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import signal
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from softmark.sweep.line import parse
from softmark.sweep.overrides import with_table

PARALLEL = 32  # fewer configs are composed by one process, sooner than others would have started


def spread(given: list[str]) -> list[list[str]]:
    """The cells that Hydra's basic sweeper makes of ``given``: the overrides of each, in order.

    Each once: a seed that is named twice is no second key.
    Raises ``InputError`` for an override that can't be read, and for a table that isn't there.
    """
    _, lines = with_table(given)
    batches = BasicSweeper.split_arguments([parse(line) for line in lines], None)
    cells = [tuple(cell) for batch in batches for cell in batch]
    return [list(cell) for cell in dict.fromkeys(cells)]


_configs: dict[tuple[str, ...], dict[str, Any]] = {}


def composed(cell: list[str]) -> dict[str, Any]:
    """The config of the overrides of one cell, without interpolations."""
    group = _group(cell)
    if group not in _configs:
        _configs[group] = _config(group)
    config, left_out = _configs[group], [line for line in cell if line not in group]
    return {**config, "seed": int(left_out[-1].removeprefix("seed="))} if left_out else config


def compose_all(cells: list[list[str]]) -> None:
    """Composes the configs of many cells beforehand, in as many processes as there are cores.

    Hydra takes a third of a second for each. One that can't be composed is left for ``composed``,
    which says why.
    """
    missing = list(dict.fromkeys(group for group in map(_group, cells) if group not in _configs))
    if len(missing) < PARALLEL or "fork" not in multiprocessing.get_all_start_methods():
        return
    # A fork knows Hydra's search path. Ctrl-C is for its parent alone.
    ignoring = (signal.SIGINT, signal.SIG_IGN)
    with multiprocessing.get_context("fork").Pool(None, signal.signal, ignoring) as pool:
        found = pool.imap(_config_or_none, missing, chunksize=8)
        _configs.update((g, config) for g, config in zip(missing, found, strict=True) if config)


def _group(cell: list[str]) -> tuple[str, ...]:
    """The overrides of ``cell`` but for its seed: one config serves all seeds.

    With the seed where anything else may follow from it, or it from anything else.
    """
    follows = any("${" in line for line in cell)
    return tuple(line for line in cell if follows or not re.fullmatch(r"seed=\d+", line))


def _config(group: tuple[str, ...]) -> dict[str, Any]:
    config = compose("config", list(group))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def _config_or_none(group: tuple[str, ...]) -> dict[str, Any] | None:
    with contextlib.suppress(Exception):
        return _config(group)
    return None
