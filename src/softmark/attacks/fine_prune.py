"""Fine-pruning, a repair of networks with a backdoor (Liu et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import (
    AttackResult,
    TrainingAttack,
    check_between,
    check_fraction,
    hold_out,
    worth,
)
from softmark.attacks.prune import inputs_of, linear_head
from softmark.data.roles import Samples
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


class PrunedModule(Classifier):
    """Learns labels with a last layer that doesn't read the inputs ``pruned`` (a mask (D,))."""

    pruned: Tensor

    def __init__(self, network: nn.Module, recipe: Recipe, head: nn.Linear, pruned: Tensor):
        super().__init__(network, recipe)
        self.head = head
        self.register_buffer("pruned", pruned, persistent=False)

    @torch.no_grad()
    def after_step(self) -> None:
        self.head.weight.masked_fill_(self.pruned, 0)


@dataclass(kw_only=True, eq=False)
class FinePrune(TrainingAttack):
    """Cut off inactive inputs of the last layer while accuracy allows, then repair: fine-pruning.

    Liu et al., "Fine-Pruning: Defending Against Backdooring Attacks on Deep Neural Networks"
    (2018). The least active input goes first, one hundredth of them at a time, as in BackdoorBench;
    what the paper prunes is the last convolution, which in residual networks isn't all that the
    last layer reads. What is cut off stays so while the rest is trained on.
    """

    epochs: int = 10
    """Epochs of the repair; at least 1."""
    lr_factor: float = 1.0
    """Peak learning rate of the repair over the recipe's; above 0."""
    min_steps: int | None = 1000
    """Steps of the repair at least; None: no bound."""
    fraction: float = 0.96
    """Fraction of the last layer's inputs that are cut off at most; 0 to 1."""
    tolerance: float = 0.1
    """Held-out accuracy that may be lost before the repair; 0 to 1."""
    held_out: float = 0.2
    """Fraction of the attacker's pictures that are held out; between 0 and 1."""

    def __post_init__(self) -> None:
        check_fraction("fraction", self.fraction)
        check_fraction("tolerance", self.tolerance)
        check_between("held_out", self.held_out)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        head = linear_head(target)
        train, held_out = hold_out(data, self.held_out)
        order = inputs_of(target, head, train).abs().mean(0).argsort()  # (D,)
        pruned = self.prune(target, head, order, held_out)
        module = PrunedModule(target, self.tuned_for(data), head, pruned)
        note = f"{int(pruned.sum())} of {len(pruned)} inputs of the last layer cut off"
        return AttackResult(fit(module, data, "finetune"), note=note)

    @torch.no_grad()
    def prune(
        self, network: nn.Module, head: nn.Linear, order: Tensor, held_out: Samples
    ) -> Tensor:
        """Cut inputs of ``head`` off in ``order`` (D,); return which, a mask (D,)."""
        least = worth(network, held_out) - self.tolerance
        weight, count = head.weight.clone(), 0
        for percent in range(1, round(100 * self.fraction) + 1):
            more = round(percent / 100 * len(order))
            head.weight[:, order[:more]] = 0
            if worth(network, held_out) < least:
                break
            count = more
        pruned = torch.zeros(len(order), dtype=torch.bool)
        pruned[order[:count]] = True
        head.weight.copy_(weight.masked_fill(pruned, 0))
        return pruned
