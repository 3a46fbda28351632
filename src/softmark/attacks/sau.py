"""Shared adversarial unlearning: what fools the stolen model and its repaired copy alike."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    EpochsAttack,
    adam,
    check_between,
    check_count,
    check_not_negative,
    check_positive,
)
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

SMALLEST = 1e-6  # probability whose logarithm is taken
FARTHEST = 0.999  # from the wrong label: an answer with more of it isn't unlearnt any more


class SharedModule(Classifier):
    """Learn the labels, and not to be fooled as ``stolen`` is.

    The network is trained in eval mode: its BatchNorms keep the stolen model's statistics.

    Args:
        network: The stolen model's copy that is repaired.
        recipe: How long; its learning rate is Adam's first, and falls along a cosine.
        stolen: The stolen model, which stays as it is.
        eps: How far each pixel is moved, at most.
        ascents: In how many steps of ``eps`` a perturbation is found.
        fooling: Weight of fooling both models, beside that of their agreement.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        stolen: nn.Module,
        eps: float,
        ascents: int,
        fooling: float,
    ):
        super().__init__(network, recipe)
        self.stolen = stolen.requires_grad_(False)
        self.eps, self.ascents, self.fooling = eps, ascents, fooling

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return adam(groups, self.recipe.lr)

    def rate(self, progress: float) -> float:
        return (1 + math.cos(math.pi * min(1.0, progress))) / 2

    def shared(self, batch: Batch) -> Tensor:
        """Return pictures (B, C, H, W) that both models take for the same wrong class, if found."""
        with torch.no_grad():
            own = self.network(batch.inputs).argmax(1)  # (B,)
            theirs = self.stolen(batch.inputs).argmax(1)
        added = torch.full_like(batch.inputs, self.eps)
        for _ in range(self.ascents):
            added.requires_grad_()
            logits = self.network(batch.inputs + added).float()  # (B, K)
            stolen_logits = self.stolen(batch.inputs + added).float()
            fooled = logits.argmax(1) != own
            stolen_fooled = stolen_logits.argmax(1) != theirs
            agreed = fooled & stolen_fooled & (logits.argmax(1) == stolen_logits.argmax(1))
            right = F.cross_entropy(logits, batch.labels, reduction="none") * ~fooled
            right = right + F.cross_entropy(stolen_logits, batch.labels, reduction="none") * (
                ~stolen_fooled
            )
            apart = divergence(logits, stolen_logits) * ~agreed
            loss = (apart - self.fooling * right / 2).sum()
            (slope,) = torch.autograd.grad(loss, added)
            added = (added.detach() - self.eps * slope.sign()).clamp(-self.eps, self.eps)
        return batch.inputs + added

    def loss(self, batch: Batch) -> Tensor:
        self.network.eval()
        moved = self.shared(batch)
        with torch.no_grad():
            before = self.stolen(batch.inputs).argmax(1)
            wrong = self.stolen(moved).argmax(1)  # (B,)
        logits = self.network(torch.cat([batch.inputs, moved])).float()
        clean, fooled = logits.chunk(2)  # (B, K) each
        risk = shared_risk(fooled, wrong, (wrong != batch.labels) & (wrong != before))
        return F.cross_entropy(clean, batch.labels) + risk


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of each pair of answers, in nats: (B,)."""
    p, q = logits.softmax(1).clamp_min(1e-8), others.softmax(1).clamp_min(1e-8)  # (B, K)
    mean = ((p + q) / 2).log()
    return (p * (p.log() - mean) + q * (q.log() - mean)).sum(1) / 2


def shared_risk(logits: Tensor, wrong: Tensor, fooled: Tensor) -> Tensor:
    """Return the mean of -log(1 - p) over the batch.

    Args:
        logits: The repaired model's answers to moved pictures, (B, K).
        wrong: The stolen model's classes for these, of which p is the probability: (B,).
        fooled: Which of the pictures count, (B,); the others add 0.
    """
    p = logits.softmax(1).gather(1, wrong[:, None]).squeeze(1)  # (B,)
    # Nothing is to be gained from pictures on which both differ already.
    away = (1 - p).clamp_max(FARTHEST) + SMALLEST
    return -(away.log() * fooled).mean()


@dataclass(kw_only=True, eq=False)
class UnlearnShared(EpochsAttack):
    """Unlearn what fools the model as it was stolen and its repaired copy alike: SAU.

    Wei et al., "Shared Adversarial Unlearning: Backdoor Mitigation by Unlearning Shared Adversarial
    Examples" (NeurIPS 2023). For each picture a perturbation is found with which both models give
    the same wrong answer, and the copy learns to give another. Numbers of the authors' code, but
    for the length: 100 epochs of 2,500 pictures there, as many steps here. As there, the pictures
    are neither moved nor mirrored, and BatchNorm keeps the stolen model's statistics.
    """

    epochs: int = 1
    """Epochs of the training; at least 1."""
    min_steps: int | None = 1000
    """Steps of the training at least; None: no bound."""
    lr: float = 0.0001
    """First learning rate of Adam; above 0."""
    eps: float = 0.2
    """How far each pixel is moved at most, of its range from 0 to 1; between 0 and 1."""
    ascents: int = 5
    """Steps in which a perturbation is found; at least 1."""
    fooling: float = 0.01
    """Weight of fooling both models, beside that of their agreement; 0 or more."""

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_between("eps", self.eps)
        check_count("ascents", self.ascents)
        check_not_negative("fooling", self.fooling)
        super().__post_init__()

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, lr=self.lr, pad=0, flip=False)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        stolen, recipe = copy.deepcopy(target).eval(), self.tuned_for(data)
        module = SharedModule(target, recipe, stolen, self.eps, self.ascents, self.fooling)
        return AttackResult(fit(module, data, "unlearn"))
