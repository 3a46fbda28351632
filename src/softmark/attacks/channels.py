"""Channels of a network that can change places, sizes and number while it computes the same.

A ReLU commutes with a positive factor, and so do pools. BatchNorm takes out the size of what comes
in. So a channel can be made larger where it is written and smaller where it is read; channels can
be permuted; and one can be several that are added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.models.layers import PreactivatedBlock, ResidualBlock
from softmark.models.networks import Network

Layer = nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d
# What commutes with a positive factor, and keeps channels apart.
PASSING = (
    *(nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)


@dataclass
class Group:
    """Channels that the same layers write and the same layers read."""

    writers: list[tuple[Layer, Norm | None]]
    """Layers whose outputs are added up to these channels, each with its BatchNorm."""
    readers: list[Layer] = field(default_factory=list)
    """Layers that are given these channels."""

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.writers[0][0].weight)


def channel_groups(network: nn.Module) -> list[Group]:
    """Return the groups of channels of ``network``, in its order; raise ``InputError`` for none.

    Found are those of layers that a Sequential holds one after another, those between the
    convolutions of a residual block, and what such blocks are added to where a ReLU follows each
    addition. The output of the last layer belongs to none.
    """
    layers = _in_order(network)
    groups = [group for group in _walk(layers) if group.readers]
    if not groups:
        raise InputError(
            f"attack: {type(network).__name__} has no layers one after another whose channels "
            "could be permuted"
        )
    return groups


def _in_order(network: nn.Module) -> list[nn.Module]:
    if isinstance(network, Network):
        return [*_in_order(network.features), network.head]
    if isinstance(network, nn.Sequential):
        return [inner for layer in network for inner in _in_order(layer)]
    return [network]


def _walk(layers: list[nn.Module]) -> Iterator[Group]:
    """Yield the groups of ``layers``, which are called one after another."""
    current: Group | None = None
    fresh = False  # whether nothing but pools stands between the writer and here
    for layer in layers:
        if isinstance(layer, Layer) and getattr(layer, "groups", 1) == 1:
            if current is not None:
                current.readers.append(layer)
                yield current
            current, fresh = Group([(layer, None)]), True
        elif isinstance(layer, ResidualBlock):
            first, norm, _, last, last_norm = layer.convolutions
            yield Group([(first, norm)], [last])
            if current is not None:
                current.readers.append(first)
            if len(layer.shortcut):
                if current is not None:
                    current.readers.append(layer.shortcut[0])
                    yield current
                current = Group([(last, last_norm), tuple(layer.shortcut)])
            elif current is not None:
                current.writers.append((last, last_norm))
            fresh = False
        elif isinstance(layer, PreactivatedBlock):
            first, norm, _, last = layer.convolutions
            yield Group([(first, norm)], [last])
            current = None
        elif isinstance(layer, Norm) and current is not None and fresh:
            current.writers[-1] = (current.writers[-1][0], layer)
            fresh = False
        elif isinstance(layer, PASSING):
            fresh = fresh and isinstance(layer, nn.MaxPool2d | nn.AvgPool2d)
        else:
            current = None
    if current is not None:
        yield current


@torch.no_grad()
def remap(group: Group, source: Tensor, parts: Tensor, spread: float) -> None:
    """Make other channels of those of ``group``; what the network computes stays.

    Args:
        group: its layers are changed in place.
        source: which channel each new one is, (C',).
        parts: how much of what is read of a channel each new one gives, (C',); they add up to 1
            for each channel.
        spread: each new channel's size is changed by a factor between 1 and its exponential, once
            where it is written and once where it is read; 0 or more.
    """
    written = _factors(len(source), spread)  # where it is read, it is divided by this
    for layer, norm in group.writers:
        own = written if norm is None else _factors(len(source), spread)
        layer.weight = nn.Parameter(layer.weight[source] * _along(own, layer.weight))
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias[source] * own)
        _set_count(layer, "out", len(source))
        if norm is not None:
            _remap_norm(norm, source, own, written)
    for layer in group.readers:
        # Behind a Flatten a linear layer reads several numbers of each channel.
        columns = layer.weight.unflatten(1, (int(source.max()) + 1, -1))  # (O, C, S, ...)
        columns = columns[:, source] * (parts / written)[:, None, *[None] * (columns.ndim - 3)]
        layer.weight = nn.Parameter(columns.flatten(1, 2).contiguous())
        _set_count(layer, "in", layer.weight.shape[1])


def _factors(count: int, spread: float) -> Tensor:
    return (spread * torch.rand(count)).exp()


def _along(factors: Tensor, weight: Tensor) -> Tensor:
    """Return ``factors`` (C,) so that they multiply the rows of ``weight`` (C, ...)."""
    return factors.view(-1, *[1] * (weight.ndim - 1))


def _remap_norm(norm: Norm, source: Tensor, read: Tensor, written: Tensor) -> None:
    """Let ``norm`` take channels ``read`` times as large, and give them ``written`` times so."""
    if norm.running_var is not None:
        # What BatchNorm adds to the variance doesn't grow with it; factors of 1 or more leave it
        # above 0.
        grown = (norm.running_var[source] + norm.eps) * read**2 - norm.eps
        norm.running_mean, norm.running_var = norm.running_mean[source] * read, grown
    if norm.affine:
        norm.weight = nn.Parameter(norm.weight[source] * written)
        norm.bias = nn.Parameter(norm.bias[source] * written)
    norm.num_features = len(source)


def _set_count(layer: Layer, side: str, count: int) -> None:
    kind = "channels" if isinstance(layer, nn.Conv2d) else "features"
    setattr(layer, f"{side}_{kind}", count)
