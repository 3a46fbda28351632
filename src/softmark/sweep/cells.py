"""The cells of a sweep: the overrides of each, and the config that they make."""

from __future__ import annotations

import functools
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from softmark.sweep.line import parse
from softmark.sweep.overrides import with_table


def spread(given: list[str]) -> list[list[str]]:
    """The cells that Hydra's basic sweeper makes of ``given``: the overrides of each, in order.

    Raises ``InputError`` for an override that can't be read, and for a table that isn't there.
    """
    _, lines = with_table(given)
    batches = BasicSweeper.split_arguments([parse(line) for line in lines], None)
    return [cell for batch in batches for cell in batch]


def composed(cell: list[str]) -> dict[str, Any]:
    """The config of the overrides of one cell, without interpolations."""
    config = _config(tuple(line for line in cell if not line.startswith("seed=")))
    seeds = [line.removeprefix("seed=") for line in cell if line.startswith("seed=")]
    return {**config, "seed": int(seeds[-1])} if seeds else config


@functools.cache
def _config(cell: tuple[str, ...]) -> dict[str, Any]:
    """Composing takes a third of a second, nearly all of a report: once for all seeds."""
    config = compose("config", list(cell))
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
