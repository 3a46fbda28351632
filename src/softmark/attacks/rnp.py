"""Reconstructive neuron pruning: what relearns the task last is pruned."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    DecayingClassifier,
    EpochsAttack,
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
from softmark.training import Fit

MOST_NATS = 10.0  # of a sample's loss in an ascent: above it weights would only grow


class AscentModule(DecayingClassifier):
    """Unlearn the labels: climb the cross-entropy of each sample that isn't lost yet."""

    def loss(self, batch: Batch) -> Tensor:
        losses = F.cross_entropy(self.network(batch.inputs), batch.labels, reduction="none")
        return -losses.clamp_max(MOST_NATS).mean()


@dataclass(kw_only=True, eq=False)
class PruneReconstructive(EpochsAttack):
    """Unlearn the task, let masks of the channels recover it, and prune what they leave out: RNP.

    Li et al., "Reconstructive Neuron Pruning for Backdoor Defense" (ICML 2023). The masks are
    learnt on the model that unlearnt, at a constant rate, and the stolen one is pruned. What
    differs: whole accuracy decides how many channels go, as it does for the attacker; the
    unlearning has no momentum, and a rate that makes up for it, so that it can stop after any
    epoch; samples whose loss is high already are left alone in it. It ends at half of the accuracy,
    where the paper ends at a fifth: see docs/attacks.md.
    """

    epochs: int = 1
    """Epochs in which the masks are learnt; at least 1."""
    min_steps: int | None = 80
    """Steps in which the masks are learnt at least; None: no bound."""
    lr: float = 0.2
    """Learning rate of the masks; above 0."""
    alpha: float = 0.2
    """Weight of the loss from which the masks are learnt; above 0."""
    rounds: int = 10
    """Epochs of unlearning at most; at least 1."""
    lr_factor: float = 0.1
    """Learning rate of the unlearning over the recipe's; above 0."""
    bound: float = 0.5
    """Accuracy below which enough is unlearnt; 0 to 1."""
    tolerance: float = 0.05
    """Accuracy that the pruning may cost, as a fraction of the attacker's pictures; 0 to 1."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        check_positive("lr_factor", self.lr_factor)
        check_fraction("bound", self.bound)
        check_positive("lr", self.lr)
        check_positive("alpha", self.alpha)
        check_fraction("tolerance", self.tolerance)
        super().__post_init__()

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, lr=self.lr)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
        if not norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be pruned")
        unlearnt, left = self.unlearn(copy.deepcopy(target), data, fit)
        module = NeuronMaskModule(unlearnt, self.tuned_for(data), eps=0.0, alpha=self.alpha)
        fit(module, data, "masks")
        masks = [mask.detach().cpu() for mask in module.masks]
        pruned = prune_lowest(target, norms, masks, data, self.tolerance)
        return AttackResult(target, note=f"unlearnt to {left:.2f}; {pruned}")

    def unlearn(self, network: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, float]:
        """Return ``network`` after it has unlearnt the labels of ``data``, and its accuracy."""
        recipe = self.recipe.scaled(lr=self.lr_factor / (1 - self.recipe.momentum))
        recipe = replace(recipe, epochs=1, momentum=0.0)
        for number in range(self.rounds):
            network = fit(AscentModule(network, recipe), data, f"unlearn-{number + 1}")
            left = worth(network, data)
            if left < self.bound:
                break
        return network, left
