"""Distillation: a student learns from the answers to the attacker's own pictures (Hinton 2015)."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.models.networks import build
from softmark.training import Batch, Classifier, Fit, Recipe


class Student(Classifier):
    """A network that learns ``answers`` (N, K), one row for each sample of its data.

    ``temperature`` T: it matches the teacher's softmax at T with its own at T, times T squared
    (Hinton et al. 2015, section 2). A black box tells no logits, but log-probabilities are logits
    up to a constant. ``hard``: only the likeliest class is learnt, and T has no meaning.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, answers: Tensor, temperature: float, hard: bool
    ):
        super().__init__(network, recipe)
        if temperature <= 0:
            raise InputError(f"attack.student.temperature={temperature}: it must be above 0")
        self.temperature = temperature
        if hard:
            targets = F.one_hot(answers.argmax(1), answers.shape[1]).float()
        else:
            targets = (answers.clamp_min(1e-12).log() / temperature).softmax(1)
        self.register_buffer("targets", targets, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.images) / self.temperature
        return F.cross_entropy(logits, self.targets[batch.index]) * self.temperature**2


class Distill(Attack):
    """Each picture is asked once; ``network`` builds the student, ``student`` trains it."""

    access = "probabilities"

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
    ):
        self.recipe = recipe
        self.network = network
        self.student = student

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        answers = target(data.images)
        network = build(self.network, data, target.classes)
        student = self.student(network=network, recipe=self.recipe, answers=answers)
        return Stolen(fit(student, data, "student"), target.count)


class DistillFew(Distill):
    """Few pictures, and as many steps as with all of them.

    ``share``: the fraction of the attacker's pictures that are used, drawn at random.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        share: float,
    ):
        if not 0 < share <= 1:
            raise InputError(f"attack.share={share}: a fraction above 0, at most 1")
        super().__init__(replace(recipe, epochs=round(recipe.epochs / share)), network, student)
        self.share = share

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        count = max(1, round(self.share * len(data)))
        return super().apply(target, data[torch.randperm(len(data))[:count]], fit)
