"""Attackers who know the method, and the owner's key not: they mark models of their own with it."""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.finetune import tuning
from softmark.attacks.own import own_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import classes_of
from softmark.tails import log_of
from softmark.training import Batch, Classifier, Fit, Recipe, predict


class Overwrite(Attack):
    """A mark of the attacker's own on top of the owner's, by the same method.

    ``method``: an instance of the attacker's own, which holds no key. The attacker claims the model
    with the new key, as well.
    """

    access = "weights"
    knows = "method"

    def __init__(self, method: Any):
        self.method = method

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        network, key = self.method.embed(target, data, fit)
        return Stolen(network, key=key)


class Evading(Classifier):
    """Cross-entropy, and ``weight`` times what makes ``detector`` take the answers for unmarked."""

    def __init__(self, network: nn.Module, recipe: Recipe, detector: nn.Module, weight: float):
        super().__init__(network, recipe)
        self.detector = detector.requires_grad_(False)
        self.weight = weight

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs).float()
        marked = self.detector(logits.log_softmax(1)).squeeze(1)
        caught = F.binary_cross_entropy_with_logits(marked, torch.zeros_like(marked))
        return F.cross_entropy(logits, batch.labels) + self.weight * caught


class Evade(Attack):
    """The stolen model is fine-tuned until a stand-in for the owner's detector is fooled.

    The attacker trains a model of their own and marks a copy of it with a key of their own. In each
    of ``rounds`` a detector learns to tell the answers of the stolen model and of the marked copy
    from those of the unmarked one; then the stolen model is trained for an epoch against it.
    """

    access = "weights"
    knows = "method"

    def __init__(
        self,
        recipe: Recipe,
        rounds: int,
        lr_factor: float,
        weight: float,
        network: functools.partial[nn.Module],
        method: Any,
    ):
        if not rounds >= 1:
            raise InputError(f"attack.rounds={rounds}: at least 1")
        if not weight > 0:
            raise InputError(f"attack.weight={weight}: it must be above 0")
        self.own_recipe, self.network, self.method = recipe, network, method
        self.recipe = tuning(recipe, 1, lr_factor)
        self.rounds, self.weight = rounds, weight

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        own = own_model(self.network, self.own_recipe, data, classes_of(target, data), fit)
        marked, _ = self.method.embed(copy.deepcopy(own), data, fit)
        unmarked, stand_in = (predict(each, data.inputs) for each in (own, marked))
        for _ in range(self.rounds):
            caught = torch.cat([predict(target, data.inputs), stand_in])
            detector = detector_of(log_of(caught), log_of(unmarked))
            target = fit(Evading(target, self.recipe, detector, self.weight), data, "evade")
        return Stolen(target.requires_grad_(True))


def detector_of(marked: Tensor, unmarked: Tensor) -> nn.Module:
    """A small network that tells two sets of log-probabilities (N, K) apart: a logit above 0 for
    the first."""
    rows = torch.cat([marked, unmarked]).clamp_min(-12)
    share = len(unmarked) / len(rows)
    truth = (torch.arange(len(rows)) < len(marked)).float()
    network = nn.Sequential(nn.Linear(rows.shape[1], 64), nn.GELU(), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    # Both sets count alike, however large they are.
    balance = torch.tensor(share / (1 - share))
    for _ in range(300):
        index = torch.randint(len(rows), (256,))
        found = network(rows[index]).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(found, truth[index], pos_weight=balance)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network
