"""Distillation: a student learns from the answers to the attacker's own pictures (Hinton 2015).

Kinds of distillation differ in what is asked and in what is learnt of the answers: see ``ask``.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.answers import Change, Flatten
from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check,
    check_between,
    check_count,
    check_positive,
)
from softmark.attacks.shadow import NetworkFactory, new_network
from softmark.batches import Batch
from softmark.data.augment import crop_and_flip
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Classifier, Fit


class Student(Classifier):
    """A network that learns a teacher's answers (Hinton et al. 2015, section 2).

    It matches the teacher's softmax at temperature T with its own at T, times T squared. A black
    box tells no logits, but log-probabilities are logits up to a constant.

    Args:
        network: The student; gives logits (N, K).
        recipe: How it is trained.
        answers: The teacher's probabilities (N, K), a row for each sample of its data.
    """

    temperature: float
    """T, above 0; it has no meaning where ``hard`` is true."""
    hard: bool
    """Whether only the likeliest class of each answer is learnt."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        answers: Tensor,
        temperature: float = 1.0,
        hard: bool = False,
    ):
        super().__init__(network, recipe)
        check_positive("student.temperature", temperature)
        self.temperature, self.hard = temperature, hard
        if hard:
            targets = F.one_hot(answers.argmax(1), answers.shape[1]).float()
        else:
            targets = (log_of(answers) / temperature).softmax(1)
        self.register_buffer("targets", targets, persistent=False)  # (N, K)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs) / self.temperature  # (B, K)
        return F.cross_entropy(logits, self.targets[batch.index]) * self.temperature**2


StudentFactory = functools.partial[Student]
SOFT = functools.partial(Student)
HARD = functools.partial(Student, hard=True)


@dataclass(kw_only=True, eq=False)
class Distill(Attack):
    """Train a student on the answers to the attacker's pictures, each asked once.

    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 3)
        >>> recipe = Recipe(epochs=1, batch_size=8, pad=0, flip=False)
        >>> student = Distill(recipe=recipe)(model, (torch.rand(8, 2), torch.arange(8) % 3))
        >>> student(torch.rand(5, 2)).shape
        torch.Size([5, 3])
    """

    access = "probabilities"

    recipe: Recipe = RECIPE
    """How the student is trained."""
    network: NetworkFactory | None = None
    """The student's architecture, with new weights; None in a call: the target's own."""
    student: StudentFactory = SOFT
    """What the student learns of the answers."""

    @property
    def student_recipe(self) -> Recipe:
        """The training of the student."""
        return self.recipe

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        """Return the samples that the student learns, and what it learns of each, (N, K)."""
        return data, target(data.inputs)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        samples, answers = self.ask(target, data, fit)
        network = new_network(self.network, data, target.classes)
        student = self.student(network=network, recipe=self.student_recipe, answers=answers)
        return AttackResult(fit(student, samples, "student"), target.count)


@dataclass(kw_only=True, eq=False)
class DistillPlainly(Distill):
    """Train the student for long, on pictures that are neither moved nor mirrored.

    As the students in the code of CosWM (40 epochs) and DAWN (500): whoever augments learns less of
    what an interface says of the very picture that was asked.
    """

    epochs_factor: float = 2.0
    """Epochs of the student over the recipe's. Above 0."""

    def __post_init__(self) -> None:
        check_positive("epochs_factor", self.epochs_factor)

    @property
    def student_recipe(self) -> Recipe:
        return replace(self.recipe.scaled(epochs=self.epochs_factor), pad=0, flip=False)


@dataclass(kw_only=True, eq=False)
class DistillLabels(Distill):
    """Distil from an interface that tells labels alone."""

    access = "labels"

    student: StudentFactory = HARD
    """What the student learns of the answers: the class."""


