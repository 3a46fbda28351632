"""Several models made into one: customers who hold differently marked copies average them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.distill import Distill
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import Ensemble
from softmark.training import Fit, as_input


class AverageWeights(Attack):
    """The mean of the customers' weights; BatchNorm's statistics are taken anew on their data."""

    access = "weights"

    def apply(self, target: list[nn.Module], data: Samples, fit: Fit) -> Stolen:
        return Stolen(mean_of(target, data))


def mean_of(networks: Sequence[nn.Module], data: Samples) -> nn.Module:
    """The first network, changed to the mean of all; BatchNorm's statistics renewed on ``data``."""
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).float().mean(0).to(first.dtype)
        for name, first in states[0].items()
    }
    networks[0].load_state_dict(mean)
    return renew_statistics(networks[0], data)


def renew_statistics(network: nn.Module, data: Samples) -> nn.Module:
    """BatchNorm's running mean and variance as the plain mean over batches of ``data``."""
    update_bn(map(as_input, data.inputs.split(500)), network)
    return network.eval()


class AverageAnswers(Attack):
    """A student distilled from the mean of the customers' answers to the attacker's pictures."""

    access = "probabilities"

    def __init__(self, distill: Distill):
        self.distill = distill

    def apply(self, target: list[Query], data: Samples, fit: Fit) -> Stolen:
        def answer(images: Tensor) -> Tensor:
            return torch.stack([query(images) for query in target]).mean(0)

        suspect = self.distill.apply(Query(answer, target[0].classes), data, fit)
        return Stolen(suspect.network, sum(query.count for query in target))


class AnswerTogether(Attack):
    """Several models answer as one, with the mean of their probabilities."""

    access = "weights"

    def apply(self, target: list[nn.Module], data: Samples, fit: Fit) -> Stolen:
        return Stolen(Ensemble.of(target))
