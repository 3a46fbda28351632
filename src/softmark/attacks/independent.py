"""An innocent in the suspect's chair: trained on data of its own, never near the victim."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from softmark.attacks.attack import Attack, Query, Suspect
from softmark.data import Samples
from softmark.networks import build
from softmark.training import Classifier, Fit, Recipe


class Independent(Attack):
    """It asks the target nothing: a claim on this suspect is a false one."""

    access = "labels"

    def __init__(self, recipe: Recipe, network: Callable[..., nn.Module]):
        self.recipe = recipe
        self.network = network

    def apply(self, target: Query, data: Samples, fit: Fit) -> Suspect:
        network = build(self.network, data, target.classes)
        return Suspect(fit(Classifier(network, self.recipe), data, "independent"))
