"""A model that the attacker trains alone, on their own labels."""

from __future__ import annotations

import functools

from torch import nn

from softmark.data.roles import Samples
from softmark.models.networks import build
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


def own_model(
    network: functools.partial[nn.Module], recipe: Recipe, data: Samples, classes: int, fit: Fit
) -> nn.Module:
    return fit(Classifier(build(network, data, classes), recipe), data, "own")
