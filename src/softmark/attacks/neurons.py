"""Adversarial neuron pruning, a repair of networks with a backdoor (Wu and Wang 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    DecayingClassifier,
    EpochsAttack,
    check_between,
    check_fraction,
    check_positive,
    hold_out,
    worth,
)
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.training import Fit

THRESHOLDS = tuple(percent / 100 for percent in range(5, 95, 5))


class NeuronMaskModule(DecayingClassifier):
    """Learns one mask in [0, 1] for each channel of every BatchNorm; the network stays as it is.

    The loss is alpha CE(f) + (1 - alpha) CE(f'). f has each weight w as m w. f' has (m + d) w, and
    (1 + x) b for each bias b: d and x lie within ``eps``, start at random there and go one step of
    ``eps`` by the sign of the gradient that raises the loss.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, eps: float, alpha: float):
        super().__init__(network.requires_grad_(False), recipe)
        self.eps, self.alpha = eps, alpha
        self.norms = {
            name: module
            for name, module in network.named_modules()
            if isinstance(module, nn.BatchNorm2d)
        }
        self.masks = nn.ParameterList([torch.ones_like(n.weight) for n in self.norms.values()])

    def masked(self, batch: Batch, moves: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the cross-entropy with masks, and weights and biases moved by ``moves``."""
        changed = {}
        for (name, norm), mask, (d, x) in zip(self.norms.items(), self.masks, moves, strict=True):
            changed[f"{name}.weight"] = norm.weight * (mask + d)
            changed[f"{name}.bias"] = norm.bias * (1 + x)
        return F.cross_entropy(functional_call(self.network, changed, batch.inputs), batch.labels)

    def worst(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Return moves of each weight and bias that raise the loss."""
        start = [
            tuple(torch.empty_like(m).uniform_(-self.eps, self.eps).requires_grad_() for _ in "dx")
            for m in self.masks
        ]
        flat = [move for pair in start for move in pair]
        slopes = torch.autograd.grad(self.masked(batch, start), flat)
        moved = [
            (move + self.eps * slope.sign()).clamp(-self.eps, self.eps).detach()
            for move, slope in zip(flat, slopes, strict=True)
        ]
        return list(zip(moved[::2], moved[1::2], strict=True))

    def loss(self, batch: Batch) -> Tensor:
        # Each batch has statistics of its own, as in the paper; those of the model stay.
        self.network.eval()
        for norm in self.norms.values():
            norm.train()
            norm.track_running_stats = False
        still = [(torch.zeros_like(m), torch.zeros_like(m)) for m in self.masks]
        hurt = self.masked(batch, self.worst(batch))
        return self.alpha * self.masked(batch, still) + (1 - self.alpha) * hurt

    @torch.no_grad()
    def after_step(self) -> None:
        for mask in self.masks:
            mask.clamp_(0, 1)


@dataclass(kw_only=True, eq=False)
class PruneNeurons(EpochsAttack):
    """Take out the channels that are sensitive to small changes: ANP.

    Wu and Wang, "Adversarial Neuron Pruning Purifies Backdoored Deep Models" (2021).
    ``NeuronMaskModule`` learns which at a constant rate: channels whose masks end low get BatchNorm
    weight 0, and keep their bias. How low: of ``THRESHOLDS``, the highest that the attacker's
    accuracy on held-out pictures allows.
    """

    epochs: int = 1
    """Epochs in which the masks are learnt; at least 1."""
    min_steps: int | None = 2000
    """Steps in which the masks are learnt at least; None: no bound."""
    lr: float = 0.2
    """Learning rate of the masks; above 0."""
    eps: float = 0.4
    """How far weights and biases are moved, over their size; above 0."""
    alpha: float = 0.2
    """Weight of the loss without such moves; 0 to 1."""
    tolerance: float = 0.05
    """Held-out accuracy that may be lost, as a fraction of all pictures; 0 to 1."""
    held_out: float = 0.2
    """Fraction of the attacker's pictures that are held out; between 0 and 1."""

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("eps", self.eps)
        check_fraction("alpha", self.alpha)
        check_fraction("tolerance", self.tolerance)
        check_between("held_out", self.held_out)
        super().__post_init__()

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, lr=self.lr)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        data, held_out = hold_out(data, self.held_out)
        module = NeuronMaskModule(target, self.tuned_for(data), self.eps, self.alpha)
        if not module.norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be pruned")
        network = fit(module, data, "masks")
        for norm in module.norms.values():
            norm.track_running_stats = True
        note = self.prune(network, module, held_out)
        return AttackResult(network.requires_grad_(True), note=note)

    @torch.no_grad()
    def prune(self, network: nn.Module, module: NeuronMaskModule, held_out: Samples) -> str:
        """Prune ``network`` in place; return how much, and at which threshold."""
        norms, masks = list(module.norms.values()), [mask.detach() for mask in module.masks]
        pruned, threshold = prune_lowest(network, norms, masks, held_out, self.tolerance)
        return f"{pruned}, masks below {threshold:g}"


@torch.no_grad()
def prune_lowest(
    network: nn.Module,
    norms: Sequence[nn.BatchNorm2d],
    masks: Sequence[Tensor],
    data: Samples,
    tolerance: float,
) -> tuple[str, float]:
    """Prune the channels of the lowest masks, as many as accuracy allows.

    Args:
        network: holds ``norms``, whose weights are changed in place.
        norms: get weight 0 where their mask is lower than the threshold.
        masks: of each of them, (C,).
        data: on which accuracy is measured.
        tolerance: accuracy that may be lost, from 0 to 1.

    Returns:
        How many channels are pruned, in words, and the threshold, of ``THRESHOLDS``; 0 for none.
    """
    weights = [norm.weight.clone() for norm in norms]
    least = worth(network, data) - tolerance
    useful, chosen = weights, 0.0
    for threshold in THRESHOLDS:
        kept = [weight * (mask >= threshold) for weight, mask in zip(weights, masks, strict=True)]
        put(norms, kept)
        if worth(network, data) < least:
            break
        useful, chosen = kept, threshold
    put(norms, useful)
    low = sum(int((mask < chosen).sum()) for mask in masks)
    return f"{low} of {sum(mask.numel() for mask in masks)} channels pruned", chosen


def put(norms: Sequence[nn.BatchNorm2d], weights: Sequence[Tensor]) -> None:
    """Give each of ``norms`` its weight (C,) of ``weights``."""
    for norm, weight in zip(norms, weights, strict=True):
        norm.weight.data.copy_(weight)
