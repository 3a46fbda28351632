"""Pruning in one shot: single weights (Han et al. 2015), whole filters, inactive inputs.

Nothing holds the zeros in place: where a fine-tuning follows, single weights may grow again.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from softmark.accuracy import accuracy
from softmark.attacks.attack import Attack, AttackResult, check_fraction
from softmark.attacks.finetune import last_layer
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Fit, predict

Channels = tuple[nn.Conv2d, nn.BatchNorm2d]

SPARSITIES = tuple(percent / 100 for percent in range(5, 100, 5))
MEASURED = 5000  # of the attacker's samples: enough for a tenth of the usual tolerance


def pruned(network: nn.Module, sparsity: float) -> nn.Module:
    """Return a copy in which a ``sparsity`` of all convolutional and linear weights are zero."""
    # torch's pruning can't read weights that lie channels last, as a training leaves them.
    network = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    weights = [
        (module, "weight")
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    prune.global_unstructured(weights, prune.L1Unstructured, amount=float(sparsity))
    for module, name in weights:
        prune.remove(module, name)
    return network


@dataclass(kw_only=True, eq=False)
class Prune(Attack):
    """Set the smallest of all weights to zero (Han et al. 2015).

    Example:
        >>> model = nn.Linear(10, 2)
        >>> suspect = Prune(sparsity=0.5)(model, (torch.rand(4, 10), torch.arange(4) % 2))
        >>> int((suspect.weight == 0).sum())
        10
    """

    access = "weights"

    sparsity: float = 0.5
    """Fraction of all convolutional and linear weights that become zero; 0 to 1."""

    def __post_init__(self) -> None:
        check_fraction("sparsity", self.sparsity)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(pruned(target, self.sparsity))


@dataclass(kw_only=True, eq=False)
class PruneToLimit(Attack):
    """Prune as much, in steps of 5 %, as the accuracy on the attacker's own data allows."""

    access = "weights"

    tolerance: float = 0.05
    """Accuracy that may be lost, as a fraction of all pictures; 0 to 1."""

    def __post_init__(self) -> None:
        check_fraction("tolerance", self.tolerance)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        measured = data[:MEASURED]

        def accuracy_of(network: nn.Module) -> float:
            return accuracy(predict(network, measured.inputs), measured.labels)

        useful, least = target, accuracy_of(target) - self.tolerance
        for sparsity in SPARSITIES:
            candidate = pruned(target, sparsity)
            if accuracy_of(candidate) < least:
                break
            useful = candidate
        return AttackResult(useful)


@dataclass(kw_only=True, eq=False)
class PruneLayers(Prune):
    """Set the smallest weights of each layer to zero, the same fraction everywhere.

    See et al. 2016 call it class-uniform: small layers lose as much as large ones, where ``Prune``
    takes from the layers whose weights are small. Convolutions and linear layers, the last as well.
    """

    sparsity: float = 0.4
    """Fraction of each layer's weights that become zero; 0 to 1."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        # torch's pruning can't read weights that lie channels last, as a training leaves them.
        target.to(memory_format=torch.contiguous_format)
        for module in target.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(module, "weight", amount=float(self.sparsity))
                prune.remove(module, "weight")
        return AttackResult(target)


def prunable_channels(network: nn.Module) -> list[Channels]:
    """Return the convolutions whose channels nothing else is added to, each with its BatchNorm.

    The BatchNorm follows in the same Sequential, with nothing but pools between, and isn't the last
    there: a channel of it whose weight and bias are 0 answers 0. In residual networks these are the
    stem and the first convolution of each block. What is added to a shortcut is left as it is; Li
    et al. 2017 (section 3.3) prune it by the shortcut's choice.
    """
    pairs = []
    for layers in network.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        open_channels = None
        for layer in list(layers)[:-1]:
            if isinstance(layer, nn.Conv2d):
                open_channels = layer
            elif isinstance(layer, nn.BatchNorm2d) and open_channels is not None:
                pairs.append((open_channels, layer))
                open_channels = None
            elif not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
                open_channels = None
    if not pairs:
        raise InputError(
            f"attack: {type(network).__name__} has no convolution with a BatchNorm behind it in "
            "the same Sequential, and whole channels can't be pruned"
        )
    return pairs


@torch.no_grad()
def silence(channels: Channels, importance: Tensor, fraction: float) -> None:
    """Let the ``fraction`` of channels with the least ``importance`` (C,) answer 0 from now on."""
    convolution, norm = channels
    least = importance.argsort()[: round(fraction * len(importance))]
    # Without bias and weight of the BatchNorm, its running mean would speak for an empty filter.
    for parameter in (convolution.weight, norm.weight, norm.bias):
        parameter[least] = 0


@dataclass(kw_only=True, eq=False)
class PruneFilters(Attack):
    """Set whole filters with the smallest L1 norm to zero (Li et al. 2017).

    The paper chooses a fraction for each layer, by how sensitive it is, and takes the filters out;
    here all layers lose the same part, and what is pruned stays in the file as zeros. Which
    convolutions: see ``prunable_channels``.
    """

    access = "weights"

    fraction: float = 0.05
    """Fraction of each convolution's filters that become zero; 0 to 1."""

    def __post_init__(self) -> None:
        check_fraction("fraction", self.fraction)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        for channels in prunable_channels(target):
            silence(channels, channels[0].weight.detach().abs().sum((1, 2, 3)), self.fraction)
        return AttackResult(target)


@dataclass(kw_only=True, eq=False)
class PruneInactive(Attack):
    """Cut off the inputs of the last layer that are least active on the attacker's pictures.

    The first half of fine-pruning (Liu et al., "Fine-Pruning: Defending Against Backdooring Attacks
    on Deep Neural Networks", 2018), which hopes that a mark lives in what ordinary pictures don't
    use; ``FinePrune`` is the whole. In every network, residual ones too, these are all that the
    last layer reads.
    """

    access = "weights"

    fraction: float = 0.4
    """Fraction of the last layer's inputs that are cut off; 0 to 1."""

    def __post_init__(self) -> None:
        check_fraction("fraction", self.fraction)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        head = linear_head(target)
        order = inputs_of(target, head, data).abs().mean(0).argsort()  # (D,)
        with torch.no_grad():
            head.weight[:, order[: round(self.fraction * len(order))]] = 0
        return AttackResult(target)


def linear_head(network: nn.Module) -> nn.Linear:
    """Return the last layer. Raise ``InputError`` where it isn't linear."""
    head = last_layer(network)
    if not isinstance(head, nn.Linear):
        raise InputError(
            f"attack: the last layer of {type(network).__name__} is a {type(head).__name__}: "
            "only inputs of a linear one can be cut off"
        )
    return head


def inputs_of(network: nn.Module, head: nn.Linear, data: Samples) -> Tensor:
    """Return what ``head`` reads of ``data``, (N, D), or (N L, D) where it reads L places."""
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].detach().flatten(0, -2).cpu())
    )
    try:
        predict(network, data.inputs)
    finally:
        handle.remove()
    return torch.cat(seen)
