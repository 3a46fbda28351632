"""Fine-tuning on the attacker's labels: FTAL, FTLL, RTAL and RTLL of Adi et al. 2018."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Classifier, Fit, Recipe


class FineTune(Attack):
    """``lr_factor``: peak learning rate over that of ``recipe``; ``layers``: all or last.

    ``samples``: how many labelled pictures the attacker has, each class in proportion, with as
    many steps as with all of them; None for all.
    """

    access = "weights"

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        lr_factor: float,
        layers: Literal["all", "last"],
        samples: int | None,
    ):
        if not lr_factor > 0:
            raise InputError(f"attack.lr_factor={lr_factor}: it must be above 0")
        if layers not in ("all", "last"):
            raise InputError(f"attack.layers={layers}: all or last")
        if samples is not None and not samples >= 2:
            raise InputError(f"attack.samples={samples}: at least 2 (or null for all)")
        self.recipe = replace(recipe, epochs=epochs, lr=recipe.lr * lr_factor)
        self.layers = layers
        self.samples = samples

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        if not hasattr(target, "head"):
            raise InputError(f"attack: {type(target).__name__} has no last layer called head")
        few, recipe = data[: self.samples], self.recipe
        if len(few) < len(data):
            steps = recipe.epochs * max(1, len(data) // recipe.batch_size)
            epochs = max(1, steps // max(1, len(few) // recipe.batch_size))
            recipe = replace(recipe, epochs=epochs)
        for parameter in target.parameters():
            parameter.requires_grad_(self.layers == "all")
        target.head.requires_grad_(True)
        network = fit(Classifier(target, recipe), few, "finetune")
        return Stolen(network.requires_grad_(True))


class ReTrain(FineTune):
    """The last layer is drawn anew first (RTAL and RTLL)."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        if hasattr(target, "head"):
            target.head.reset_parameters()
        return super().apply(target, data, fit)
