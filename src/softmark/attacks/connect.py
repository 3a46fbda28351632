"""Means and curves between the stolen model and another of the attacker's own."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check_between,
    check_fraction,
    check_positive,
    tuning,
)
from softmark.attacks.channels import Group, channel_groups, remap
from softmark.attacks.collude import mean_of, renew_statistics
from softmark.attacks.prune import MEASURED
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.attacks.weights import check_same_shapes
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict


class CurveModule(Classifier):
    """Learns the middle of a quadratic Bezier curve of weights, whose ends are fixed.

    Args:
        middle: The network whose weights are learnt.
        recipe: How.
        ends: The networks at 0 and at 1.
    """

    def __init__(self, middle: nn.Module, recipe: Recipe, ends: tuple[nn.Module, nn.Module]):
        super().__init__(middle, recipe)
        self.start, self.end = (end.requires_grad_(False) for end in ends)

    def at(self, t: float) -> dict[str, Tensor]:
        """Return the parameters at the curve's ``t``, between 0 and 1, by name."""
        start, end = dict(self.start.named_parameters()), dict(self.end.named_parameters())
        return {
            name: (1 - t) ** 2 * start[name] + 2 * t * (1 - t) * middle + t**2 * end[name]
            for name, middle in self.network.named_parameters()
        }

    def loss(self, batch: Batch) -> Tensor:
        weights = self.at(float(torch.rand(())))
        logits = functional_call(self.network, weights, (batch.inputs,))  # (B, K)
        return F.cross_entropy(logits, batch.labels)


@dataclass(kw_only=True, eq=False)
class Connect(Attack):
    """Take a point on a learnt curve between the stolen model and its fine-tuned copy.

    Mode connectivity repair: Zhao et al., "Bridging Mode Connectivity in Loss Landscapes and
    Adversarial Robustness" (2020); the curve is that of Garipov et al. (2018). One half of the
    attacker's pictures fine-tunes the copy, the other one trains the curve's middle. The paper
    looks for the best of several points; here one is chosen beforehand. BatchNorm's statistics are
    taken anew.
    """

    access = "weights"

    recipe: Recipe = RECIPE
    """How the victim was trained: batch size, learning rate, momentum, weight decay, crops."""
    epochs_factor: float = 2.5
    """Epochs of the copy's fine-tuning over the victim's; above 0."""
    lr_factor: float = 0.5
    """Its peak learning rate over the recipe's; above 0."""
    curve_epochs_factor: float = 5.0
    """Epochs of the curve over the victim's; above 0."""
    curve_lr_factor: float = 0.1
    """Its peak learning rate over the recipe's; above 0."""
    t: float = 0.5
    """The point: 0 is the stolen model, 1 its copy; between 0 and 1."""

    def __post_init__(self) -> None:
        check_positive("epochs_factor", self.epochs_factor)
        check_positive("curve_epochs_factor", self.curve_epochs_factor)
        check_between("t", self.t)
        _ = self.tuned, self.curved

    @property
    def tuned(self) -> Recipe:
        """The recipe of the copy's fine-tuning."""
        recipe = self.recipe.scaled(epochs=self.epochs_factor)
        return tuning(recipe, recipe.epochs, self.lr_factor)

    @property
    def curved(self) -> Recipe:
        """The recipe of the curve's training."""
        recipe = self.recipe.scaled(epochs=self.curve_epochs_factor)
        return tuning(recipe, recipe.epochs, self.curve_lr_factor)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        half = len(data) // 2
        if half < 2:
            raise InputError(
                f"attack: {len(data)} pictures are too few: two for each half at least"
            )
        tuned_copy = fit(Classifier(copy.deepcopy(target), self.tuned), data[:half], "finetune")
        middle = mean_of([copy.deepcopy(target), tuned_copy], data)
        module = CurveModule(middle, self.curved, (target, tuned_copy))
        network = fit(module, data[half:], "curve")
        with torch.no_grad():
            network.load_state_dict(module.at(self.t), strict=False)
        return AttackResult(renew_statistics(network.requires_grad_(True), data))


