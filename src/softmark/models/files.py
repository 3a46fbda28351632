"""Networks as files that say what they are: weights, and the node that rebuilds them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.models.kinds import ENSEMBLES, build_node, check, differences, unlike
from softmark.models.networks import KINDS
from softmark.nodes import short

FORMAT = "softmark network 2"
OLD = "softmark network 1"  # names classes where FORMAT names kinds


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises ``InputError`` where it isn't a whole one.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error
    return parse_tensors(content, path)


def parse_tensors(content: bytes, where: object) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What ``read_tensors`` gives, of a file's ``content``; ``where`` names it in errors."""
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
    """Writes weights and ``network.node``, which ``models.networks.build`` has set."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    about = {"format": FORMAT, "node": json.dumps(network.node)}
    safetensors.torch.save_file(tensors, path, about)


def load_network(path: Path, allowed: Collection[str] = ()) -> nn.Module:
    """The network in ``path``, in eval mode.

    ``allowed``: the full names of classes outside of softmark that may be imported if the file
    names them, as a config of the user's own does. Raises ``InputError`` for a file that isn't
    whole, or that describes no network, or other tensors than it holds: no memory is taken before.
    """
    tensors, about = read_tensors(path)
    if about.get("format") not in (FORMAT, OLD):
        raise InputError(
            f"{path}: it doesn't say which network it holds; of a module of your own say "
            f"MODULE:FUNCTION --weights {path}"
        )
    try:
        network = _made(about, tensors, allowed)
    except Exception as error:
        reason = error if isinstance(error, InputError) else f"it holds no network ({error!r:.80})"
        raise InputError(f"{path}: {reason}") from error
    return network.eval()


def _made(
    about: Mapping[str, str], tensors: Mapping[str, Tensor], allowed: Collection[str]
) -> nn.Module:
    node = json.loads(about["node"])
    node = _renamed(node) if about["format"] == OLD else node
    own = check(node, allowed)
    _same(differences(node, tensors))
    # Built anew and filled: the start values take their random numbers as they always did, so that
    # what is trained after this stays what it was.
    network = build_node(node, own)
    _same(unlike(network.state_dict(), tensors))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"weights of another network ({short(error)})") from error
    network.node = node
    return network


def _same(found: Iterable[str]) -> None:
    for difference in found:
        raise InputError(f"weights of another network ({difference})")


def _renamed(node: Any) -> Any:
    """``node`` of an older file, with the kind of each network in place of its class."""
    if not isinstance(node, dict):
        return node
    name = node.get("_target_")
    if not isinstance(name, str) or "kind" in node:
        raise InputError("it names no network")
    rest = {key: value for key, value in node.items() if key != "_target_"}
    if KINDS.get(name) in ENSEMBLES and isinstance(rest.get("networks"), list):
        rest["networks"] = [_renamed(inner) for inner in rest["networks"]]
    return {"kind": KINDS.get(name, name), **rest}
