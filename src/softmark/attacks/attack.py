"""The contract of an attack. A new one is one class file here and one YAML in conf/attack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from softmark.accuracy import accuracy
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Access, Answer
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict

RECIPE = Recipe()


@dataclass(frozen=True)
class AttackResult:
    """What the attacker holds afterwards."""

    network: nn.Module
    """The suspect: a network in eval mode."""
    queries: int = 0
    """How many inputs the stolen model was asked for it."""
    key: Any = None
    """A key of the attacker's own (``methods.key.Key``), with which they claim the model."""
    note: str = ""
    """What a reader of the record wants to know, such as the settings that a search has found."""


class Attack:
    """An attacker with data of their own, who never sees the owner's data, key or secret.

    A subclass is a keyword-only dataclass: a field for each key of its YAML, with a sentence below
    it. ``apply`` is what an experiment calls; to attack a module of your own, call the object.

    Attributes:
        access: What of the stolen model the attacker needs: weights, probabilities or labels.
        knows: Whether the attacker knows the method, of which they get an instance without a key.
        innocent: Whether the suspect doesn't derive from the target: a claim on it is a false one.
        merges: Whether ``apply`` takes a list of models that are held, and leaves one.
        takes_pictures: Whether inputs must be pictures: uint8, or floats from 0 to 1.
        transform: A module that ``serve`` uses and that ``apply`` may train; what it has learnt is
            kept with the suspect. None for most.

    Example:
        >>> import torch
        >>> @dataclass(kw_only=True, eq=False)
        ... class Shrink(Attack):
        ...     access = "weights"
        ...     factor: float = 0.5
        ...     def apply(self, target, data, fit):
        ...         for weight in target.parameters():
        ...             weight.data *= self.factor
        ...         return AttackResult(target)
        >>> model = torch.nn.Linear(2, 3)
        >>> suspect = Shrink(factor=0.1)(model, (torch.rand(8, 2), torch.arange(8) % 3))
        >>> bool(torch.allclose(suspect.weight, 0.1 * model.weight))
        True
    """

    access: ClassVar[Access]
    knows: ClassVar[Literal["nothing", "method"]] = "nothing"
    innocent: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    takes_pictures: ClassVar[bool] = False
    transform: nn.Module | None = None

    def apply(self, target: Any, data: Samples, fit: Fit) -> AttackResult:
        """Attack ``target`` with the samples that the attacker has.

        Args:
            target: A network of the attacker's own to change where ``access`` is weights, else a
                ``Query``; a list of them where the attack merges several.
            data: The attacker's samples.
            fit: Trains modules.
        """
        raise NotImplementedError

    def serve(self, answer: Answer) -> Answer:
        """Return the answers that the attacker's interface gives; ``answer`` unless overridden."""
        return answer

    def __call__(
        self, model: nn.Module | Sequence[nn.Module], data: tuple[Tensor, Tensor]
    ) -> nn.Module:
        """Return ``model`` after the attack, as a new module in eval mode on the CPU.

        Args:
            model: Gives logits (N, K) of inputs (N, ...). It isn't changed. Several models for
                attacks that merge them.
            data: The attacker's inputs (N, ...), floats as the model takes them, or uint8 pictures
                (N, C, H, W), of which the model gets floats from 0 to 1; and their labels (N,).

        Returns:
            A module that gives logits, but for attacks that serve other answers than the model's:
            theirs gives the log-probabilities of what is served, without gradients.

        Raises:
            InputError: Where the model or the data can't be attacked so.
        """
        return self.run(model, data).network

    def run(
        self, model: nn.Module | Sequence[nn.Module], data: tuple[Tensor, Tensor]
    ) -> AttackResult:
        """Attack ``model`` as a call does; return what else is known, such as the queries."""
        # By name: no stage's address counts what only such a call needs.
        return import_module("softmark.attacks.eager").run(self, model, data)


@dataclass(kw_only=True, eq=False)
class Keep(Attack):
    """Leave the model as it was stolen: no attack."""

    access = "weights"

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(target)