def as_many_steps(recipe: Recipe, few: int, total: int) -> Recipe:
    """Return ``recipe`` with so many epochs of ``few`` samples as it has steps on ``total``."""
    size = recipe.batch_size
    steps = recipe.epochs * max(1, total // size)
    return replace(recipe, epochs=max(1, round(steps / max(1, few // size))))


def count_of(samples: float, data: Samples) -> int:
    """Return how many ``samples`` of ``data`` are: a number, or a fraction below 1; at least 2."""
    return max(2, round(samples * len(data)) if samples < 1 else min(int(samples), len(data)))


def check_samples(samples: float) -> None:
    """Raise ``InputError`` unless ``samples`` is a number of pictures, or a fraction."""
    check(samples > 0, "samples", samples, "a number of pictures, or a fraction below 1")


@dataclass(kw_only=True, eq=False)
class DistillFew(Distill):
    """Distil from few pictures, in as many steps as with all of them."""

    samples: float = 0.1
    """Pictures of the attacker's that are used, or a fraction of them below 1; above 0."""

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        few = data[: count_of(self.samples, data)]
        recipe = as_many_steps(self.recipe, len(few), len(data))
        distill = Distill(recipe=recipe, network=self.network, student=self.student)
        return distill.apply(target, few, fit)


@dataclass(kw_only=True, eq=False)
class DistillChanged(Distill):
    """Distil from answers that are changed before the student learns them.

    The owner's interface changes them (fewer digits, the likeliest classes alone), or the attacker,
    who hopes that the mark goes with what is taken away.
    """

    change: Change = field(default_factory=Flatten)
    """What is made of the answers."""

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        answers = target(data.inputs)
        self.change.learn(answers, data, fit)
        return data, self.change(answers)


@dataclass(kw_only=True, eq=False)
class DistillLabelled(Distill):
    """Distil from the answers and the true labels."""

    label_weight: float = 0.5
    """Weight of the true labels beside the answers; between 0 and 1."""

    def __post_init__(self) -> None:
        check_between("label_weight", self.label_weight)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        true = F.one_hot(data.labels, target.classes).float()  # (N, K)
        return data, (1 - self.label_weight) * target(data.inputs) + self.label_weight * true


@dataclass(kw_only=True, eq=False)
class DistillAveraged(Distill):
    """Distil from mean answers to shifted and mirrored copies of each picture.

    What a mark adds to single answers may average out.
    """

    copies: int = 5
    """Copies of each picture; at least 1."""

    def __post_init__(self) -> None:
        check_count("copies", self.copies)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        shifted = (
            crop_and_flip(data.inputs, self.recipe.pad, self.recipe.flip)
            for _ in range(self.copies)
        )
        return data, torch.stack([target(images) for images in shifted]).mean(0)


@dataclass(kw_only=True, eq=False)
class DistillAugmented(Distill):
    """Distil for long, from the answers to shifted and mirrored copies that the student sees.

    Each copy is asked for itself, so that what the student learns of a copy is what the model says
    of that copy; ``Distill`` shows the student a moved picture with the answer to the one at rest.
    """

    epochs: int = 60
    """Times that the student sees each picture, in one of its copies; at least 1."""
    copies: int = 5
    """Copies of each picture, the picture itself among them; at least 1."""

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_count("copies", self.copies)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        asked = shifted_copies(data, self.copies * len(data), self.recipe)
        return asked, target(asked.inputs)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        samples, answers = self.ask(target, data, fit)
        epochs = max(1, round(self.epochs / self.copies))
        recipe = replace(self.recipe, epochs=epochs, pad=0, flip=False)
        network = new_network(self.network, data, target.classes)
        student = self.student(network=network, recipe=recipe, answers=answers)
        return AttackResult(fit(student, samples, "student"), target.count)


def shifted_copies(data: Samples, count: int, recipe: Recipe) -> Samples:
    """Return ``count`` samples: ``data``, then copies that are shifted as ``recipe`` says."""
    rounds = math.ceil(count / len(data))
    inputs = [
        data.inputs,
        *(crop_and_flip(data.inputs, recipe.pad, recipe.flip) for _ in range(rounds - 1)),
    ]
    return Samples(torch.cat(inputs)[:count], data.labels.repeat(rounds)[:count])
