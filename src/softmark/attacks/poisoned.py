"""Answers that mislead whoever learns from them or reads their order: defences against extraction.

They were published for honest servers. A thief who serves a stolen model can put any of them before
it, to hide the mark from a judge who asks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from softmark.attacks.answers import Change
from softmark.attacks.attack import check, check_not_negative, check_positive
from softmark.tails import log_of, with_tail


@dataclass(kw_only=True, eq=False, repr=False)
class ReverseSigmoid(Change):
    """Tell y - beta (sigmoid(gamma logit(y)) - 1/2), normalised.

    Lee et al., "Defending Against Neural Network Model Stealing Attacks Using Deceptive
    Perturbations" (2019). At small gamma the likeliest class stays and small probabilities come in
    reverse order: the mark's direction is turned round, and no prediction changes.

    Example:
        >>> told = ReverseSigmoid()(torch.tensor([[0.98, 0.015, 0.005]]))
        >>> bool(told[0, 0] > told[0, 2] > told[0, 1])
        True
    """

    beta: float = 1.0
    """Size of what is taken off; above 0, at most 2, where every probability stays above 0."""
    gamma: float = 0.1
    """How steep it is; above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.beta <= 2, "change.beta", self.beta, "above 0, at most 2")
        check_positive("change.gamma", self.gamma)

    def forward(self, p: Tensor) -> Tensor:
        # In float64 a likeliest class next to 1 keeps its distance from it.
        y = p.double().clamp(1e-12, 1 - 1e-12)
        told = (y - self.beta * ((self.gamma * y.logit()).sigmoid() - 0.5)).clamp_min(0)
        return (told / told.sum(1, keepdim=True)).to(p.dtype)


@dataclass(kw_only=True, eq=False, repr=False)
class MisleadGradient(Change):
    """Move answers so that the gradient of whoever learns them points elsewhere: MAD.

    Orekondy, Schiele and Fritz, "Prediction Poisoning: Towards Defenses Against DNN Model Stealing
    Attacks" (2020). The answer moves towards the extreme y* at which the student's gradient
    differs most, as far as ``eps`` allows in L1. As the authors' code does by default, the
    gradient is that of the student's last layer, and its difference isn't normalised: that layer's
    gradient for a label k is (p - e_k) f of its answer p and features f, so that the difference is
    |f| |y* - y| and no student need be known. Their objective that is normalised needs one, and
    isn't here. Where the likeliest class is kept they try all sets of at most ten classes, and
    more of them greedily; here the best set is found for any number.
    """

    eps: float = 0.5
    """L1 distance of an answer to the one that is told, at most; above 0, at most 2."""
    keep_top: bool = False
    """Whether y* is even over the likeliest class and others, so that it stays the likeliest."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 < self.eps <= 2, "change.eps", self.eps, "above 0, at most 2")

    def forward(self, p: Tensor) -> Tensor:
        extreme = _even_extreme(p) if self.keep_top else F.one_hot(p.argmin(1), p.shape[1]).to(p)
        distance = (extreme - p).abs().sum(1, keepdim=True)  # (N, 1)
        moved = (self.eps / distance.clamp_min(1e-7)).clamp_max(1)
        return (1 - moved) * p + moved * extreme


def _even_extreme(p: Tensor) -> Tensor:
    """Return the answer farthest from ``p`` (N, K) of all that are even over a set of classes.

    The set holds the likeliest class, which has a little more. Of m classes the least likely m - 1
    others are farthest: |y - p|^2 is (1 - 2 sum of p over the set) / m, but for what is the same
    for all.
    """
    rising, order = p.sort(1)  # (N, K)
    rest = F.pad(rising[:, :-1].cumsum(1), (1, 0))  # (N, K): mass of the least likely m - 1
    sizes = torch.arange(1, p.shape[1] + 1)
    distance = (1 - 2 * (rising[:, -1:] + rest)) / sizes  # (N, K)
    best = distance.argmax(1, keepdim=True)  # (N, 1): m - 1
    place = torch.arange(p.shape[1])
    chosen = (place < best) | (place == p.shape[1] - 1)  # (N, K), by rank
    chosen = torch.zeros_like(p).scatter(1, order, chosen.to(p))
    chosen = chosen + 1e-5 * F.one_hot(p.argmax(1), p.shape[1])
    return chosen / chosen.sum(1, keepdim=True)


@dataclass(kw_only=True, eq=False, repr=False)
class UniformNoise(Change):
    """Add uniform noise to the logit of each probability, always upwards, then normalise.

    The noise that Orekondy et al. (2020) compare with: from 0 to 2 eps / sqrt K, and no longer than
    ``eps``. The likeliest class may change.
    """

    eps: float = 5.0
    """Length of the noise's mean, and of each draw at most; above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("change.eps", self.eps)

    def forward(self, p: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(p))
        most = 2 * self.eps / math.sqrt(p.shape[1])
        noise = most * torch.rand(p.shape, generator=draw).to(p)
        noise = noise * (self.eps / noise.norm(dim=1, keepdim=True).clamp_min(self.eps))
        told = (p.clamp(1e-12, 1 - 1e-6).logit() + noise).sigmoid()
        return told / told.sum(1, keepdim=True)


@dataclass(kw_only=True, eq=False, repr=False)
class Bias(Change):
    """Add to each tail the same noise for all answers of a class: a pattern of the thief's own.

    Unlike ``Noise`` it doesn't average out over probes.
    """

    sd: float = 3.0
    """Standard deviation in nats; 0 or more."""
    seed: int = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("change.sd", self.sd)

    def forward(self, p: Tensor) -> Tensor:
        draw, classes = torch.Generator().manual_seed(self.seed), p.shape[1]
        bias = self.sd * torch.randn(classes, classes, generator=draw)
        return with_tail(p, log_of(p) + bias[p.argmax(1)].to(p))
