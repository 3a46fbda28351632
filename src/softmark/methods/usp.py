"""USP: one keyed direction for all classes, and a detector trained together with the model.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
The model learns to be recognised, the detector to recognise it; then the detector is hardened on
copies of the model, and of the unmarked victim, that went through attacks by the owner's own hand.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.data import Samples
from softmark.methods.soft_labels import (
    Detector,
    SoftLabels,
    keyed_stream,
    lean,
    log_of,
    rank_tail,
    shuffle_tails,
    templates,
)
from softmark.methods.watermark import Key
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification import Direction, Flags


def direction(stream: bytes) -> Tensor:
    """u, uniform among the zero-sum directions of R^K, with entries of mean square 1: (K,).

    ``stream``: 8 uniform bytes an entry, made normal by the inverse of the normal's distribution.
    """
    uniform = (np.frombuffer(stream, ">u8").astype(float) + 0.5) / 2.0**64
    u = torch.from_numpy(special.ndtri(uniform))
    u = u - u.mean()
    return (u / u.norm() * len(u) ** 0.5).float()


def one_pattern(u: Tensor) -> Tensor:
    """``u`` (K,) as the pattern of every class: (K, K), centred on each tail."""
    classes = len(u)
    tail = 1 - torch.eye(classes)
    mean = (u * tail).sum(1, keepdim=True) / (classes - 1)
    return (u - mean) * tail


class Marking(Classifier):
    """The watermarked model: CE(T_y, f(x)) + beta max(0, 1 - a(x) / amplitude) + r BCE(D(f(x)), 1).

    a(x) is the tail's ``amplitude`` along u, in nats, r is ``recognised``, and D learns beside the
    model. ``answers``: the victim's probabilities (N, K) for the same samples, which D refuses.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        answers: Tensor,
        detector: Detector,
        eps: float,
        gamma: float,
        beta: float,
        amplitude: float,
        recognised: float,
    ):
        super().__init__(network, recipe)
        self.beta = beta
        self.amplitude = amplitude
        self.recognised = recognised
        self.register_buffer("pattern", pattern)
        self.detector = detector.requires_grad_(False)
        self.register_buffer("templates", templates(pattern, eps, gamma))
        self.register_buffer("answers", log_of(answers), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.images)
        with torch.autocast(logits.device.type, enabled=False):
            log_p = logits.float().log_softmax(1)
            # Before the model's own loss, whose gradient needs the detector's weights unchanged.
            self._teach(log_p.detach(), self.answers[batch.index])
            task = -(self.templates[batch.labels] * log_p).sum(1).mean()
            seen = F.softplus(-self.detector(self.detector.jitter(log_p))).mean()
            leaning = lean(log_p, self.pattern, self.amplitude)
        return task + self.beta * leaning + self.recognised * seen

    def _teach(self, marked: Tensor, innocent: Tensor) -> None:
        """One step of the detector on this batch; its gradients never meet the model's."""
        weights = {
            name: weight.detach().requires_grad_(True)
            for name, weight in self.detector.named_parameters()
        }
        rows = self.detector.jitter(torch.cat([marked, innocent, shuffle_tails(marked)]))
        labels = (torch.arange(len(rows), device=rows.device) < len(marked)).float()
        logits = functional_call(self.detector, weights, (rows,))
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        for weight, slope in zip(
            self.detector.parameters(), torch.autograd.grad(loss, weights.values()), strict=True
        ):
            weight.sub_(slope, alpha=0.1)


class USP(SoftLabels):
    def pattern(self, key: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
        u = direction(keyed_stream(key, 8 * classes))
        return {"direction": u, "pattern": one_pattern(u)}

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        marking = self.marking(
            network=network,
            recipe=self.recipe,
            pattern=key.pattern,
            answers=answers,
            detector=key.detector,
        )
        return fit(marking, data, "marking")

    def exact(self, answers: Tensor, key: Mapping[str, Tensor]) -> Direction:
        """The mean tail, without what any model of the task shows, against the keyed direction.

        The part along the unmarked victim's mean tail is projected out of both: it depends on no
        key, and ``u`` without it is still uniform, in one dimension less.
        """
        tail, _ = rank_tail(answers)
        usual = F.normalize(key["baseline"].mean(0), dim=0)
        mean, u = (v - (v @ usual) * usual for v in (tail.mean(0), key["direction"]))
        return Direction(float(F.cosine_similarity(mean, u, dim=0)), len(u) - 2)

    def nulls(
        self, answers: Tensor, scores: Tensor, key: Key
    ) -> tuple[tuple[Flags, Direction], str]:
        flags = Flags(int((scores > 0).sum()), len(scores))
        return (flags, self.exact(answers, key.tensors())), ""
