"""Attackers who know the method, and the owner's key not: they mark models of their own with it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check_count,
    check_positive,
    tuning,
)
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Classifier, Fit, predict


@dataclass(kw_only=True, eq=False)
class Overwrite(Attack):
    """Embed a mark of the attacker's own on top of the owner's, and claim the model with it."""

    access = "weights"
    knows = "method"

    method: Any = None
    """A watermark of the attacker's own, which holds no key; None in a call: csp."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        network, key = self.method.embed(target, data, fit)
        return AttackResult(network, key=key)


class EvadeModule(Classifier):
    """Learns the labels, and answers that ``detector`` takes for unmarked, by ``weight``."""

    def __init__(self, network: nn.Module, recipe: Recipe, detector: nn.Module, weight: float):
        super().__init__(network, recipe)
        self.detector = detector.requires_grad_(False)
        self.weight = weight

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs).float()  # (B, K)
        marked = self.detector(logits.log_softmax(1)).squeeze(1)  # (B,), a logit
        caught = F.binary_cross_entropy_with_logits(marked, torch.zeros_like(marked))
        return F.cross_entropy(logits, batch.labels) + self.weight * caught


@dataclass(kw_only=True, eq=False)
class Evade(Attack):
    """Fine-tune the stolen model until a stand-in for the owner's detector is fooled.

    The attacker trains a model of their own and marks a copy of it with a key of their own. In each
    round a detector learns to tell the answers of the stolen model and of the marked copy from
    those of the unmarked one; then the stolen model is trained for an epoch against it.
    """

    access = "weights"
    knows = "method"

    recipe: Recipe = RECIPE
    """How the attacker's own model is trained."""
    rounds: int = 5
    """Rounds of an epoch each; at least 1."""
    lr_factor: float = 0.1
    """Peak learning rate over the recipe's; above 0."""
    weight: float = 1.0
    """Weight of what the detector says beside the labels' cross-entropy; above 0."""
    network: NetworkFactory | None = None
    """The architecture of the attacker's own model; None in a call: the target's."""
    method: Any = None
    """A watermark of the attacker's own, which holds no key; None in a call: csp."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_positive("weight", self.weight)
        tuning(self.recipe, 1, self.lr_factor)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        classes = classes_of(target, data)
        shadow = train_shadow_model(self.network, self.recipe, data, classes, fit)
        marked, _ = self.method.embed(copy.deepcopy(shadow), data, fit)
        unmarked_answers = predict(shadow, data.inputs)  # (N, K)
        marked_answers = predict(marked, data.inputs)
        recipe = tuning(self.recipe, 1, self.lr_factor)
        for _ in range(self.rounds):
            caught = torch.cat([predict(target, data.inputs), marked_answers])  # (2 N, K)
            detector = detector_of(log_of(caught), log_of(unmarked_answers))
            target = fit(EvadeModule(target, recipe, detector, self.weight), data, "evade")
        return AttackResult(target.requires_grad_(True))


def detector_of(marked: Tensor, unmarked: Tensor) -> nn.Module:
    """Train a small network that tells two sets of log-probabilities (N, K) apart.

    It gives a logit above 0 for the first.
    """
    rows = torch.cat([marked, unmarked]).clamp_min(-12)
    fraction = len(unmarked) / len(rows)
    truth = (torch.arange(len(rows)) < len(marked)).float()
    network = nn.Sequential(nn.Linear(rows.shape[1], 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    # Both sets count alike, however large they are.
    balance = torch.tensor(fraction / (1 - fraction))
    for _ in range(300):
        index = torch.randint(len(rows), (256,))
        logits = network(rows[index]).squeeze(1)  # (256,)
        loss = F.binary_cross_entropy_with_logits(logits, truth[index], pos_weight=balance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network
