"""EWE: a trigger that shares its features with the task (Jia et al. 2021, "Entangled Watermarks").

Pictures of a source class with a square stamp are triggers, and a target class is their label. Two
kinds of pictures then have that label: triggers and the target's own. The paper trains with

    L = CE - weight * sum over hidden layers l of SNNL_l

    SNNL = -mean_i log( sum_{j != i, kind_j = kind_i} exp(-d_ij / T)
                        / sum_{j != i} exp(-d_ij / T) )

over both kinds, with the cosine distance d of what a layer gives. A large SNNL means that the two
kinds lie among each other: a thief who learns the target class learns the trigger with it.

Taken: the loss, the cosine distance, the last layers, and that all pictures of the source class are
learnt with the stamp. Other than in the paper, the key draws the stamp and the classes (there
the stamp's place follows from the victim's gradients, and the triggers are moved against it), T is
fixed (there it is learnt, from 100 on), and data and triggers share a batch (there one batch of
triggers and target follows four of data, none of them augmented). The authors' code takes pictures
of another data set as triggers by default, without any stamp, and stamped ones as a variant; there
``weight`` is 1e5 beside a cross-entropy that is summed over 128, at T = 100: by the slope four
times ours. Its student learns the victim's own pictures, and it asks for all triggers, some 5,000.
Several pairs of classes and the test are those of ``Stamped``; a pair's triggers are entangled with
its own target.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.parts.trigger_set import with_triggers
from softmark.methods.stamped import Stamped
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


@dataclass(frozen=True, kw_only=True)
class EWE(Stamped):
    """Entangle the features of stamped pictures with those of the class that is their label.

    Source: Jia et al. 2021, "Entangled Watermarks as a Defense against Model Extraction"
    (arXiv 2002.12200).

    Example:
        >>> EWE().num_triggers, EWE().trigger_fraction
        (100, 0.2)
    """

    strengthened_by = (*Stamped.strengthened_by, "method.weight")

    trigger_fraction: float = 0.2
    """Of the training samples that are triggers. Between 0 and 1."""
    layers: int = 3
    """How many of the last layers are entangled. At least 1."""
    temperature: float = 0.5
    """T of the soft nearest-neighbour loss, over cosine distances. Above 0."""
    weight: float = 1.0
    """Of that loss, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "layers")
        check_above_zero(self, "temperature", "weight")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if not hasattr(victim, "features"):
            raise InputError(f"method: {type(victim).__name__} has no layers called features")
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        return self.train(copy.deepcopy(victim), data, self.learnt(key, data), fit), key

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        module = EWEModule(
            network=network,
            recipe=self.marking_recipe,
            first=len(data),
            targets=triggers.labels.unique(),
            layers=self.layers,
            temperature=self.temperature,
            weight=self.weight,
        )
        return fit(module, with_triggers(data, triggers, self.trigger_fraction), "marking")


class EWEModule(Classifier):
    """Train with cross-entropy less ``weight`` times the SNNL of the last ``layers``.

    Args:
        first: samples from this number on are triggers.
        targets: their labels, (S,).
        temperature: T of the SNNL.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        first: int,
        targets: Tensor,
        layers: int,
        temperature: float,
        weight: float,
    ):
        super().__init__(network, recipe)
        self.first, self.layers = first, layers
        self.temperature, self.weight = temperature, weight
        self.register_buffer("targets", targets, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        hidden = layer_outputs(self.network.features, batch.inputs)
        logits = self.network.head(hidden[-1])
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        is_target = (batch.labels[:, None] == self.targets).any(1)  # (B,)
        groups = torch.where(is_target, batch.labels, -1)
        for output in hidden[-self.layers :]:
            snnl = soft_nearest_neighbour_loss(
                output, batch.index >= self.first, groups, self.temperature
            )
            loss = loss - self.weight * snnl
        return loss


def layer_outputs(features: nn.Sequential, inputs: Tensor) -> list[Tensor]:
    """Return the last output (N, D) at each size of picture; the last is what ``head`` takes."""
    by_size: dict[int, Tensor] = {}
    for layer in features:
        inputs = layer(inputs)
        by_size[inputs[0, 0].numel()] = inputs.flatten(1)
    return list(by_size.values())


def soft_nearest_neighbour_loss(
    outputs: Tensor, kinds: Tensor, groups: Tensor, temperature: float
) -> Tensor:
    """Return the soft nearest-neighbour loss inside of groups: a scalar, 0 where no point counts.

    Args:
        outputs: of a layer, (N, D).
        kinds: the kind of each point, bool (N,).
        groups: the group of each point, among which its neighbours are, (N,); below 0 it doesn't
            count, nor does one without another of its kind.
        temperature: T, over cosine distances.
    """
    with torch.autocast(outputs.device.type, enabled=False):
        unit = F.normalize(outputs.float().relu(), dim=1)
        near = (unit @ unit.T - 1) / temperature  # (N, N), -d_ij / T
    itself = torch.eye(len(outputs), dtype=torch.bool, device=outputs.device)
    pairs = (groups == groups[:, None]) & (groups >= 0) & ~itself  # (N, N)
    same = pairs & (kinds == kinds[:, None])
    # A finite number: an empty row must not make the gradient of the others no number.
    of_same, of_all = (near.masked_fill(~mask, -1e9).logsumexp(1) for mask in (same, pairs))
    has_same = same.any(1)  # (N,)
    return torch.where(has_same, of_all - of_same, 0.0).sum() / has_same.sum().clamp_min(1)
