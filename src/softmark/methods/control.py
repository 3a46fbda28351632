"""The control of a mark that is trained, and how long both are trained."""

from __future__ import annotations

import copy
import math
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

    def __init__(self, recipe: Recipe, epochs_factor: float):
        self.recipe = longer(recipe, epochs_factor)

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        return fit(Classifier(copy.deepcopy(victim), self.recipe), data, "control")


class TaughtOn(TrainedOn):
    """The same with the mark's ``Teacher`` and batches, which change the accuracy, too."""

    def __init__(
        self,
        recipe: Recipe,
        epochs_factor: float,
        batch_size_factor: float,
        teacher_weight: float,
        teacher_temperature: float,
    ):
        super().__init__(in_batches(recipe, batch_size_factor), epochs_factor)
        self.weight, self.temperature = teacher_weight, teacher_temperature

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        if not self.weight:
            return super().train(victim, data, fit)
        teacher = Teacher(predict(victim, data.inputs), self.weight, self.temperature)
        return fit(Taught(copy.deepcopy(victim), self.recipe, teacher), data, "control")


def longer(recipe: Recipe, epochs_factor: float) -> Recipe:
    """Return ``recipe`` with ``epochs_factor`` times its epochs; at least one epoch."""
    if not epochs_factor > 0:
        raise InputError(f"method.epochs_factor={epochs_factor}: it must be above 0")
    return replace(recipe, epochs=max(1, round(epochs_factor * recipe.epochs)))


def in_batches(recipe: Recipe, batch_size_factor: float) -> Recipe:
    """Return ``recipe`` with ``batch_size_factor`` times its batch size; at least 2 samples."""
    if not 0 < batch_size_factor < math.inf:
        raise InputError(f"method.batch_size_factor={batch_size_factor}: it must be above 0")
    return replace(recipe, batch_size=max(2, round(batch_size_factor * recipe.batch_size)))
