"""Fine-tuning on true labels of the thief's own data (FTAL and FTLL of Adi et al. 2018)."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from softmark.attacks.attack import Attack, Suspect
from softmark.data import Samples
from softmark.errors import InputError
from softmark.training import Classifier, Fit, Recipe


class FineTune(Attack):
    """``lr_factor``: peak learning rate over that of ``recipe``; ``layers``: all or last."""

    access = "weights"

    def __init__(
        self, recipe: Recipe, epochs: int, lr_factor: float, layers: Literal["all", "last"]
    ):
        if lr_factor <= 0:
            raise InputError(f"attack.lr_factor={lr_factor}: it must be above 0")
        if layers not in ("all", "last"):
            raise InputError(f"attack.layers={layers}: all or last")
        self.recipe = replace(recipe, epochs=epochs, lr=recipe.lr * lr_factor)
        self.layers = layers

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Suspect:
        for parameter in target.parameters():
            parameter.requires_grad_(self.layers == "all")
        target.head.requires_grad_(True)
        network = fit(Classifier(target, self.recipe), data, "finetune")
        return Suspect(network.requires_grad_(True))