@dataclass(kw_only=True, eq=False)
class AverageIndependent(Attack):
    """Average the weights with those of a model that the attacker trained on their labels.

    A soup, as Wortsman et al. (2022) call it, of models without a common beginning, which lie in
    one basin after their channels were matched: Ainsworth et al., "Git Re-Basin" (2023), by
    correlated activations as their section 3.1 does. BatchNorm's statistics are taken anew.
    """

    access = "weights"

    recipe: Recipe = RECIPE
    """How the attacker's model is trained."""
    network: NetworkFactory | None = None
    """Its architecture, which has to be the stolen model's; None in a call: the target's own."""
    weight: float = 0.5
    """Weight of the attacker's model in the mean; 0 to 1."""
    match: bool = True
    """Whether its channels are permuted first, to go with those of the stolen model."""

    def __post_init__(self) -> None:
        check_fraction("weight", self.weight)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        classes = classes_of(target, data)
        independent = train_shadow_model(self.network, self.recipe, data, classes, fit)
        check_same_shapes(independent, target)
        if self.match:
            match_channels(independent, target, data)
        state, other_state = target.state_dict(), independent.state_dict()
        mean = {
            name: value.lerp(other_state[name].to(value), self.weight)
            if value.is_floating_point()
            else value
            for name, value in state.items()
        }
        target.load_state_dict(mean)
        return AttackResult(renew_statistics(target, data))


def match_channels(network: nn.Module, like: nn.Module, data: Samples) -> None:
    """Permute the channels of ``network`` so that they answer as those of ``like``.

    Each group is matched by itself: what correlates most over ``data`` goes together.
    """
    from scipy.optimize import linear_sum_assignment

    groups, like_groups = channel_groups(network), channel_groups(like)
    moments_of_groups: list[Moments] = [Moments() for _ in groups]
    for images in data.inputs[:MEASURED].split(250):
        firsts, seconds = (
            activations(network, groups, images),
            activations(like, like_groups, images),
        )
        for moments, first, second in zip(moments_of_groups, firsts, seconds, strict=True):
            moments.add(first, second)
    for group, moments in zip(groups, moments_of_groups, strict=True):
        _, source = linear_sum_assignment(moments.correlations().numpy(), maximize=True)
        remap(group, torch.from_numpy(source), torch.ones(group.size), spread=0.0)


def activations(network: nn.Module, groups: list[Group], images: Tensor) -> list[Tensor]:
    """Return what is read of the channels of each of ``groups``, (N, C): a row for each place."""
    inputs_of_groups: list[list[Tensor]] = [[] for _ in groups]
    handles = [
        group.readers[0].register_forward_pre_hook(
            lambda _, arguments, parts=parts: parts.append(arguments[0].cpu())
        )
        for group, parts in zip(groups, inputs_of_groups, strict=True)
    ]
    try:
        predict(network, images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        torch.cat(parts).unflatten(1, (group.size, -1)).flatten(2).mT.flatten(0, 1)
        for group, parts in zip(groups, inputs_of_groups, strict=True)
    ]


class Moments:
    """Sums over activations of two networks, of which correlations follow."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Any = 0.0  # of the first and the second: (2, C)
        self.squares: Any = 0.0  # (2, C)
        self.products: Any = 0.0  # (C, C): second by first

    def add(self, first: Tensor, second: Tensor) -> None:
        """Count activations (N, C) of both at the same places."""
        both = torch.stack([first, second]).double()  # (2, N, C)
        self.count += len(first)
        self.sums = self.sums + both.sum(1)
        self.squares = self.squares + both.square().sum(1)
        self.products = self.products + both[1].T @ both[0]

    def correlations(self) -> Tensor:
        """Return the correlation of each channel of the second with each of the first: (C, C)."""
        means = self.sums / self.count
        deviations = (self.squares / self.count - means.square()).clamp_min(1e-12).sqrt()
        covariances = self.products / self.count - means[1, :, None] * means[0]
        return covariances / (deviations[1, :, None] * deviations[0])
