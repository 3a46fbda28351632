"""Labels smoothed by similarity: what a teacher confuses with a class gets its label's mass.

Zhang et al. 2021, "Delving Deep into Label Smoothing" (online label smoothing), with one teacher
instead of the model's own last epoch. As an innocent it is the hardest kind for a mark in the
tails, since its tails follow a pattern too, one that no key decides.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from softmark.attacks.attack import AttackResult, check_between
from softmark.attacks.distill import Distill
from softmark.attacks.shadow import new_network
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.training import Fit


@dataclass(kw_only=True, eq=False)
class SmoothBySimilarity(Distill):
    """Train a model on labels that are smoothed towards what the target confuses them with.

    After Zhang et al., "Delving Deep into Label Smoothing" (2021).
    """

    smoothing: float = 0.1
    """Mass that moves from each label to the classes that resemble it; between 0 and 1."""

    def __post_init__(self) -> None:
        check_between("smoothing", self.smoothing)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        answers = target(data.inputs)  # (N, K)
        sums = torch.zeros(target.classes, target.classes).index_add(0, data.labels, answers)
        alike = sums.fill_diagonal_(0) + 1e-6  # (K, K)
        alike.fill_diagonal_(0)
        itself = torch.eye(target.classes)
        moved = self.smoothing * alike / alike.sum(1, keepdim=True)
        targets = (1 - self.smoothing) * itself + moved  # (K, K)
        network = new_network(self.network, data, target.classes)
        student = self.student(network=network, recipe=self.recipe, answers=targets[data.labels])
        return AttackResult(fit(student, data, "student"), target.count)
