"""Attacks on the weights themselves: fewer bits, noise, decay, and means of several networks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.attacks.attack import (
    Attack,
    AttackResult,
    TrainingAttack,
    check,
    check_count,
    check_not_negative,
    check_positive,
)
from softmark.attacks.collude import mean_of
from softmark.attacks.distill import Distill
from softmark.attacks.shadow import new_network
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict


def weights_of(network: nn.Module, *kinds: type[nn.Module]) -> Iterator[Tensor]:
    """Return the weight of each layer of these kinds, to be changed in place."""
    return (module.weight.data for module in layers_of(network, *kinds))


def layers_of(network: nn.Module, *kinds: type[nn.Module]) -> Iterator[nn.Module]:
    """Return each layer of these kinds."""
    return (module for module in network.modules() if isinstance(module, kinds))


@dataclass(kw_only=True, eq=False)
class Quantise(Attack):
    """Round convolutional and linear weights to few bits, with one scale for each tensor.

    Symmetric and uniform: 2^bits - 1 levels, 0 among them, up to the largest weight, as torch
    rounds for integer arithmetic (Jacob et al. 2018). The quantisation of the Watermark-Robustness-
    Toolbox (Lukas et al. 2022) has 2^bits levels between the least and the largest weight, and
    fine-tunes for an epoch.
    """

    access = "weights"

    bits: int = 4
    """Bits a weight; 2 to 16."""

    def __post_init__(self) -> None:
        check(2 <= self.bits <= 16, "bits", self.bits, "between 2 and 16")

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        for weight in weights_of(target, nn.Conv2d, nn.Linear):
            weight.copy_(quantised(weight, self.bits))
        return AttackResult(target)


def quantised(weight: Tensor, bits: int) -> Tensor:
    """Return ``weight`` rounded to 2^bits - 1 levels; its gradient is as if it weren't."""
    last = 2 ** (bits - 1) - 1
    # A layer of zeros alone, as after pruning, has no scale.
    scale = max(float(weight.detach().abs().max()) / last, 1e-12)
    return torch.fake_quantize_per_tensor_affine(weight, scale, 0, -last, last)


class QuantiseModule(Classifier):
    """Learns the labels with convolutional and linear weights as they will be rounded."""

    def __init__(self, network: nn.Module, recipe: Recipe, bits: int):
        super().__init__(network, recipe)
        self.bits = bits
        rounded = {id(module.weight) for module in layers_of(network, nn.Conv2d, nn.Linear)}
        self.names = [name for name, one in network.named_parameters() if id(one) in rounded]

    def loss(self, batch: Batch) -> Tensor:
        weights = dict(self.network.named_parameters())
        rounded = {name: quantised(weights[name], self.bits) for name in self.names}
        logits = functional_call(self.network, rounded, (batch.inputs,))  # (B, K)
        return F.cross_entropy(logits, batch.labels)


@dataclass(kw_only=True, eq=False)
class QuantiseAware(TrainingAttack):
    """Fine-tune with weights that are rounded in each step, then round them.

    Quantisation-aware training (Jacob et al. 2018): the gradient passes the rounding as if it
    weren't there. Activations aren't rounded. With it fewer bits do than without.
    """

    bits: int = 3
    """Bits a weight; 2 to 16."""

    def __post_init__(self) -> None:
        check(2 <= self.bits <= 16, "bits", self.bits, "between 2 and 16")
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        network = fit(QuantiseModule(target, self.tuned_for(data), self.bits), data, "finetune")
        return Quantise(bits=self.bits).apply(network, data, fit)


@dataclass(kw_only=True, eq=False)
class AddNoise(Attack):
    """Add Gaussian noise to convolutional and linear weights."""

    access = "weights"

    sigma: float = 0.3
    """Standard deviation of the noise over that of the weights of the same tensor; 0 or more."""

    def __post_init__(self) -> None:
        check_not_negative("sigma", self.sigma)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        for weight in weights_of(target, nn.Conv2d, nn.Linear):
            weight += self.sigma * weight.std() * torch.randn_like(weight)
        return AttackResult(target)


