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
ENSEMBLES: dict[str, type[Ensemble]] = {each.kind: each for each in (Ensemble, OtherTail)}
# The least and the largest whole number that each argument may be.
RANGES = {"classes": (2, 1_000_000), "width": (1, 100_000), "depth": (1, 250), "factor": (1, 100)}
SIDES = (1, 10_000)  # the channels of an image, and its pixels a side
TOGETHER = 64  # networks of an ensemble
LEVELS = 4  # ensembles of ensembles


def check(node: Any, allowed: Collection[str] = (), level: int = 1) -> Classes:
    """The classes outside of the table that ``node`` names, each of which is in ``allowed``.

    Raises ``InputError`` for a node that describes no network. Only what is in ``allowed`` is
    imported.
    """
    kind = node.get("kind") if isinstance(node, dict) else None
    if not isinstance(kind, str):
        raise InputError("it names no kind of network")
    if kind in ENSEMBLES:
        return _check_ensemble(node, allowed, level)
    if kind not in CLASSES:
        _check_plain(node)
        return {kind: _own(kind, allowed)}
    takes = inspect.signature(CLASSES[kind]).parameters
    if unknown := node.keys() - takes.keys() - {"kind"}:
        raise InputError(f"{kind} takes no {short(min(unknown))!r}")
    if missing := takes.keys() - node.keys():
        raise InputError(f"{min(missing)} is missing: {kind} needs it")
    for name in takes.keys() & RANGES.keys():
        _check_number(name, node[name], *RANGES[name])
    _check_images(node)
    return {}


def _check_ensemble(node: Node, allowed: Collection[str], level: int) -> Classes:
    kind, networks = node["kind"], node.get("networks")
    if level > LEVELS:
        raise InputError(f"ensembles of ensembles: more than {LEVELS} levels")
    if node.keys() != {"kind", "networks"} or not isinstance(networks, list):
        raise InputError(f"{kind} takes a list of networks, and nothing else")
    least, most = (2, 2) if kind == OtherTail.kind else (1, TOGETHER)
    if not least <= len(networks) <= most:
        raise InputError(f"{kind} of {len(networks)} networks: {least} to {most} are right")
    found: Classes = {}
    for each in networks:
        found |= check(each, allowed, level + 1)
    return found


def _check_number(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InputError(
            f"{name}={short(value)}: a whole number from {least} to {most:,} is needed"
        )


def _check_images(node: Node) -> None:
    shape = node["image_shape"]
    if not isinstance(shape, list) or len(shape) != 3:
        raise InputError(f"image_shape={short(shape)}: a list of three whole numbers is needed")
    for size in shape:
        _check_number("image_shape", size, *SIDES)
    for name in ("mean", "std"):
        values = node[name]
        good = isinstance(values, list) and len(values) == shape[0]
        if not good or not all(fits(value, float) for value in values):
            raise InputError(f"{name}={short(values)}: a list of {shape[0]} numbers is needed")


def _check_plain(value: Any) -> None:
    """What a class outside of the table gets is plain, and no node or text of Hydra's."""
    if isinstance(value, dict):
        if found := set(OF_HYDRA) & value.keys():
            raise InputError(f"{min(found)} is no argument of a network")
        for inner in value.values():
            _check_plain(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner)
    elif isinstance(value, str) and "${" in value:
        raise InputError(f"{short(value)}: an interpolation isn't data")


def _own(kind: str, allowed: Collection[str]) -> type[nn.Module]:
    """The class ``kind``, which ``allowed`` holds by that name, or by another that it has."""
    # The table's own classes have a kind, under which their numbers are checked.
    names = [] if kind in KINDS else sorted(allowed, key=lambda name: (name != kind, name))
    for name in names:
        try:
            found = pkgutil.resolve_name(name)
        except Exception:  # a config may name what is gone
            continue
        if not isinstance(found, type) or not issubclass(found, nn.Module):
            continue
        if kind in (name, f"{found.__module__}.{found.__qualname__}"):
            return found
    raise InputError(
        f"it needs {short(kind)!r}, which is none of softmark's networks; of a module of your own "
        "say MODULE:FUNCTION --weights FILE"
    )


def differences(node: Node, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """How ``tensors`` differ from those of the network ``node``; nothing where they are the same.

    The network is built on a device without memory: a node that claims too much costs nothing.
    What a class outside of the table holds shows only when it is built: it isn't compared here.
    """
    known: set[str] = set()
    yield from _compare(node, tensors, "", known)
    yield from (f"{short(name)!r} is none of its tensors" for name in tensors if name not in known)


def _compare(
    node: Node, tensors: Mapping[str, Tensor], under: str, known: set[str]
) -> Iterator[str]:
    """The differences of the tensors whose names begin with ``under``; adds those to ``known``."""
    if node["kind"] in ENSEMBLES:
        for number, inner in enumerate(node["networks"]):
            yield from _compare(inner, tensors, f"{under}networks.{number}.", known)
    elif node["kind"] not in CLASSES:
        known.update(name for name in tensors if name.startswith(under))
    else:
        with torch.device("meta"):
            wanted = build_node(node, {}).state_dict()
        wanted = {f"{under}{name}": tensor for name, tensor in wanted.items()}
        known.update(wanted)
        yield from unlike(wanted, tensors)


def unlike(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Which of the ``wanted`` tensors is missing, or of another shape or type."""
    for name, tensor in wanted.items():
        found = tensors.get(name)
        if found is None:
            yield f"{name} is missing"
        elif found.shape != tensor.shape or found.dtype != tensor.dtype:
            yield (
                f"{name} is {short(list(found.shape))} {found.dtype}, "
                f"not {list(tensor.shape)} {tensor.dtype}"
            )


def build_node(node: Node, own: Classes) -> nn.Module:
    """The network that ``node`` describes, untrained. ``own``: what ``check`` gave."""
    if node["kind"] in ENSEMBLES:
        return ENSEMBLES[node["kind"]]([build_node(each, own) for each in node["networks"]])
    arguments = {name: value for name, value in node.items() if name != "kind"}
    return (CLASSES | own)[node["kind"]](**arguments)
