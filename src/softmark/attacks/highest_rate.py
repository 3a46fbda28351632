"""Fine-tuning at the highest learning rate that accuracy allows (Chen et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import nn

from softmark.attacks.attack import (
    AttackResult,
    DecayingClassifier,
    TrainingAttack,
    check,
    check_between,
    check_fraction,
    hold_out,
    worth,
)
from softmark.data.roles import Samples
from softmark.training import DivergedError, Fit


@dataclass(kw_only=True, eq=False)
class HighestRate(TrainingAttack):
    """Fine-tune at the highest of several rates that accuracy on held-out pictures allows.

    As Chen et al. choose the rate, "REFIT: A Unified Watermark Removal Framework for Deep Learning
    Systems with Limited Data" (2021): it begins far above the one that the model was trained with,
    and falls after each epoch. The highest is tried first. All pictures have their labels here;
    ``refit.Refit`` has the paper's few, and what holds the accuracy. What is handed back hasn't
    seen the held-out pictures.
    """

    epochs: int = 60
    """Epochs at each rate; at least 1."""
    lr_factor: float = 1.0
    """Rate over the recipe's to which ``factors`` refer; above 0."""
    factors: Sequence[float] = (1.0, 5.0, 15.0)
    """Rates that are tried, over ``lr_factor``; above 0."""
    lr_decay: float = 0.9
    """Factor of the learning rate after each epoch; between 0 and 1."""
    tolerance: float = 0.03
    """Held-out accuracy that may be lost, as a fraction of all pictures; 0 to 1."""
    held_out: float = 0.2
    """Fraction of the attacker's pictures that are held out; between 0 and 1."""

    def __post_init__(self) -> None:
        good = len(self.factors) > 0 and all(factor > 0 for factor in self.factors)
        check(good, "factors", self.factors, "at least one number, all above 0")
        check_between("lr_decay", self.lr_decay)
        check_fraction("tolerance", self.tolerance)
        check_between("held_out", self.held_out)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        train, held_out = hold_out(data, self.held_out)
        before, best, reached, note = worth(target, held_out), None, -1.0, ""
        for factor in sorted(self.factors, reverse=True):
            recipe = self.tuned_for(train)
            recipe = replace(recipe, lr=factor * recipe.lr)
            module = DecayingClassifier(copy.deepcopy(target), recipe, self.lr_decay)
            try:
                network = fit(module, train, f"finetune-{factor:g}")
            except DivergedError:
                if factor == min(self.factors) and best is None:
                    raise
                continue
            after = worth(network, held_out)
            if after > reached:
                best, reached = network, after
                note = f"{factor:g} times the rate: held-out accuracy {before:.3f} to {after:.3f}"
            if after >= before - self.tolerance:
                break
        return AttackResult(best, note=note)