@dataclass(kw_only=True, eq=False)
class ShiftWeights(TrainingAttack):
    """Shift each convolution by its mean filter, add noise, then fine-tune.

    Weight shifting of the Watermark-Robustness-Toolbox (Lukas et al. 2022), from its code and with
    its numbers; the mean is over the output channels. The fine-tuning's learning rate is ours.
    """

    epochs: int = 10
    """Epochs of the fine-tuning; at least 1."""
    lr_factor: float = 0.3
    """Peak learning rate over the recipe's; above 0."""
    strength: float = 1.5
    """How many times the mean filter is taken off each; 0 or more."""
    noise: float = 1.0
    """Standard deviation of the noise over that of the layer's weights; 0 or more."""

    def __post_init__(self) -> None:
        check_not_negative("strength", self.strength)
        check_not_negative("noise", self.noise)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        self.shift(target)
        return AttackResult(fit(Classifier(target, self.tuned_for(data)), data, "finetune"))

    def shift(self, network: nn.Module) -> None:
        """Change the weights of ``network`` in place."""
        for weight in weights_of(network, nn.Conv2d):
            noise = self.noise * weight.std() * torch.randn_like(weight)
            weight -= self.strength * weight.mean(0) + noise


@dataclass(kw_only=True, eq=False)
class Regularise(TrainingAttack):
    """Train on with a strong L2 penalty, which shrinks what the labels don't need.

    The first phase of the regularisation attack of the Watermark-Robustness-Toolbox (Lukas et al.
    2022, after Shafieinejad et al. 2021); the second, a repair without the penalty, is a
    fine-tuning of its own.
    """

    lr_factor: float = 0.3
    """Peak learning rate over the recipe's; above 0."""
    weight_decay: float = 0.1
    """Instead of the recipe's; biases and BatchNorm have none; above 0."""

    def __post_init__(self) -> None:
        check_positive("weight_decay", self.weight_decay)
        super().__post_init__()

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, weight_decay=self.weight_decay)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(fit(Classifier(target, self.tuned_for(data)), data, "regularise"))


@dataclass(kw_only=True, eq=False)
class AveragePath(TrainingAttack):
    """Average the weights along a path of fine-tuning.

    After stochastic weight averaging (Izmailov et al. 2018), with cycles: what each of several
    fine-tunings one after another ends with is averaged. Each has the recipe's one cycle of the
    learning rate, where the paper's falls from its peak. BatchNorm's statistics are taken anew, as
    there.
    """

    epochs: int = 2
    """Epochs of each fine-tuning; at least 1."""
    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    rounds: int = 5
    """Fine-tunings, and so networks that are averaged; at least 1."""

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        ends = []
        for number in range(self.rounds):
            target = fit(Classifier(target, self.tuned_for(data)), data, f"finetune-{number + 1}")
            ends.append(copy.deepcopy(target))
        return AttackResult(mean_of(ends, data))


@dataclass(kw_only=True, eq=False)
class AverageStudent(Distill):
    """Average the weights of the stolen model and of a student that learnt its answers.

    The student begins with new weights, so that the two needn't lie in one basin, and their mean
    may be of no use (Frankle et al. 2020 show it for networks without a common beginning). It has
    to be of the stolen model's architecture.
    """

    access = "weights"

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        answers = predict(target, data.inputs)
        network = new_network(self.network, data, answers.shape[1])
        check_same_shapes(network, target)
        module = self.student(network=network, recipe=self.recipe, answers=answers)
        return AttackResult(mean_of([target, fit(module, data, "student")], data))


def check_same_shapes(network: nn.Module, target: nn.Module) -> None:
    """Raise ``InputError`` where the tensors of ``network`` aren't those of ``target``."""
    if shapes(network) != shapes(target):
        raise InputError(
            f"attack.network: a {type(network).__name__} of other layers than the stolen "
            f"{type(target).__name__}: only weights of one architecture have a mean"
        )


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each tensor of ``network`` by its name."""
    return {name: value.shape for name, value in network.state_dict().items()}
