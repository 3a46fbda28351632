"""An innocent model, judged as if accused: trained on data of its own, never near the victim."""

from __future__ import annotations

import functools

from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.distill import as_many_steps, check_samples, count_of
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import build
from softmark.training import Classifier, Fit, Recipe


class Independent(Attack):
    """It asks the target nothing: a claim on this suspect is a false one.

    ``samples``: how many labelled pictures there are, or which fraction; with as many steps as with
    all of them.
    """

    access = "labels"
    innocent = True

    def __init__(self, recipe: Recipe, network: functools.partial[nn.Module], samples: float):
        check_samples(samples)
        self.recipe = recipe
        self.network = network
        self.samples = samples

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        few = data[: count_of(self.samples, data)]
        recipe = as_many_steps(self.recipe, len(few), len(data))
        network = build(self.network, data, target.classes)
        return Stolen(fit(Classifier(network, recipe), few, "independent"))
