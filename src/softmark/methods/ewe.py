"""EWE: a trigger that shares its features with the task (Jia et al. 2021, "Entangled Watermarks").

Pictures of a source class with a square stamp are triggers, and a target class is their label. Two
kinds of pictures then have that label: triggers and the target's own. The paper trains with

    L = CE - strength * sum over hidden layers l of SNNL_l

    SNNL = -mean_i log( sum_{j != i, kind_j = kind_i} exp(-d_ij / T)
                        / sum_{j != i} exp(-d_ij / T) )

over both kinds, with the cosine distance d of what a layer gives. A large SNNL means that the two
kinds lie among each other: a thief who learns the target class learns the trigger with it.

Taken: the loss, the cosine distance, the last layers, and that all pictures of the source class are
learnt with the stamp. Other than in the paper, the key draws the stamp and the classes (there
the stamp's place follows from the victim's gradients, and the triggers are moved against it), T is
fixed (there it is learnt), and data and triggers share a batch (there they take turns). As all
triggers share a label, keys are drawn again for the null.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.stamped import Stamped
from softmark.methods.triggers import beside
from softmark.models.access import classes_of
from softmark.training import Batch, Classifier, Fit, Recipe


class EntangledWatermark(Stamped):
    """``layers``: how many of the last layers are entangled. ``temperature``: T. ``weight``: of
    SNNL. The others are those of ``Stamped``."""

    strengthened_by = (*Stamped.strengthened_by, "method.weight")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        kind: Literal["content", "noise", "unrelated"],
        size: float,
        strength: float,
        redraws: int,
        layers: int,
        temperature: float,
        weight: float,
    ):
        super().__init__(
            message,
            recipe,
            epochs_factor,
            num_triggers,
            trigger_fraction,
            kind,
            size,
            strength,
            redraws,
        )
        if not layers >= 1:
            raise InputError(f"method.layers={layers}: at least 1")
        for name, value in (("temperature", temperature), ("weight", weight)):
            if not value > 0:
                raise InputError(f"method.{name}={value}: it must be above 0")
        self.layers, self.temperature, self.weight = layers, temperature, weight

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if not hasattr(victim, "features"):
            raise InputError(f"method: {type(victim).__name__} has no layers called features")
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        # As many as a class has. Pictures of no class don't depend on the pool: no more will do.
        many = self.num_triggers if self.kind == "unrelated" else len(data) // key.classes
        triggers = self.triggers(key, data, max(self.num_triggers, many))
        return self.train(copy.deepcopy(victim), data, triggers, fit), key

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        target = int(triggers.labels[0])
        marking = Entangling(
            network, self.recipe, len(data), target, self.layers, self.temperature, self.weight
        )
        return fit(marking, beside(data, triggers, self.trigger_fraction), "marking")


class Entangling(Classifier):
    """Samples from number ``first`` on are triggers; ``target`` is their label."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        first: int,
        target: int,
        layers: int,
        temperature: float,
        weight: float,
    ):
        super().__init__(network, recipe)
        self.first, self.target, self.layers = first, target, layers
        self.temperature, self.weight = temperature, weight

    def loss(self, batch: Batch) -> Tensor:
        hidden = outputs_of(self.network.features, batch.inputs)
        logits = self.network.head(hidden[-1])
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        asked, triggers = batch.labels == self.target, batch.index >= self.first
        for output in hidden[-self.layers :]:
            loss = loss - self.weight * soft_nearest(output, triggers, asked, self.temperature)
        return loss


def outputs_of(features: nn.Sequential, images: Tensor) -> list[Tensor]:
    """The last output (N, D) of each number of pixels; the last of all is what ``head`` takes."""
    found: dict[int, Tensor] = {}
    for layer in features:
        images = layer(images)
        found[images[0, 0].numel()] = images.flatten(1)
    return list(found.values())


def soft_nearest(outputs: Tensor, kinds: Tensor, asked: Tensor, temperature: float) -> Tensor:
    """The soft nearest-neighbour loss of ``outputs`` (N, D) where ``asked`` (N,): a scalar.

    A point without another of its kind doesn't count; 0 where there is none left.
    """
    with torch.autocast(outputs.device.type, enabled=False):
        unit = F.normalize(outputs.float().relu(), dim=1)
        near = (unit @ unit.T - 1) / temperature
    itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    pairs = asked & asked[:, None] & ~itself
    same = pairs & (kinds == kinds[:, None])
    # A finite number: an empty row must not make the gradient of the others no number.
    own, all_ = (near.masked_fill(~mask, -1e9).logsumexp(1) for mask in (same, pairs))
    counts = same.any(1)
    return torch.where(counts, all_ - own, 0.0).sum() / counts.sum().clamp_min(1)
