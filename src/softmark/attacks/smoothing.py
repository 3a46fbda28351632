"""Labels smoothed by similarity: what a teacher confuses with a class gets its label's mass.

Zhang et al. 2021, "Delving Deep into Label Smoothing" (online label smoothing), with one teacher
instead of the model's own last epoch. As an innocent it is the hardest kind for a mark in the
tails, since its tails follow a pattern too, one that no key decides.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.distill import Student
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.models.networks import build
from softmark.training import Fit, Recipe


class SmoothBySimilarity(Attack):
    """``smoothing``: the mass that moves from each label to the classes that resemble it."""

    access = "probabilities"

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        smoothing: float,
    ):
        if not 0 < smoothing < 1:
            raise InputError(f"attack.smoothing={smoothing}: a fraction between 0 and 1")
        self.recipe, self.network, self.student = recipe, network, student
        self.smoothing = smoothing

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        answers = target(data.inputs)
        sums = torch.zeros(target.classes, target.classes).index_add(0, data.labels, answers)
        alike = sums.fill_diagonal_(0) + 1e-6
        alike.fill_diagonal_(0)
        itself = torch.eye(target.classes)
        targets = (1 - self.smoothing) * itself + self.smoothing * alike / alike.sum(
            1, keepdim=True
        )
        network = build(self.network, data, target.classes)
        student = self.student(network=network, recipe=self.recipe, answers=targets[data.labels])
        return Stolen(fit(student, data, "student"), target.count)
