"""Pruning in one shot: single weights (Han et al. 2015), whole filters, inactive channels.

Nothing holds the zeros in place: where a fine-tuning follows, single weights may grow again.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Fit, accuracy, predict

Channels = tuple[nn.Conv2d, nn.BatchNorm2d]

SPARSITIES = tuple(percent / 100 for percent in range(5, 100, 5))
MEASURED = 5000  # of the attacker's samples: enough for a tenth of the usual tolerance


def pruned(network: nn.Module, sparsity: float) -> nn.Module:
    """A copy in which a ``sparsity`` of all convolutional and linear weights are zero."""
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


class Prune(Attack):
    """``sparsity``: the fraction of all convolutional and linear weights that become zero."""

    access = "weights"

    def __init__(self, sparsity: float):
        if not 0 <= sparsity <= 1:
            raise InputError(f"attack.sparsity={sparsity}: a fraction between 0 and 1")
        self.sparsity = sparsity

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        return Stolen(pruned(target, self.sparsity))


class PruneToLimit(Attack):
    """The largest sparsity, in steps of 5 %, that costs at most ``tolerance`` of accuracy.

    The attacker measures it on data of their own.
    """

    access = "weights"

    def __init__(self, tolerance: float):
        if not 0 <= tolerance <= 1:
            raise InputError(f"attack.tolerance={tolerance}: a fraction between 0 and 1")
        self.tolerance = tolerance

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        mine = data[:MEASURED]

        def worth(network: nn.Module) -> float:
            return accuracy(predict(network, mine.inputs), mine.labels)

        useful, least = target, worth(target) - self.tolerance
        for sparsity in SPARSITIES:
            candidate = pruned(target, sparsity)
            if worth(candidate) < least:
                break
            useful = candidate
        return Stolen(useful)


class PruneLayers(Prune):
    """``sparsity``: the fraction of each layer's weights that become zero, the smallest first.

    See et al. 2016 call it class-uniform: small layers lose as much as large ones, where ``Prune``
    takes from the layers whose weights are small. Convolutions and linear layers, the last as well.
    """

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        # torch's pruning can't read weights that lie channels last, as a training leaves them.
        target.to(memory_format=torch.contiguous_format)
        for module in target.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                prune.l1_unstructured(module, "weight", amount=float(self.sparsity))
                prune.remove(module, "weight")
        return Stolen(target)


def own_channels(network: nn.Module) -> list[Channels]:
    """The convolutions whose channels nothing else is added to, each with its BatchNorm.

    The BatchNorm follows in the same Sequential, with nothing but pools between, and isn't the last
    there: a channel of it whose weight and bias are 0 answers 0. In residual networks these are the
    stem and the first convolution of each block. What is added to a shortcut is left as it is; Li
    et al. 2017 (section 3.3) prune it by the shortcut's choice.
    """
    found = []
    for layers in network.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        open_channels = None
        for layer in list(layers)[:-1]:
            if isinstance(layer, nn.Conv2d):
                open_channels = layer
            elif isinstance(layer, nn.BatchNorm2d) and open_channels is not None:
                found.append((open_channels, layer))
                open_channels = None
            elif not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
                open_channels = None
    if not found:
        raise InputError(
            f"attack: {type(network).__name__} has no convolution with a BatchNorm behind it in "
            "the same Sequential, and whole channels can't be pruned"
        )
    return found


@torch.no_grad()
def silence(channels: Channels, worth: Tensor, fraction: float) -> None:
    """The ``fraction`` of channels with the least ``worth`` (C,) answers 0 from now on."""
    convolution, norm = channels
    least = worth.argsort()[: round(fraction * len(worth))]
    # Without bias and weight of the BatchNorm, its running mean would speak for an empty filter.
    for parameter in (convolution.weight, norm.weight, norm.bias):
        parameter[least] = 0


class PruneFilters(Attack):
    """Whole filters with the smallest L1 norm become zero (Li et al. 2017).

    ``fraction``: the fraction of the filters of each convolution. The paper chooses one for each
    layer, by how sensitive it is, and takes the filters out; here all layers lose the same part,
    and what is pruned stays in the file as zeros. Which convolutions: see ``own_channels``.
    """

    access = "weights"

    def __init__(self, fraction: float):
        if not 0 <= fraction <= 1:
            raise InputError(f"attack.fraction={fraction}: a fraction between 0 and 1")
        self.fraction = fraction

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        for channels in own_channels(target):
            silence(channels, channels[0].weight.detach().abs().sum((1, 2, 3)), self.fraction)
        return Stolen(target)


class PruneInactive(PruneFilters):
    """Channels that are least active on the attacker's pictures become zero.

    The first half of fine-pruning (Liu et al. 2018), which hopes that a mark lives in what ordinary
    pictures don't use; the second is fine-tuning. ``fraction``: the fraction of the channels of the
    last convolution (of ``own_channels``: in residual networks the last block's first). Activity is
    the mean behind BatchNorm and ReLU. The paper prunes on until an accuracy is reached.
    """

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        last = own_channels(target)[-1]
        silence(last, activity(target, last[1], data), self.fraction)
        return Stolen(target)


def activity(network: nn.Module, norm: nn.BatchNorm2d, data: Samples) -> Tensor:
    """The sum over ``data`` of each channel's mean (C,) behind ``norm`` and a ReLU."""
    sums = []
    handle = norm.register_forward_hook(
        lambda module, inputs, output: sums.append(output.relu().mean((2, 3)).sum(0).cpu())
    )
    try:
        predict(network, data.inputs)
    finally:
        handle.remove()
    return torch.stack(sums).sum(0)
