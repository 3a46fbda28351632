"""Reconstructive neuron pruning: what relearns the task last is pruned."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn

from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check_count,
    check_fraction,
    check_positive,
    worth,
)
from softmark.attacks.neurons import NeuronMaskModule, prune_lowest
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

MOST_NATS = 10.0  # of the loss of an ascent: above it a step would only make weights larger


class AscentModule(Classifier):
    """Unlearn the labels: climb their cross-entropy."""

    def loss(self, batch: Batch) -> Tensor:
        return -super().loss(batch).clamp_max(MOST_NATS)


@dataclass(kw_only=True, eq=False)
class PruneReconstructive(Attack):
    """Unlearn the task, let masks of the channels recover it, and prune what they leave out: RNP.

    Li et al., "Reconstructive Neuron Pruning for Backdoor Defense" (ICML 2023). The masks are
    learnt on the model that unlearnt, at a constant rate, and the stolen one is pruned. What
    differs: whole accuracy decides where to stop, as it does for the attacker; the rate of the
    unlearning has the recipe's cycle.
    """

    access = "weights"

    recipe: Recipe = RECIPE
    """How the victim was trained: batch size, momentum, weight decay, crops."""
    rounds: int = 10
    """Epochs of unlearning at most; at least 1."""
    lr_factor: float = 0.1
    """Peak learning rate of the unlearning over the recipe's; above 0."""
    bound: float = 0.2
    """Accuracy below which enough is unlearnt; 0 to 1."""
    epochs: int = 10
    """Epochs in which the masks are learnt; at least 1."""
    lr: float = 0.2
    """Peak learning rate of the masks; above 0."""
    tolerance: float = 0.05
    """Accuracy that the pruning may cost, as a fraction of the attacker's pictures; 0 to 1."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_positive("lr_factor", self.lr_factor)
        check_fraction("bound", self.bound)
        check_count("epochs", self.epochs)
        check_positive("lr", self.lr)
        check_fraction("tolerance", self.tolerance)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be pruned")
        unlearnt = self.unlearn(copy.deepcopy(target), data, fit)
        recipe = replace(self.recipe, epochs=self.epochs, lr=self.lr)
        module = NeuronMaskModule(unlearnt, recipe, eps=0.0, alpha=1.0)
        fit(module, data, "masks")
        masks = [mask.detach().cpu() for mask in module.masks]
        note, _ = prune_lowest(target, norms, masks, data, self.tolerance)
        return AttackResult(target, note=note)

    def unlearn(self, network: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        """Return ``network`` after it has unlearnt the labels of ``data``."""
        recipe = replace(self.recipe.scaled(lr=self.lr_factor), epochs=1)
        for number in range(self.rounds):
            network = fit(AscentModule(network, recipe), data, f"unlearn-{number + 1}")
            if worth(network, data) < self.bound:
                break
        return network
