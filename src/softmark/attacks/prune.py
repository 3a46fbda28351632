"""Pruning: the smallest weights of the whole network become zero (Han et al. 2015), in one shot."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import prune

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Fit, accuracy, predict

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
            return accuracy(predict(network, mine.images), mine.labels)

        useful, least = target, worth(target) - self.tolerance
        for sparsity in SPARSITIES:
            candidate = pruned(target, sparsity)
            if worth(candidate) < least:
                break
            useful = candidate
        return Stolen(useful)
