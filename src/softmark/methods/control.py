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

    What a mark costs is measured against it, since a longer training alone changes the accuracy.
    """

    def __init__(self, recipe: Recipe, length: float):
        self.recipe = longer(recipe, length)

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        return fit(Classifier(copy.deepcopy(victim), self.recipe), data, "control")


class TaughtOn(TrainedOn):
    """The same with the mark's ``Teacher``: the victim's answers change the accuracy, too."""

    def __init__(
        self, recipe: Recipe, length: float, teacher_weight: float, teacher_temperature: float
    ):
        super().__init__(recipe, length)
        self.weight, self.temperature = teacher_weight, teacher_temperature

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        teacher = Teacher(predict(victim, data.inputs), self.weight, self.temperature)
        return fit(Taught(copy.deepcopy(victim), self.recipe, teacher), data, "control")


def longer(recipe: Recipe, length: float) -> Recipe:
    """``recipe`` with ``length`` times its epochs. Raises ``InputError`` where that can't be."""
    if not length > 0:
        raise InputError(f"method.length={length}: it must be above 0")
    return replace(recipe, epochs=max(1, round(length * recipe.epochs)))
