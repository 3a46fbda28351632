"""Fine-tuning on the attacker's data: FTAL, FTLL, RTAL and RTLL of Adi et al. 2018, and others."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.answers import Change
from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.distill import Student, as_many_steps
from softmark.attacks.perturb import check_perturbation, perturbed
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Batch, Classifier, Fit, Recipe, predict


def tuning(recipe: Recipe, epochs: int, lr_factor: float) -> Recipe:
    """``recipe`` for a fine-tuning: ``epochs`` of it at ``lr_factor`` times its learning rate."""
    if not epochs >= 1:
        raise InputError(f"attack.epochs={epochs}: at least 1")
    if not lr_factor > 0:
        raise InputError(f"attack.lr_factor={lr_factor}: it must be above 0")
    return replace(recipe, epochs=epochs, lr=recipe.lr * lr_factor)


class FineTune(Attack):
    """``lr_factor``: peak learning rate over that of ``recipe``; ``layers``: all or last.

    ``samples``: how many labelled pictures the attacker has, each class in proportion, with as
    many steps as with all of them; None for all.
    """

    access = "weights"

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        lr_factor: float,
        layers: Literal["all", "last"],
        samples: int | None,
    ):
        if layers not in ("all", "last"):
            raise InputError(f"attack.layers={layers}: all or last")
        if samples is not None and not samples >= 2:
            raise InputError(f"attack.samples={samples}: at least 2 (or null for all)")
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.layers = layers
        self.samples = samples

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        if not hasattr(target, "head"):
            raise InputError(f"attack: {type(target).__name__} has no last layer called head")
        few, recipe = data[: self.samples], self.recipe
        if len(few) < len(data):
            recipe = as_many_steps(recipe, len(few), len(data))
        for parameter in target.parameters():
            parameter.requires_grad_(self.layers == "all")
        target.head.requires_grad_(True)
        network = fit(Classifier(target, recipe), few, "finetune")
        return Stolen(network.requires_grad_(True))


class ReTrain(FineTune):
    """The last layer is drawn anew first (RTAL and RTLL)."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        if hasattr(target, "head"):
            target.head.reset_parameters()
        return super().apply(target, data, fit)


class SmoothLabels(FineTune):
    """On labels with the mass ``label_smoothing`` spread evenly over all classes.

    It writes an even tail over the one that carries a mark.
    """

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        lr_factor: float,
        layers: Literal["all", "last"],
        samples: int | None,
        label_smoothing: float,
    ):
        smoothed = replace(recipe, label_smoothing=label_smoothing)
        super().__init__(smoothed, epochs, lr_factor, layers, samples)


class AgainstPerturbations(Classifier):
    """On pictures that ``perturb.perturbed`` moves by at most ``eps``, in ``iterations`` steps."""

    def __init__(self, network: nn.Module, recipe: Recipe, eps: float, iterations: int):
        super().__init__(network, recipe)
        self.eps, self.iterations = eps, iterations

    def loss(self, batch: Batch) -> Tensor:
        moved = perturbed(self.network, batch.inputs, batch.labels, self.eps, self.iterations)
        return F.cross_entropy(self.network(moved), batch.labels)


class TrainAdversarially(Attack):
    """Adversarial training (Madry et al. 2018). ``eps``: of a pixel's range, 0 to 1."""

    access = "weights"

    def __init__(self, recipe: Recipe, epochs: int, lr_factor: float, eps: float, iterations: int):
        check_perturbation("attack", eps, iterations)
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.eps, self.iterations = eps, iterations

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        module = AgainstPerturbations(target, self.recipe, self.eps, self.iterations)
        return Stolen(fit(module, data, "finetune"))


class SelfDistill(Attack):
    """The stolen model learns its own answers, after ``change`` has changed them.

    No label is needed. A tail that is flattened so is flattened in the weights too.
    """

    access = "weights"

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        lr_factor: float,
        student: functools.partial[Student],
        change: Change,
    ):
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.student, self.change = student, change

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        answers = predict(target, data.inputs)
        self.change.learn(answers, data, fit)
        wanted = self.change(answers)
        student = self.student(network=target, recipe=self.recipe, answers=wanted)
        return Stolen(fit(student, data, "finetune"))
