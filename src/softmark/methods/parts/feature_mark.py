"""A mark in the features: what a last layer that is trained anew inherits.

Such a layer comes to point where the mean features of each class lie (neural collapse, Papyan et
al. 2020), so the tails of its answers follow the inner products of these means. Those are
symmetric: the symmetric part of a pattern can be planted there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.errors import InputError
from softmark.tails import centred

MOMENTUM = 0.9  # of the running class means, at each batch


class FeatureMark(nn.Module):
    """Compute the loss ``weight`` * max(0, cosine - cos(t, S_y)), the mean of a batch.

    t is the centred tail of the logits that running means of each class's features give as a last
    layer; S_y is the row of the label in P + P^T, centred as well.

    Args:
        pattern: P (K, K).
        cosine: that is to be reached. Above 0, at most 1.
        weight: of this loss, from 0 on.
    """

    def __init__(self, pattern: Tensor, cosine: float, weight: float):
        super().__init__()
        self.cosine = cosine
        self.weight = weight
        symmetric = pattern + pattern.T
        rows = F.normalize(centred(symmetric), dim=1)  # (K, K)
        self.register_buffer("rows", rows, persistent=False)
        self.means: Tensor | None = None

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of ``features`` (N, D) with ``labels`` int64 (N,): a scalar."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float().flatten(1)
            classes = torch.arange(len(self.rows), device=labels.device)
            self.means = moved_means(self.means, features.detach(), labels, classes)
            logits = features @ self.means.T  # (N, K)
            others = (labels[:, None] != classes).to(features.dtype)  # (N, K)
            mean = (logits * others).sum(1, keepdim=True) / others.sum(1, keepdim=True)
            tail = F.normalize((logits - mean) * others, dim=1)  # (N, K)
            shortfall = F.relu(self.cosine - (tail * self.rows[labels]).sum(1))  # (N,)
        return self.weight * shortfall.mean()


def moved_means(means: Tensor | None, features: Tensor, labels: Tensor, classes: Tensor) -> Tensor:
    """Return the running ``means`` (K, D) after a batch: those of the classes that it holds move.

    Args:
        means: before; None: the batch's own are the first.
        features: (N, D).
        labels: int64 (N,).
        classes: all of them, (K,).
    """
    batch_means, is_present = class_means(features, labels, classes)  # (K, D), (K,)
    means = batch_means if means is None else means
    moved = MOMENTUM * means + (1 - MOMENTUM) * batch_means
    return torch.where(is_present[:, None], moved, means)


def class_means(features: Tensor, labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of ``features`` (N, D) over each class of ``chosen`` (S,): (S, D).

    And which of these classes are present at all: bool (S,).
    """
    members = (labels == chosen[:, None]).to(features.dtype)  # (S, N)
    counts = members.sum(1, keepdim=True)  # (S, 1)
    return members @ features / counts.clamp_min(1), counts[:, 0] > 0


class NetworkWithFeatures:
    """Call a network, and tell what its last layer is given where ``mark`` plants anything."""

    def __init__(self, network: nn.Module, mark: FeatureMark):
        self.network = network
        self.last = last_layer(network, len(mark.rows)) if mark.weight else None

    def __call__(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the logits (N, K) and the features (N, D); None where nothing is planted."""
        if self.last is None:
            return self._logits(inputs), None
        with inputs_of(self.last) as features:
            logits = self._logits(inputs)
        if not features:
            raise InputError(
                "method.marking.feature_weight: the last nn.Linear isn't what gives the logits; 0 "
                "marks the answers alone"
            )
        return logits, features[-1]

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = self.network(inputs)
        if not isinstance(logits, Tensor):
            kind = type(logits).__name__
            raise InputError(f"the model gives a {kind} while it trains; logits alone are needed")
        return logits


def last_layer(network: nn.Module, classes: int) -> nn.Linear:
    """Return the layer whose outputs are the logits. Raise ``InputError`` for none."""
    linear = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.Linear) and layer.out_features == classes
    ]
    if not linear:
        raise InputError(
            f"method.marking.feature_weight: {type(network).__name__} has no nn.Linear with "
            f"{classes} outputs whose inputs could be marked; 0 marks the answers alone"
        )
    return linear[-1]


@contextlib.contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Give a list of what ``layer`` is given while the context lasts."""
    inputs: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        yield inputs
    finally:
        hook.remove()
