"""The sizes that a network may have, whatever a config or a file says. Torch isn't imported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softmark.errors import InputError
from softmark.nodes import short

# The least and the largest whole number that each argument may be.
RANGES = {"classes": (2, 1_000_000), "width": (1, 100_000), "depth": (1, 250), "factor": (1, 100)}


def check_number(name: str, value: Any, least: int, most: int) -> None:
    """Raise ``InputError`` where ``value`` is no whole number from ``least`` to ``most``."""
    if type(value) is not int or not least <= value <= most:
        raise InputError(
            f"{name}={short(value)}: a whole number from {least} to {most:,} is needed"
        )


def check_sizes(arguments: Mapping[str, Any], prefix: str = "") -> None:
    """Raise ``InputError`` where a size among a network's ``arguments`` can't be.

    Example:
        >>> check_sizes({"width": 0}, "model.")
        Traceback (most recent call last):
        softmark.errors.InputError: model.width=0: a whole number from 1 to 100,000 is needed
    """
    for name in arguments.keys() & RANGES.keys():
        check_number(f"{prefix}{name}", arguments[name], *RANGES[name])


def check_networks(config: Mapping[str, Any]) -> None:
    """Raise ``InputError`` where a size of a cell's networks, or of its innocents', can't be."""
    innocents = config["innocents"]["networks"].items()
    networks = {
        "model": config["model"],
        **{f"innocents.networks.{n}": node for n, node in innocents},
    }
    for name, node in networks.items():
        target = node.get("_target_") if isinstance(node, Mapping) else None
        if str(target).startswith("softmark."):  # a class of the user's own has its own numbers
            check_sizes(node, f"{name}.")
