"""Distillation: a student learns from the answers to the attacker's own pictures (Hinton 2015).

Kinds of distillation differ in what is asked and in what is learnt of the answers: see ``ask``.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.answers import Change
from softmark.attacks.attack import Attack, Stolen
from softmark.data.augment import crop_and_flip
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
        logits = self.network(batch.inputs) / self.temperature
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

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        """The pictures that the student learns, and what it learns of each, (N, K)."""
        return data, target(data.inputs)

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        asked, answers = self.ask(target, data, fit)
        network = build(self.network, data, target.classes)
        student = self.student(network=network, recipe=self.recipe, answers=answers)
        return Stolen(fit(student, asked, "student"), target.count)


class DistillLabels(Distill):
    """The interface tells labels alone."""

    access = "labels"


def as_many_steps(recipe: Recipe, few: int, whole: int) -> Recipe:
    """``recipe`` with so many epochs of ``few`` samples that it takes as many steps as on all."""
    size = recipe.batch_size
    steps = recipe.epochs * max(1, whole // size)
    return replace(recipe, epochs=max(1, round(steps / max(1, few // size))))


def count_of(samples: float, data: Samples) -> int:
    """``samples`` of ``data``: a number of them, or a fraction below 1; at least 2."""
    return max(2, round(samples * len(data)) if samples < 1 else min(int(samples), len(data)))


def check_samples(samples: float) -> None:
    if not samples > 0:
        raise InputError(f"attack.samples={samples}: a number of pictures, or a fraction below 1")


class DistillFew(Distill):
    """Few pictures, and as many steps as with all of them.

    ``samples``: how many of the attacker's pictures are used, or which fraction of them below 1.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        samples: float,
    ):
        check_samples(samples)
        super().__init__(recipe, network, student)
        self.samples = samples

    def apply(self, target: Query, data: Samples, fit: Fit) -> Stolen:
        few = data[: count_of(self.samples, data)]
        recipe = as_many_steps(self.recipe, len(few), len(data))
        return Distill(recipe, self.network, self.student).apply(target, few, fit)


class DistillChanged(Distill):
    """``change``: what is made of the answers before the student learns them.

    The owner's interface does it (fewer digits, the likeliest classes alone), or the attacker, who
    hopes that the mark goes with what is taken away.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        change: Change,
    ):
        super().__init__(recipe, network, student)
        self.change = change

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        answers = target(data.inputs)
        self.change.learn(answers, data, fit)
        return data, self.change(answers)


class DistillLabelled(Distill):
    """``label_weight``: of the true labels in what the student learns, beside the answers."""

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        label_weight: float,
    ):
        if not 0 < label_weight < 1:
            raise InputError(f"attack.label_weight={label_weight}: a fraction between 0 and 1")
        super().__init__(recipe, network, student)
        self.label_weight = label_weight

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        true = F.one_hot(data.labels, target.classes).float()
        return data, (1 - self.label_weight) * target(data.inputs) + self.label_weight * true


class DistillAveraged(Distill):
    """The student learns mean answers to ``copies`` of each picture, shifted and mirrored.

    What a mark adds to single answers may average out.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        copies: int,
    ):
        if not copies >= 1:
            raise InputError(f"attack.copies={copies}: at least 1")
        super().__init__(recipe, network, student)
        self.copies = copies

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        copies = (
            crop_and_flip(data.inputs, self.recipe.pad, self.recipe.flip)
            for _ in range(self.copies)
        )
        return data, torch.stack([target(images) for images in copies]).mean(0)
