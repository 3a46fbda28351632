"""Attacks on the weights themselves: fewer bits, noise, decay, and means of several networks."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.collude import mean_of
from softmark.attacks.distill import Student
from softmark.attacks.finetune import tuning
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.networks import build
from softmark.training import Classifier, Fit, Recipe, predict


def weights_of(network: nn.Module, *kinds: type[nn.Module]) -> Iterator[Tensor]:
    """The weight of each layer of these kinds, to be changed in place."""
    return (module.weight.data for module in network.modules() if isinstance(module, kinds))


class Quantise(Attack):
    """Convolutional and linear weights with ``bits`` bits, one scale for each tensor.

    Symmetric and uniform: 2^bits - 1 levels, 0 among them, up to the largest weight, as torch
    rounds for integer arithmetic (Jacob et al. 2018). The quantisation of the Watermark-Robustness-
    Toolbox (Lukas et al. 2022) has 2^bits levels between the least and the largest weight, and
    fine-tunes for an epoch.
    """

    access = "weights"

    def __init__(self, bits: int):
        if not 2 <= bits <= 16:
            raise InputError(f"attack.bits={bits}: between 2 and 16")
        self.bits = bits

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        last = 2 ** (self.bits - 1) - 1
        for weight in weights_of(target, nn.Conv2d, nn.Linear):
            # A layer of zeros alone, as after pruning, has no scale.
            scale = max(float(weight.abs().max()) / last, 1e-12)
            weight.copy_(torch.fake_quantize_per_tensor_affine(weight, scale, 0, -last, last))
        return Stolen(target)


class AddNoise(Attack):
    """Gaussian noise on convolutional and linear weights.

    ``sigma``: its standard deviation over that of the weights of the same tensor.
    """

    access = "weights"

    def __init__(self, sigma: float):
        if not sigma >= 0:
            raise InputError(f"attack.sigma={sigma}: it can't be negative")
        self.sigma = sigma

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        for weight in weights_of(target, nn.Conv2d, nn.Linear):
            weight += self.sigma * weight.std() * torch.randn_like(weight)
        return Stolen(target)


class ShiftWeights(Attack):
    """Weight shifting of the Watermark-Robustness-Toolbox (Lukas et al. 2022), then fine-tuning.

    Each convolution loses ``strength`` times its mean filter (the mean over its output channels)
    and gets Gaussian noise of ``noise`` times the standard deviation of its weights: from the
    toolbox's code, with its numbers. Length and learning rate of the fine-tuning are ours.
    """

    access = "weights"

    def __init__(
        self, recipe: Recipe, epochs: int, lr_factor: float, strength: float, noise: float
    ):
        if not strength >= 0:
            raise InputError(f"attack.strength={strength}: it can't be negative")
        if not noise >= 0:
            raise InputError(f"attack.noise={noise}: it can't be negative")
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.strength, self.noise = strength, noise

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        self.shift(target)
        return Stolen(fit(Classifier(target, self.recipe), data, "finetune"))

    def shift(self, network: nn.Module) -> None:
        for weight in weights_of(network, nn.Conv2d):
            noise = self.noise * weight.std() * torch.randn_like(weight)
            weight -= self.strength * weight.mean(0) + noise


class Regularise(Attack):
    """Training on with a strong L2 penalty, which shrinks what the labels don't need.

    The first phase of the regularisation attack of the Watermark-Robustness-Toolbox (Lukas et al.
    2022, after Shafieinejad et al. 2021); the second, a repair without the penalty, is a
    fine-tuning of its own. ``weight_decay``: instead of the recipe's; biases and BatchNorm have
    none.
    """

    access = "weights"

    def __init__(self, recipe: Recipe, epochs: int, lr_factor: float, weight_decay: float):
        if not weight_decay > 0:
            raise InputError(f"attack.weight_decay={weight_decay}: it must be above 0")
        self.recipe = replace(tuning(recipe, epochs, lr_factor), weight_decay=weight_decay)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        return Stolen(fit(Classifier(target, self.recipe), data, "regularise"))


class AveragePath(Attack):
    """The mean of the weights along a path of fine-tuning.

    After stochastic weight averaging (Izmailov et al. 2018), with cycles: ``rounds`` fine-tunings
    of ``epochs`` one after another, and what each ends with is averaged. Each has the recipe's one
    cycle of the learning rate, where the paper's falls from its peak. BatchNorm's statistics are
    taken anew, as there.
    """

    access = "weights"

    def __init__(self, recipe: Recipe, rounds: int, epochs: int, lr_factor: float):
        if not rounds >= 1:
            raise InputError(f"attack.rounds={rounds}: at least 1")
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.rounds = rounds

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        ends = []
        for number in range(self.rounds):
            target = fit(Classifier(target, self.recipe), data, f"finetune-{number + 1}")
            ends.append(copy.deepcopy(target))
        return Stolen(mean_of(ends, data))


class AverageStudent(Attack):
    """The mean of the weights of the stolen model and of a student that learnt its answers.

    The student begins with new weights, so that the two needn't lie in one basin, and their mean
    may be of no use (Frankle et al. 2020 show it for networks without a common beginning).
    ``network`` builds the student: the stolen model's own architecture. ``student`` trains it.
    """

    access = "weights"

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
    ):
        self.recipe, self.network, self.student = recipe, network, student

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        answers = predict(target, data.inputs)
        network = build(self.network, data, answers.shape[1])
        if shapes(network) != shapes(target):
            raise InputError(
                f"attack.network: a {type(network).__name__} of other layers than the stolen "
                f"{type(target).__name__}: only weights of one architecture have a mean"
            )
        module = self.student(network=network, recipe=self.recipe, answers=answers)
        return Stolen(mean_of([target, fit(module, data, "student")], data))


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in network.state_dict().items()}
