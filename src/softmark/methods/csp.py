"""CSP: a keyed perturbation of the output distribution that carries the owner's message.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
Each message has a sign matrix U of its own; the watermarked model is trained so that the log-tail
of every answer leans towards the row of its class, and what is left of that after an attack is
tested exactly, since under "this suspect knows nothing of the key" the signs are coin flips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data import Samples
from softmark.methods.soft_labels import (
    SoftLabels,
    keyed_stream,
    lean,
    rank_tail,
    templates,
)
from softmark.methods.watermark import Key
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification import Signs


def sign_matrix(stream: bytes, classes: int) -> Tensor:
    """The key's signs, its first K (K - 1) bits row by row: (K, K), -1 or 1, 0 on the diagonal."""
    bits = torch.tensor([byte >> shift & 1 for byte in stream for shift in range(7, -1, -1)])
    signs = torch.zeros(classes, classes)
    there = ~torch.eye(classes, dtype=torch.bool)
    signs[there] = 2.0 * bits[: int(there.sum())] - 1
    return signs


class Marking(Classifier):
    """The watermarked model: CE(T_y, f(x)) + beta max(0, 1 - a(x) / amplitude).

    a(x) is the tail's ``amplitude`` along its class's row, in nats.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        eps: float,
        gamma: float,
        beta: float,
        amplitude: float,
    ):
        super().__init__(network, recipe)
        self.beta = beta
        self.amplitude = amplitude
        self.register_buffer("pattern", pattern)
        self.register_buffer("templates", templates(pattern, eps, gamma))

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.images).float()
        task = F.cross_entropy(logits, self.templates[batch.labels])
        return task + self.beta * lean(logits.log_softmax(1), self.pattern, self.amplitude)


class CSP(SoftLabels):
    def pattern(self, key: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
        stream = keyed_stream(key, math.ceil(classes * (classes - 1) / 8))
        return {"pattern": sign_matrix(stream, classes)}

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        marking = self.marking(network=network, recipe=self.recipe, pattern=key.pattern)
        return fit(marking, data, "marking")

    def exact(self, answers: Tensor, key: Mapping[str, Tensor]) -> Signs:
        there = key["pattern"] != 0
        return Signs(tail_sums(answers, key["baseline"])[there], key["pattern"][there])

    def nulls(self, answers: Tensor, scores: Tensor, key: Key) -> tuple[tuple[Signs], str]:
        classes = len(key.pattern)
        bits = classes * (classes - 1)
        few = f"{classes} classes carry {bits} bits: p can't fall below {2.0**-bits:.1g}"
        signs = self.exact(answers, key.tensors())
        return (signs,), few if 2.0**-bits > 1e-6 else ""


def tail_sums(answers: Tensor, baseline: Tensor) -> Tensor:
    """A_cj, the sum of t_j / sqrt(K - 1) over the probes answered c: (K, K), 0 on the diagonal.

    What any model of the task shows is projected out: from each row, the part along the unmarked
    victim's mean tail of that class. Neither depends on the key's signs, so the null stays exact.
    """
    tail, top = rank_tail(answers)
    sums = torch.zeros_like(baseline).index_add(0, top, tail)
    usual = F.normalize(baseline, dim=1)
    along = (sums * usual).sum(1, keepdim=True).clamp_min(0)
    rest = sums - along * usual
    return rest / math.sqrt(len(baseline) - 1)
