"""The control of a mark that is trained, and how long both are trained."""

from __future__ import annotations

import copy
from dataclasses import replace

from torch import nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.teacher import Taught, Teacher
from softmark.training import Classifier, Fit, Recipe, predict


class TrainedOn:
    """The control of a mark that is trained: the victim, trained on for as long without a mark.

    What a mark costs is measured against it, since a longer training alone changes the accuracy,
    and so does a ``Teacher``, which it has where the mark has one.
    """

    def __init__(
        self,
        recipe: Recipe,
        length: float,
        teacher_weight: float = 0.0,
        teacher_temperature: float = 1.0,
    ):
        self.recipe = longer(recipe, length)
        self.weight, self.temperature = teacher_weight, teacher_temperature

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        network = copy.deepcopy(victim)
        if not self.weight:
            return fit(Classifier(network, self.recipe), data, "control")
        teacher = Teacher(predict(victim, data.inputs), self.weight, self.temperature)
        return fit(Taught(network, self.recipe, teacher), data, "control")


def longer(recipe: Recipe, length: float) -> Recipe:
    """``recipe`` with ``length`` times its epochs. Raises ``InputError`` where that can't be."""
    if not length > 0:
        raise InputError(f"method.length={length}: it must be above 0")
    return replace(recipe, epochs=max(1, round(length * recipe.epochs)))
