"""An innocent model, judged as if accused: trained on data of its own, never near the victim."""

from __future__ import annotations

import functools

from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import build
from softmark.training import Classifier, Fit, Recipe


class Independent(Attack):
    """It asks the target nothing: a claim on this suspect is a false one."""

    access = "labels"
    innocent = True

    def __init__(self, recipe: Recipe, network: functools.partial[nn.Module]):
        self.recipe = recipe
        self.network = network

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        network = build(self.network, data, target.classes)
        return Stolen(fit(Classifier(network, self.recipe), data, "independent"))
