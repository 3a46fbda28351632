"""CSP: a keyed perturbation of the output distribution that carries the owner's message.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
Each message has a sign matrix U of its own. The watermarked model is trained so that the log-tail
of every answer has a margin along the row of its class. What is left of that after an attack is
tested exactly, since under "this suspect knows nothing of the key" the signs are coin flips.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.methods.soft_labels import SoftLabels, templates
from softmark.tails import margin_loss, tail_sums
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.nulls import Signs


def sign_matrix(stream: bytes, classes: int) -> Tensor:
    """The key's signs, its first K (K - 1) bits row by row: (K, K), -1 or 1, 0 on the diagonal."""
    bits = torch.tensor([byte >> shift & 1 for byte in stream for shift in range(7, -1, -1)])
    signs = torch.zeros(classes, classes)
    there = ~torch.eye(classes, dtype=torch.bool)
    signs[there] = 2.0 * bits[: int(there.sum())] - 1
    return signs


class MarkingLoss(nn.Module):
    """CE(T_y, f(x)) + beta max(0, 1 - a(x) / margin), the mean of a batch.

    a(x) is the tail's log-probability margin along its class's row of ``pattern`` (K, K)
    (``tails.margin``). ``eps``, ``gamma``: of the templates T.
    """

    def __init__(self, pattern: Tensor, eps: float, gamma: float, beta: float, margin: float):
        super().__init__()
        self.beta = beta
        self.margin = margin
        self.register_buffer("pattern", pattern)
        self.register_buffer("templates", templates(pattern, eps, gamma))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``logits`` (N, K), ``labels`` int64 (N,): a scalar."""
        logits = logits.float()
        task = F.cross_entropy(logits, self.templates[labels])
        return task + self.beta * margin_loss(logits.log_softmax(1), self.pattern, self.margin)


class Marking(Classifier):
    """The watermarked model, trained by ``MarkingLoss``."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        eps: float,
        gamma: float,
        beta: float,
        margin: float,
    ):
        super().__init__(network, recipe)
        self.marking = MarkingLoss(pattern, eps, gamma, beta, margin)

    def loss(self, batch: Batch) -> Tensor:
        return self.marking(self.network(batch.inputs), batch.labels)


class CSP(SoftLabels):
    def pattern(self, key: Key) -> Tensor:
        size = math.ceil(key.classes * (key.classes - 1) / 8)
        return sign_matrix(key.stream(size), key.classes)

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        marking = self.marking(network=network, recipe=self.recipe, pattern=self.pattern(key))
        return fit(marking, data, "marking")

    def exact(self, answers: Tensor, usual: Tensor | None, key: Key) -> tuple[str, Signs, str]:
        """The part along what innocents show is taken off each row: the null stays exact."""
        sums, baseline = tail_sums(answers, usual)
        along = (sums * baseline).sum(1, keepdim=True).clamp_min(0)
        signs = self.pattern(key)
        there = signs != 0
        test = Signs((sums - along * baseline)[there], signs[there])
        bits = int(there.sum())
        few = f"{key.classes} classes carry {bits} bits: p can't fall below {2.0**-bits:.1g}"
        return "signs", test, few if 2.0**-bits > 1e-6 else ""
