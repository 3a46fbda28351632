"""Several models made into one: customers who hold differently marked copies average them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from softmark.attacks.attack import Attack, AttackResult
from softmark.attacks.distill import Distill
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import Ensemble
from softmark.training import Fit


@dataclass(kw_only=True, eq=False)
class AverageWeights(Attack):
    """Average the customers' weights; BatchNorm's statistics are taken anew on their data.

    Example:
        >>> import torch
        >>> first, second = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> data = (torch.rand(8, 2), torch.arange(8) % 3)
        >>> suspect = AverageWeights()([first, second], data)
        >>> bool(torch.allclose(suspect.bias, (first.bias + second.bias) / 2))
        True
    """

    access = "weights"
    merges = True

    def apply(self, target: list[nn.Module], data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(mean_of(target, data))


def mean_of(networks: Sequence[nn.Module], data: Samples) -> nn.Module:
    """Return the first network, changed to the mean of all.

    BatchNorm's statistics are renewed on ``data``.
    """
    states = [network.state_dict() for network in networks]
    mean = {
        name: torch.stack([state[name] for state in states]).float().mean(0).to(first.dtype)
        for name, first in states[0].items()
    }
    networks[0].load_state_dict(mean)
    return renew_statistics(networks[0], data)


def renew_statistics(network: nn.Module, data: Samples) -> nn.Module:
    """Set BatchNorm's running mean and variance to the plain mean over batches of ``data``."""
    update_bn(map(as_input, data.inputs.split(500)), network)
    return network.eval()


@dataclass(kw_only=True, eq=False)
class AverageAnswers(Attack):
    """Distil a student from the mean of the customers' answers to the attacker's pictures."""

    access = "probabilities"
    merges = True

    distill: Distill = field(default_factory=Distill)
    """How the student is distilled."""

    def apply(self, target: list[Query], data: Samples, fit: Fit) -> AttackResult:
        def answer(images: Tensor) -> Tensor:
            return torch.stack([query(images) for query in target]).mean(0)  # (N, K)

        suspect = self.distill.apply(Query(answer, target[0].classes), data, fit)
        return AttackResult(suspect.network, sum(query.count for query in target))


@dataclass(kw_only=True, eq=False)
class AnswerTogether(Attack):
    """Let several models answer as one, with the mean of their probabilities."""

    access = "weights"
    merges = True

    def apply(self, target: list[nn.Module], data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(Ensemble.of(target))
