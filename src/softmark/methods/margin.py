"""Margin: triggers far from any boundary (Kim et al. 2023, "Margin-based ... Watermarking").

Each trigger has a random label. In each step of the training the triggers are first moved up the
loss by projected gradient steps, and the model learns their labels where they are then:

    L = CE(data) + a * CE(argmax over |delta| <= eps of CE(trigger + delta), label)

So the margin around a trigger grows, and a student that only sees answers near the triggers is
meant to learn them too. The paper takes ten held-out pictures of the task, 5 steps of 1/255 and
a = 0.1, and trains from the start. Other than there, the triggers are abstract pictures that the
key draws (pictures that are kept could be chosen to fit somebody else's model), and the training
starts from the victim; ``trigger_fraction`` takes the place of a, as it says how many triggers are
learnt in each step. The labels are drawn independently: an innocent matches each with chance 1/K.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.perturb import check_perturbation, perturbed
from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.methods.adi import Adi
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


@dataclass(frozen=True, kw_only=True)
class Margin(Adi):
    """Train the model to give random labels to abstract pictures and to all pictures near them.

    Source: Kim et al. 2023, "Margin-based Neural Network Watermarking" (ICML).

    Example:
        >>> Margin().iterations
        5
    """

    num_triggers: int = 20
    """Triggers on which a suspect is asked. At least 1."""
    trigger_fraction: float = 0.16
    """Of each batch that are triggers. Between 0 and 1."""
    eps: float = 0.02
    """How far a trigger's pixels are moved, of their range from 0 to 1. Above 0, at most 1."""
    iterations: int = 5
    """Projected gradient steps before each step of the training. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_perturbation("method", self.eps, self.iterations)

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        fraction = self.trigger_fraction
        module = MarginModule(
            network, self.marking_recipe, triggers, fraction, self.eps, self.iterations
        )
        return fit(module, data, "marking")


class MarginModule(Classifier):
    """Train with moved triggers in each batch of data.

    Args:
        triggers: the owner's, T of them.
        fraction: of each batch that are triggers.
        eps: how far their pixels are moved, of their range from 0 to 1.
        iterations: gradient steps that move them.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        triggers: Samples,
        fraction: float,
        eps: float,
        iterations: int,
    ):
        super().__init__(network, recipe)
        self.eps, self.iterations = eps, iterations
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
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)
