"""The networks that a file may describe: a fixed table of kinds, and what each of them takes.

A file is data. It names kinds and gives numbers. Nothing that it says is imported, resolved or
called, and no number may be larger than a network needs.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.models.networks import KINDS, VGG, ConvNet, Ensemble, OtherTail, ResNet, WideResNet
from softmark.models.sizes import check_number, check_sizes
from softmark.nodes import OF_HYDRA, fits, short

Node = dict[str, Any]
Classes = dict[str, type[nn.Module]]
CLASSES: Classes = {
    "convnet": ConvNet,
    "resnet": ResNet,
    "vgg": VGG,
    "wideresnet": WideResNet,
}
# Kinds made of networks that a list holds.
ENSEMBLES: dict[str, type[Ensemble]] = {kind.kind: kind for kind in (Ensemble, OtherTail)}
SIDES = (1, 10_000)  # the channels of an image, and its pixels a side
TOGETHER = 64  # networks of an ensemble
LEVELS = 4  # ensembles of ensembles


def check(node: Any, allowed: Collection[str] = (), level: int = 1) -> Classes:
    """Return the classes outside of the table that ``node`` names; check that it is a network.

    Args:
        node: what a file says.
        allowed: the full names of classes that may be imported; nothing else is.
        level: how many ensembles ``node`` lies in, and 1.

    Raises:
        InputError: it describes no network, or names a class that isn't allowed.
    """
    kind = node.get("kind") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        raise InputError("it names no kind of network")
    if kind in ENSEMBLES:
        return _check_ensemble(node, allowed, level)
    if kind not in CLASSES:
        _check_plain(node)
        return {kind: _allowed_class(kind, allowed)}
    parameters = inspect.signature(CLASSES[kind]).parameters
    if unknown := node.keys() - parameters.keys() - {"kind"}:
        raise InputError(f"{kind} takes no {short(min(unknown))!r}")
    if missing := parameters.keys() - node.keys():
        raise InputError(f"{min(missing)} is missing: {kind} needs it")
    check_sizes(node)
    _check_images(node)
    return {}


def _check_ensemble(node: Node, allowed: Collection[str], level: int) -> Classes:
    """Return what ``check`` does, of an ensemble."""
    kind, networks = node["kind"], node.get("networks")
    if level > LEVELS:
        raise InputError(f"ensembles of ensembles: more than {LEVELS} levels")
    if node.keys() != {"kind", "networks"} or not isinstance(networks, list):
        raise InputError(f"{kind} takes a list of networks, and nothing else")
    least, most = (2, 2) if kind == OtherTail.kind else (1, TOGETHER)
    if not least <= len(networks) <= most:
        raise InputError(f"{kind} of {len(networks)} networks: {least} to {most} are right")
    classes: Classes = {}
    for network in networks:
        classes |= check(network, allowed, level + 1)
    return classes


def _check_images(node: Node) -> None:
    """Raise ``InputError`` where shape, mean and std describe no images."""
    shape = node["image_shape"]
    if not isinstance(shape, list) or len(shape) != 3:
        raise InputError(f"image_shape={short(shape)}: a list of three whole numbers is needed")
    for size in shape:
        check_number("image_shape", size, *SIDES)
    for name in ("mean", "std"):
        values = node[name]
        good = isinstance(values, list) and len(values) == shape[0]
        if not good or not all(fits(value, float) for value in values):
            raise InputError(f"{name}={short(values)}: a list of {shape[0]} numbers is needed")


def _check_plain(value: Any) -> None:
    """Raise ``InputError`` where ``value`` isn't plain, but a node or text of Hydra's."""
    if isinstance(value, dict):
        if words := set(OF_HYDRA) & value.keys():
            raise InputError(f"{min(words)} is no argument of a network")
        for inner in value.values():
            _check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner)
    elif isinstance(value, str) and "${" in value:
        raise InputError(f"{short(value)}: an interpolation isn't data")


def _allowed_class(kind: str, allowed: Collection[str]) -> type[nn.Module]:
    """Return the class ``kind``, which ``allowed`` holds by that name, or by another of its own.

    Raises:
        InputError: ``allowed`` has no such class of a network.
    """
    # The table's own classes have a kind, under which their numbers are checked.
    names = [] if kind in KINDS else sorted(allowed, key=lambda name: (name != kind, name))
    for name in names:
        try:
            value = pkgutil.resolve_name(name)
        except Exception:  # a config may name what is gone
            continue
        if not isinstance(value, type) or not issubclass(value, nn.Module):
            continue
        if kind in (name, f"{value.__module__}.{value.__qualname__}"):
            return value
    raise InputError(
        f"it needs {short(kind)!r}, which is none of softmark's networks; of a module of your own "
        "say MODULE:FUNCTION --weights FILE"
    )


def differences(node: Node, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield how ``tensors`` differ from those of the network ``node``.

    The network is built on a device without memory: a node that claims too much costs nothing.
    What a class outside of the table holds shows only when it is built: it isn't compared here.
    """
    known: set[str] = set()
    yield from _compare(node, tensors, "", known)
    yield from (f"{short(name)!r} is none of its tensors" for name in tensors if name not in known)


def _compare(
    node: Node, tensors: Mapping[str, Tensor], prefix: str, known: set[str]
) -> Iterator[str]:
    """Yield the differences of the tensors whose names begin with ``prefix``.

    Args:
        node: the network.
        tensors: what a file holds.
        prefix: what the names of this network's tensors begin with.
        known: gets the names of this network's tensors.
    """
    if node["kind"] in ENSEMBLES:
        for number, inner in enumerate(node["networks"]):
            yield from _compare(inner, tensors, f"{prefix}networks.{number}.", known)
    elif node["kind"] not in CLASSES:
        known.update(name for name in tensors if name.startswith(prefix))
    else:
        with torch.device("meta"):
            state = build_node(node, {}).state_dict()
        expected = {f"{prefix}{name}": tensor for name, tensor in state.items()}
        known.update(expected)
        yield from mismatches(expected, tensors)


def mismatches(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield which of the ``expected`` tensors is missing, or of another shape or type."""
    for name, reference in expected.items():
        tensor = tensors.get(name)
        if tensor is None:
            yield f"{name} is missing"
        elif tensor.shape != reference.shape or tensor.dtype != reference.dtype:
            yield (
                f"{name} is {short(list(tensor.shape))} {tensor.dtype}, "
                f"not {list(reference.shape)} {reference.dtype}"
            )


def build_node(node: Node, classes: Classes) -> nn.Module:
    """Build the network that ``node`` describes, untrained.

    Args:
        node: a checked one.
        classes: what ``check`` returned for it.
    """
    if node["kind"] in ENSEMBLES:
        networks = [build_node(inner, classes) for inner in node["networks"]]
        return ENSEMBLES[node["kind"]](networks)
    arguments = {name: value for name, value in node.items() if name != "kind"}
    return (CLASSES | classes)[node["kind"]](**arguments)
