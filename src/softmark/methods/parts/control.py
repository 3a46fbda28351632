"""The control of a mark that is trained: the victim, trained on for as long without a mark.

What a mark costs is measured against it, since a longer training alone changes the accuracy.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from torch import nn

from softmark.data.roles import Samples
from softmark.methods.parts.checks import check_above_zero
from softmark.methods.parts.teacher import Teacher, TeacherModule
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict


@dataclass(frozen=True, kw_only=True)
class Control:
    """Train the victim on as the mark is trained, but without a mark.

    Example:
        >>> Control(recipe=Recipe(epochs=10), epochs_factor=1.5).training_recipe.epochs
        15
    """

    recipe: Recipe = field(default_factory=Recipe)
    """The training of a model of this kind."""
    epochs_factor: float = 1.0
    """Epochs of the control over the recipe's, as the mark's. Above 0."""
    batch_size_factor: float = 1.0
    """Size of its batches over the recipe's, as the mark's. Above 0."""

    def __post_init__(self) -> None:
        check_above_zero(self, "epochs_factor", "batch_size_factor")

    @property
    def training_recipe(self) -> Recipe:
        """The training of the control."""
        return self.recipe.scaled(epochs=self.epochs_factor, batch_size=self.batch_size_factor)

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        """Return a copy of ``victim``, trained on with ``data``."""
        return fit(Classifier(copy.deepcopy(victim), self.training_recipe), data, "control")


@dataclass(frozen=True, kw_only=True)
class TeacherControl(Control):
    """Train the victim on with the mark's ``Teacher``, too."""

    teacher_weight: float = 0.5
    """Of the victim's own answers beside the labels, as the mark's. From 0 to below 1."""
    teacher_temperature: float = 2.0
    """At which the victim's answers are learnt. Above 0."""

    def train(self, victim: nn.Module, data: Samples, fit: Fit) -> nn.Module:
        if not self.teacher_weight:
            return super().train(victim, data, fit)
        answers = predict(victim, data.inputs)
        teacher = Teacher(answers, self.teacher_weight, self.teacher_temperature)
        return fit(
            TeacherModule(copy.deepcopy(victim), self.training_recipe, teacher), data, "control"
        )
