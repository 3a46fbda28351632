"""Networks as files that say what they are: weights, and the config node that rebuilds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from hydra.utils import get_class
from torch import Tensor, nn

from softmark.errors import InputError


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
        tensors = safetensors.torch.load(content)
        size = int.from_bytes(content[:8], "little")
        return tensors, json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{where}: not a whole safetensors file ({error})") from error


def save_network(network: nn.Module, path: Path) -> None:
    """Writes weights and ``network.node``, which ``models.networks.build`` has set."""
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    about = {"format": "softmark network 1", "node": json.dumps(network.node)}
    safetensors.torch.save_file(tensors, path, about)


def load_network(path: Path) -> nn.Module:
    """The network in ``path``, in eval mode.

    Raises ``InputError`` for a file that isn't whole, or that says nothing of its architecture.
    """
    tensors, about = read_tensors(path)
    if about.get("format") != "softmark network 1":
        raise InputError(
            f"{path}: it doesn't say which network it holds; of a module of your own say "
            f"MODULE:FUNCTION --weights {path}"
        )
    try:
        node = json.loads(about["node"])
        network = _built(node)
        network.node = node
    except Exception as error:
        reason = error if isinstance(error, InputError) else f"it holds no network ({error!r:.80})"
        raise InputError(f"{path}: {reason}") from error
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path}: weights of another network ({reason} ...)") from error
    return network.eval()


def _built(node: Any) -> Any:
    """What ``node`` describes, untrained.

    A file is data. It may name networks and their arguments, and nothing is resolved or called
    but those: Hydra's ``instantiate`` would resolve interpolations in texts, too.
    """
    if isinstance(node, list):
        return [_built(value) for value in node]
    if not isinstance(node, dict):
        return node
    arguments = {name: _built(value) for name, value in node.items() if name != "_target_"}
    if "_target_" not in node:
        return arguments
    name = node["_target_"]
    try:
        kind = get_class(name)
    except Exception as error:
        raise InputError(f"it needs {name}, which can't be imported") from error
    if not issubclass(kind, nn.Module):
        raise InputError(f"{name} is not a network")
    return kind(**arguments)