@dataclass(kw_only=True, eq=False)
class EpochsAttack(Attack):
    """Train something of the stolen model for some epochs; subclasses say what, and how hard."""

    access = "weights"

    recipe: Recipe = RECIPE
    """How the victim was trained: batch size, learning rate, momentum, weight decay, crops."""
    epochs: int = 5
    """Epochs of the training; at least 1."""
    min_steps: int | None = None
    """Steps of the training at least: few pictures are shown in more epochs; None: no bound."""
    max_steps: int | None = None
    """Steps of the training at most, for a quick look, but an epoch; None: no bound."""

    def __post_init__(self) -> None:
        _ = self.tuned
        for name in ("min_steps", "max_steps"):
            steps = getattr(self, name)
            check(steps is None or steps >= 1, name, steps, "at least 1 (or null for no bound)")

    @property
    def tuned(self) -> Recipe:
        """The recipe of this training. Raises ``InputError`` for numbers that can't be."""
        return tuning(self.recipe, self.epochs, 1.0)

    def tuned_for(self, data: Samples, held: int | None = None) -> Recipe:
        """Return the recipe of this training on ``data``, in whole epochs of it.

        Args:
            data: What is trained on.
            held: Samples of which ``epochs`` are counted, where ``data`` are some of them.
        """
        recipe = self.tuned
        steps = max(1, len(data) // recipe.batch_size)  # an epoch's
        epochs = recipe.epochs
        if held is not None and held > len(data):
            epochs = max(1, round(epochs * max(1, held // recipe.batch_size) / steps))
        if self.min_steps is not None:
            epochs = max(epochs, math.ceil(self.min_steps / steps))
        return replace(recipe, epochs=self.at_most(epochs, steps))

    def at_most(self, epochs: int, steps: int) -> int:
        """Return ``epochs`` of ``steps`` steps, or as many as ``max_steps`` allows."""
        if self.max_steps is None:
            return epochs
        return max(1, min(epochs, self.max_steps // steps))


@dataclass(kw_only=True, eq=False)
class TrainingAttack(EpochsAttack):
    """Train the stolen model on; subclasses say how."""

    lr_factor: float = 0.1
    """Peak learning rate over the recipe's; above 0."""

    @property
    def tuned(self) -> Recipe:
        return tuning(self.recipe, self.epochs, self.lr_factor)


def tuning(recipe: Recipe, epochs: int, lr_factor: float) -> Recipe:
    """Return ``recipe`` for ``epochs`` epochs at ``lr_factor`` times its learning rate."""
    check(epochs >= 1, "epochs", epochs, "at least 1")
    check(lr_factor > 0, "lr_factor", lr_factor, "it must be above 0")
    return replace(recipe.scaled(lr=lr_factor), epochs=epochs)


class DecayingClassifier(Classifier):
    """Learns labels at a rate that is multiplied by ``decay`` after each epoch.

    Args:
        network: Inputs (N, ...) to logits (N, K); trained in place.
        recipe: How long and how hard; its learning rate is the first epoch's.
        decay: 1 for a constant rate; None for the recipe's cycle.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, decay: float | None = 1.0):
        super().__init__(network, recipe)
        self.decay = decay

    def rate(self, progress: float) -> float:
        if self.decay is None:
            return super().rate(progress)
        return self.decay ** int(progress * self.epochs)


def adam(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    """Return Adam for the weights of all ``groups``, without a decay of weights."""
    weights = [weight for group in groups for weight in group["params"]]
    # Fused: the others read the number of the step, for which a GPU would have to wait.
    return torch.optim.Adam(weights, lr, fused=True)


def hold_out(data: Samples, fraction: float) -> tuple[Samples, Samples]:
    """Return what the attacker trains on, and the ``fraction`` that they measure on."""
    count = max(1, round(fraction * len(data)))
    return data[count:], data[:count]


def worth(network: nn.Module, samples: Samples) -> float:
    """Return the accuracy of ``network`` on ``samples``."""
    return accuracy(predict(network, samples.inputs), samples.labels)


def check(holds: bool, name: str, value: Any, needed: str) -> None:
    """Raise ``InputError`` about ``attack.NAME`` unless ``holds``; ``needed``: what is right."""
    if not holds:
        raise InputError(f"attack.{name}={value}: {needed}")


def check_fraction(name: str, value: float) -> None:
    """Raise ``InputError`` unless ``value`` lies between 0 and 1, both included."""
    check(0 <= value <= 1, name, value, "a fraction between 0 and 1")


def check_between(name: str, value: float) -> None:
    """Raise ``InputError`` unless ``value`` lies between 0 and 1, both excluded."""
    check(0 < value < 1, name, value, "a fraction between 0 and 1")


def check_positive(name: str, value: float) -> None:
    """Raise ``InputError`` unless ``value`` is above 0."""
    check(value > 0, name, value, "it must be above 0")


def check_not_negative(name: str, value: float) -> None:
    """Raise ``InputError`` unless ``value`` is 0 or above."""
    check(value >= 0, name, value, "it can't be negative")


def check_count(name: str, value: int) -> None:
    """Raise ``InputError`` unless ``value`` is at least 1."""
    check(value >= 1, name, value, "at least 1")
