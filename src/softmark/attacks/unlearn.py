"""Adversarial unlearning, a repair of networks with a backdoor (after Zeng et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    DecayingClassifier,
    EpochsAttack,
    adam,
    check,
    check_count,
    check_positive,
)
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.recipe import Recipe
from softmark.training import Fit


class UnlearnModule(DecayingClassifier):
    """Learns to be right in spite of the perturbation that hurts the whole batch most.

    ``size``: the perturbation's L2 norm over the square root of its number of pixels, at most.
    ``ascents``: in how many steps it is found. ``fraction``: the fraction of pictures that get it.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, size: float, ascents: int, fraction: float
    ):
        super().__init__(network, recipe)
        self.size, self.ascents, self.fraction = size, ascents, fraction

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return adam(groups, self.recipe.lr)

    def worst(self, batch: Batch) -> Tensor:
        """Return one perturbation (1, C, H, W) for all pictures, by steps along the gradient."""
        # BatchNorm's statistics aren't to learn what is only a search.
        self.network.eval()
        bound = self.size * batch.inputs[0].numel() ** 0.5
        added = torch.zeros_like(batch.inputs[:1])
        for _ in range(self.ascents):
            added.requires_grad_()
            loss = F.cross_entropy(self.network(batch.inputs + added), batch.labels)
            (slope,) = torch.autograd.grad(loss, added)
            moved = added.detach() + bound * slope / slope.norm().clamp_min(1e-12)
            added = moved * (bound / moved.norm().clamp_min(1e-12)).clamp_max(1)
        self.network.train()
        return added

    def loss(self, batch: Batch) -> Tensor:
        hit = torch.rand(len(batch.labels), 1, 1, 1, device=batch.inputs.device) < self.fraction
        logits = self.network(batch.inputs + hit * self.worst(batch))
        return F.cross_entropy(logits, batch.labels)


@dataclass(kw_only=True, eq=False)
class Unlearn(EpochsAttack):
    """Unlearn what fools the model: adversarial unlearning, after I-BAU.

    Zeng et al., "Adversarial Unlearning of Backdoors via Implicit Hypergradient" (2022). Two steps
    in turn, for each batch: one perturbation is found that, added to every picture, raises the
    loss, and Adam trains the network to be right all the same. This is the plain alternation:
    without the paper's implicit gradient, which tells the second step how the first would answer.
    The paper seeks one perturbation a round, on all pictures.
    """

    lr: float = 0.001
    """Learning rate of Adam, which is constant; above 0."""
    min_steps: int | None = 250
    """Steps of the training at least: few pictures are shown in more epochs; None: no bound."""
    size: float = 0.18
    """Root mean square of the perturbation's pixels, of their range from 0 to 1; above 0."""
    ascents: int = 5
    """Steps in which a perturbation is found; at least 1."""
    fraction: float = 1.0
    """Fraction of the pictures that get the perturbation; above 0, at most 1."""

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("size", self.size)
        check_count("ascents", self.ascents)
        holds = 0 < self.fraction <= 1
        check(holds, "fraction", self.fraction, "a fraction above 0, at most 1")
        super().__post_init__()

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, lr=self.lr)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        recipe = self.tuned_for(data)
        module = UnlearnModule(target, recipe, self.size, self.ascents, self.fraction)
        return AttackResult(fit(module, data, "unlearn"))
