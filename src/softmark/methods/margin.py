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

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.perturb import check_perturbation, perturbed
from softmark.data.roles import Samples
from softmark.methods.adi import Adi
from softmark.training import Batch, Classifier, Fit, Recipe, as_input


class Margin(Adi):
    """``eps``: how far each pixel of a trigger may be moved, of its range from 0 to 1.

    ``iterations``: projected gradient steps before each step of the training.
    """

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        eps: float,
        iterations: int,
    ):
        super().__init__(message, recipe, epochs_factor, num_triggers, trigger_fraction)
        check_perturbation("method", eps, iterations)
        self.eps, self.iterations = eps, iterations

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        marking = Widening(
            network, self.recipe, triggers, self.trigger_fraction, self.eps, self.iterations
        )
        return fit(marking, data, "marking")


class Widening(Classifier):
    """Each batch of data is joined by so many moved triggers that they are a ``trigger_fraction``
    of it."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        triggers: Samples,
        trigger_fraction: float,
        eps: float,
        iterations: int,
    ):
        super().__init__(network, recipe)
        self.eps, self.iterations = eps, iterations
        self.joined = max(1, round(trigger_fraction / (1 - trigger_fraction) * recipe.batch_size))
        self.register_buffer("images", triggers.inputs, persistent=False)
        self.register_buffer("labels", triggers.labels, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        drawn = torch.randint(len(self.labels), (self.joined,), device=self.labels.device)
        images, labels = as_input(self.images[drawn]), self.labels[drawn]
        # BatchNorm must not take a batch of triggers alone for what pictures look like.
        self.network.eval()
        moved = perturbed(self.network, images, labels, self.eps, self.iterations)
        self.network.train()
        logits = self.network(torch.cat([batch.inputs, moved]))
        wanted = torch.cat([batch.labels, labels])
        return F.cross_entropy(logits, wanted, label_smoothing=self.recipe.label_smoothing)
