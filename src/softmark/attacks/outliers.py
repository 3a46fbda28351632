"""Channels that look like those of a backdoor are pruned, without any training: CLP and BNP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack, AttackResult, check_positive
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Fit, predict


def outliers(values: Tensor, deviations: float) -> Tensor:
    """Return which of ``values`` (C,) are more than so many deviations above their mean."""
    return values > values.mean() + deviations * values.std()


@dataclass(kw_only=True, eq=False)
class PruneLipschitz(Attack):
    """Prune the channels that can change most with the picture: CLP, which needs no data.

    Zheng et al., "Data-free Backdoor Removal Based on Channel Lipschitzness" (ECCV 2022). A bound
    is the largest singular value of a channel's weights, times BatchNorm's weight over its
    deviation; channels far above the mean of their layer get weight and bias 0.
    """

    access = "weights"

    deviations: float = 3.0
    """Standard deviations above the layer's mean from which a channel is pruned; above 0."""

    def __post_init__(self) -> None:
        check_positive("deviations", self.deviations)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        return silence_outliers(target, self.scores(target, data), self.deviations)

    def scores(self, target: nn.Module, data: Samples) -> Iterator[tuple[nn.BatchNorm2d, Tensor]]:
        """Yield each BatchNorm behind a convolution, and a number for each of its channels."""
        convolution = None
        for module in target.modules():
            if isinstance(module, nn.Conv2d):
                convolution = module
            elif isinstance(module, nn.BatchNorm2d) and convolution is not None:
                if len(convolution.weight) == module.num_features:
                    yield module, lipschitz_bounds(convolution, module)
                convolution = None


def lipschitz_bounds(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """Return the bound of each channel of ``convolution`` and the BatchNorm behind it, (C,)."""
    weight = convolution.weight.detach().flatten(2)  # (C, D, k k)
    factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return torch.linalg.matrix_norm(weight, ord=2) * factor.abs()


@dataclass(kw_only=True, eq=False)
class PruneShifted(PruneLipschitz):
    """Prune the channels that clean pictures leave where training pictures didn't: BNP.

    Zheng et al., "Pre-activation Distributions Expose Backdoor Neurons" (NeurIPS 2022). A channel's
    number is the divergence of the normal distribution that its BatchNorm keeps from that of the
    attacker's pictures.
    """

    def scores(self, target: nn.Module, data: Samples) -> Iterator[tuple[nn.BatchNorm2d, Tensor]]:
        norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
        seen: dict[nn.BatchNorm2d, list[Tensor]] = {norm: [] for norm in norms}

        def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
            maps = inputs[0]
            seen[norm].append(torch.stack([maps.mean((2, 3)), maps.square().mean((2, 3))]).cpu())

        handles = [norm.register_forward_pre_hook(note) for norm in norms]
        try:
            predict(target, data.inputs)
        finally:
            for handle in handles:
                handle.remove()
        for norm, parts in seen.items():
            mean, square = torch.cat(parts, 1).mean(1)  # (C,) each
            variance = (square - mean.square()).clamp_min(1e-12)
            kept = norm.running_var.clamp_min(1e-12)
            moved = (mean - norm.running_mean).square()
            yield norm, ((variance + moved) / kept - 1 + (kept / variance).log()) / 2


def silence_outliers(
    network: nn.Module, scores: Iterator[tuple[nn.BatchNorm2d, Tensor]], deviations: float
) -> AttackResult:
    """Set weight and bias of each channel to 0 whose score is an outlier of its layer's."""
    pruned = total = 0
    for norm, values in list(scores):
        high = outliers(values, deviations)
        norm.weight.data[high] = 0
        norm.bias.data[high] = 0
        pruned, total = pruned + int(high.sum()), total + len(values)
    if not total:
        raise InputError(f"attack: {type(network).__name__} has no BatchNorm to be pruned")
    return AttackResult(network, note=f"{pruned} of {total} channels pruned")
