"""Pruning: the smallest weights of the whole network become zero (Han et al. 2015), in one shot."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import prune

from softmark.attacks.attack import Attack, Suspect
from softmark.data import Samples
from softmark.errors import InputError
from softmark.training import Fit


class Prune(Attack):
    """``sparsity``: the fraction of all convolutional and linear weights that become zero."""

    access = "weights"

    def __init__(self, sparsity: float):
        if not 0 <= sparsity <= 1:
            raise InputError(f"attack.sparsity={sparsity}: a fraction between 0 and 1")
        self.sparsity = sparsity

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Suspect:
        weights = [
            (module, "weight")
            for module in target.modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        prune.global_unstructured(weights, prune.L1Unstructured, amount=float(self.sparsity))
        for module, name in weights:
            prune.remove(module, name)
        return Suspect(target)
