"""Write and read networks: a file holds the weights, and the node that rebuilds them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.models.kinds import ENSEMBLES, build_node, check, differences, mismatches
from softmark.models.networks import KINDS
from softmark.nodes import short

FORMAT = "softmark network 2"
OLD = "softmark network 1"  # names classes where FORMAT names kinds


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        InputError: it can't be read, or isn't whole.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error
    return parse_tensors(content, path)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def parse_tensors(content: bytes, where: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what ``read_tensors`` does, of a file's ``content``; ``where`` names it in errors."""
    try:
        # It compares what the header declares with the bytes that are there before it takes memory.
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        return tensors, json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    # Its own errors, and torch's and Python's where a type or a size is none of theirs.
    except Exception as error:
        reason = short(error) or type(error).__name__
        raise InputError(f"{where}: not a whole safetensors file ({reason})") from error


def save_network(network: nn.Module, path: Path) -> None:
    """Write a network that ``models.networks.build`` has made: its weights and its ``node``.

    Args:
        network: on any device.
        path: of the safetensors file.

    Example:
        >>> from functools import partial
        >>> from softmark.data.roles import Samples
        >>> from softmark.models.networks import ConvNet, build
        >>> samples = Samples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
        >>> save_network(build(partial(ConvNet, width=2), samples, 2), folder / "model.safetensors")
        >>> load_network(folder / "model.safetensors").node["width"]
        2
    """
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    about = {"format": FORMAT, "node": json.dumps(network.node)}
    safetensors.torch.save_file(tensors, path, about)


def load_network(path: Path, allowed: Collection[str] = ()) -> nn.Module:
    """Return the network in ``path``, on the CPU, in eval mode.

    Args:
        path: a file of ``save_network``, of this version or of the one before.
        allowed: the full names of classes outside of softmark that may be imported if the file
            names them, as a config of the user's own does.

    Raises:
        InputError: the file isn't whole, or describes no network, or other tensors than it holds;
            no memory is taken before that is known.
    """
    tensors, about = read_tensors(path)
    if about.get("format") not in (FORMAT, OLD):
        raise InputError(
            f"{path}: it doesn't say which network it holds; of a module of your own say "
            f"MODULE:FUNCTION --weights {path}"
        )
    try:
        network = _filled(about, tensors, allowed)
    except Exception as error:
        reason = error if isinstance(error, InputError) else f"it holds no network ({error!r:.80})"
        raise InputError(f"{path}: {reason}") from error
    return network.eval()


def _filled(
    about: Mapping[str, str], tensors: Mapping[str, Tensor], allowed: Collection[str]
) -> nn.Module:
    """Return the network that a file's metadata ``about`` describe, with ``tensors`` as weights."""
    node = json.loads(about["node"])
    node = _renamed(node) if about["format"] == OLD else node
    classes = check(node, allowed)
    _check_none(differences(node, tensors))
    # Built anew and filled: the start values take their random numbers as they always did, so that
    # what is trained after this stays what it was.
    network = build_node(node, classes)
    _check_none(mismatches(network.state_dict(), tensors))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"weights of another network ({short(error)})") from error
    network.node = node
    return network


def _check_none(differences: Iterable[str]) -> None:
    """Raise ``InputError`` for the first of ``differences``."""
    for difference in differences:
        raise InputError(f"weights of another network ({difference})")


def _renamed(node: Any) -> Any:
    """Return ``node`` of an older file with the kind of each network in place of its class."""
    if not isinstance(node, dict):
        return node
    name = node.get("_target_")
    if not isinstance(name, str) or "kind" in node:
        raise InputError("it names no network")
    arguments = {argument: value for argument, value in node.items() if argument != "_target_"}
    if KINDS.get(name) in ENSEMBLES and isinstance(arguments.get("networks"), list):
        arguments["networks"] = [_renamed(inner) for inner in arguments["networks"]]
    return {"kind": KINDS.get(name, name), **arguments}
