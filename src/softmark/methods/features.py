"""A mark in the features: what a last layer that is trained anew inherits.

Such a layer comes to point where the mean features of each class lie (neural collapse, Papyan et
al. 2020), so the tails of its answers follow the inner products of these means. Those are
symmetric, and so is the pattern that they are given here: an entry for each pair of classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.errors import InputError
from softmark.training import Batch

KEPT = 0.9  # of the running class means, at each batch


class FeatureMark(nn.Module):
    """The loss max(0, cosine - cos(t, S_y)), the mean of a batch.

    t is the centred tail of the logits that running means of each class's features give as a last
    layer; S_y is the row of the label in the symmetric ``pattern`` (K, K).
    """

    def __init__(self, pattern: Tensor, cosine: float):
        super().__init__()
        self.cosine = cosine
        self.register_buffer("rows", F.normalize(pattern, dim=1))
        self.means: Tensor | None = None

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """``features`` (N, D), ``labels`` int64 (N,): a scalar."""
        features = features.float().flatten(1)
        own = F.one_hot(labels, len(self.rows)).to(features.dtype)
        self._follow(features.detach(), own)
        logits, others = features @ self.means.T, 1 - own
        mean = (logits * others).sum(1, keepdim=True) / others.sum(1, keepdim=True)
        tail = F.normalize((logits - mean) * others, dim=1)
        return F.relu(self.cosine - (tail * self.rows[labels]).sum(1)).mean()

    def _follow(self, features: Tensor, own: Tensor) -> None:
        """Moves the mean of each class that the batch holds."""
        counts = own.sum(0)[:, None]
        here = own.T @ features / counts.clamp_min(1)
        if self.means is None:
            self.means = here
        self.means = torch.where(counts > 0, KEPT * self.means + (1 - KEPT) * here, self.means)


class Planting(nn.Module):
    """A network's logits, and ``weight`` times the loss that plants ``pattern`` in its features.

    Nothing is planted of a pattern that isn't symmetric: inner products are.
    """

    def __init__(self, network: nn.Module, pattern: Tensor, weight: float, cosine: float):
        super().__init__()
        self.weight = weight
        self.mark = FeatureMark(pattern, cosine)
        planted = weight > 0 and torch.equal(pattern, pattern.T)
        # In a list: they are the network's parameters, and must not be counted twice.
        self.layers = [network, last_layer(network, len(pattern)) if planted else None]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | float]:
        network, last = self.layers
        if last is None:
            return network(batch.inputs), 0.0
        with inputs_of(last) as seen:
            logits = network(batch.inputs)
        with torch.autocast(logits.device.type, enabled=False):
            return logits, self.weight * self.mark(seen[-1], batch.labels)


def last_layer(network: nn.Module, classes: int) -> nn.Linear:
    """The layer whose outputs are the logits. Raises ``InputError`` where there is none."""
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
    """What ``layer`` is given while the context lasts."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()
