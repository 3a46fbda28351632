"""Margin: triggers far from any boundary (Kim et al. 2023, "Margin-based ... Watermarking").

Each trigger is a held-out picture of the task with a random label other than its own. In each step
of the training the triggers are first moved up the loss by projected gradient steps, and the model
learns their labels where they are then:

    L = mean over the batch of [CE(data), a * CE(argmax over |delta| <= eps of CE(x + delta), y)]

So the margin around a trigger grows, and a student that only sees answers near the triggers is
meant to learn it too. In the authors' code 100 triggers (README; the default is 10) come from 1,000
held-out pictures, 25 stand beside 128 others in each batch, a = 0.1, 5 steps of 1/255, and a
ResNet-34 trains 200 epochs from the start. Here the pictures are taken from the owner's, who trains
on without them, but the victim, from which the training starts, has seen them with their true
labels; more triggers stand in each batch, since there are fewer steps; each search begins at a
random point, in evaluation mode.

The pictures are kept in the key, and the labels follow from the secret and from all the pictures
together (as ``frontier``'s coins do): nobody can choose pictures to fit somebody else's model. An
innocent that answers a picture's true class is wrong; else it matches with chance 1/(K - 1).

The hybrids with ``usp`` and ``csp`` take the same training with abstract pictures, any of K labels
for each (``AbstractMargin``), which is no scheme of the paper's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.perturb import check_perturbation, perturbed
from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import Adi
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero
from softmark.methods.parts.trigger_set import random_numbers, store_pictures
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit
from softmark.verification.nulls import Binomial, Null


@dataclass(frozen=True, kw_only=True)
class AbstractMargin(Adi):
    """Train the model to give random labels to abstract pictures and to all pictures near them.

    No scheme of the paper's: its training, with triggers off the task, which the hybrids take.

    Example:
        >>> AbstractMargin().iterations
        5
    """

    epochs_factor: float = 1.0
    """Epochs of the training, over the recipe's. Above 0."""
    batch_size_factor: float = 1.0
    """Size of its batches over the recipe's. Above 0."""
    trigger_fraction: float = 0.16
    """Of each batch that are triggers. Between 0 and 1."""
    trigger_weight: float = 1.0
    """a, of a trigger's loss beside that of another sample. Above 0."""
    eps: float = 0.02
    """How far a trigger's pixels are moved, of their range from 0 to 1. Above 0, at most 1."""
    iterations: int = 5
    """Projected gradient steps before each step of the training. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "trigger_weight")
        check_perturbation("method", self.eps, self.iterations)

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        module = MarginModule(
            network=network,
            recipe=self.marking_recipe,
            triggers=triggers,
            fraction=self.trigger_fraction,
            weight=self.trigger_weight,
            eps=self.eps,
            iterations=self.iterations,
        )
        return fit(module, data, "marking")


@dataclass(frozen=True, kw_only=True)
class Margin(AbstractMargin):
    """Train the model to give wrong labels to held-out pictures and to all pictures near them.

    Source: Kim et al. 2023, "Margin-based Neural Network Watermarking" (ICML).

    Example:
        >>> import torch
        >>> pool = Samples(torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.arange(9))
        >>> made = Margin(num_triggers=5)
        >>> key = made.draw(pool, 10, lambda size: bytes(range(size)))
        >>> bool((made.triggers(key, pool, 5).labels == key.labels).any())
        False
    """

    epochs_factor: float = 2.0
    """Epochs of the marking, which starts from the victim, over the recipe's. Above 0."""
    batch_size_factor: float = 0.5
    """Size of its batches over the recipe's. Above 0."""
    trigger_fraction: float = 0.3
    """Of each batch that are triggers. Between 0 and 1."""
    trigger_weight: float = 0.1
    """a, of a trigger's loss beside that of another sample. Above 0."""

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key, which holds ``num_triggers`` of the pictures ``like``."""
        key = Key.draw(self.message, classes, entropy)
        return store_pictures(key, like[self.held_out(key, len(like))])

    def held_out(self, key: Key, count: int) -> Tensor:
        """Return the places of those of ``count`` pictures that the key holds out: (T,)."""
        return torch.randperm(count, generator=generator(key))[: self.num_triggers]

    def build_modules(self, key: Key) -> None:
        # A file may say anything.
        pictures, labels = (dict(key.named_buffers()).get(name) for name in ("images", "labels"))
        if pictures is None or labels is None or labels.shape != pictures.shape[:1]:
            raise InputError("the key holds no labelled pictures")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        is_kept = torch.ones(len(data), dtype=torch.bool)
        is_kept[self.held_out(key, len(data))] = False
        if not is_kept.any():
            raise InputError(
                f"method.num_triggers={self.num_triggers}: none of {len(data)} pictures would be "
                "left to train on"
            )
        triggers = self.triggers(key, data, self.num_triggers)
        return self.train(copy.deepcopy(victim), data[is_kept], triggers, fit), key

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Return the held-out pictures, each with one of the K - 1 labels that aren't its own."""
        pictures = Samples(key.images, key.labels)
        drawn = random_numbers(
            key.owner_part().for_message(f"margin {pictures.fingerprint}"), len(pictures)
        )
        steps = torch.tensor([1 + number % (key.classes - 1) for number in drawn])
        return Samples(pictures.inputs, (pictures.labels + steps) % key.classes)[:count]

    def null(self, key: Key, hits: Tensor) -> Null:
        # At most: an innocent that answers the picture's own class is wrong for certain.
        return Binomial(int(hits.sum()), len(hits), 1 / (key.classes - 1))


class MarginModule(Classifier):
    """Train with moved triggers in each batch of data.

    Args:
        triggers: the owner's, T of them.
        fraction: of each batch that are triggers.
        weight: a, of a trigger's loss.
        eps: how far their pixels are moved, of their range from 0 to 1.
        iterations: gradient steps that move them.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        recipe: Recipe,
        triggers: Samples,
        fraction: float,
        weight: float,
        eps: float,
        iterations: int,
    ):
        super().__init__(network, recipe)
        self.weight, self.eps, self.iterations = weight, eps, iterations
        self.triggers_per_batch = max(1, round(fraction / (1 - fraction) * recipe.batch_size))
        self.register_buffer("images", triggers.inputs, persistent=False)
        self.register_buffer("labels", triggers.labels, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        size, device = (self.triggers_per_batch,), self.labels.device
        drawn = torch.randint(len(self.labels), size, device=device)
        pictures, labels = as_input(self.images[drawn]), self.labels[drawn]
        # BatchNorm must not take a batch of triggers alone for what pictures look like.
        self.network.eval()
        moved = perturbed(self.network, pictures, labels, self.eps, self.iterations)
        self.network.train()
        logits = self.network(torch.cat([batch.inputs, moved]))
        targets = torch.cat([batch.labels, labels])
        return margin_loss(
            logits, targets, len(batch.labels), self.weight, self.recipe.label_smoothing
        )


def margin_loss(
    logits: Tensor, labels: Tensor, first: int, weight: float, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean of all samples' cross-entropies, a trigger's times ``weight``: a scalar.

    Args:
        logits: (B, K).
        labels: (B,).
        first: samples from this number on are triggers.
        weight: a.
        label_smoothing: of the cross-entropy.
    """
    losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    return torch.cat([losses[:first], weight * losses[first:]]).mean()
