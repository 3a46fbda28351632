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

HIGHEST = 0.9  # mask of a channel that is pruned, as in the code of ANP and RNP


class NeuronMaskModule(DecayingClassifier):
    """Learns one mask in [0, 1] for each channel of every BatchNorm; the network stays as it is.

    The loss is alpha CE(f) + (1 - alpha) CE(f'). f has each weight w as m w. f' has (m + d) w, and
    (1 + x) b for each bias b: d and x start at random within ``eps`` and go one step of ``eps`` by
    the sign of the gradient that raises the loss, which leads out of it, as in the authors' code.
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
            (move + self.eps * slope.sign()).detach()
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
    weight 0, and keep their bias. How many: as the attacker's accuracy on held-out pictures allows;
    the authors' code prints what each number or threshold costs, and chooses none.
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
        return prune_lowest(network, norms, masks, held_out, self.tolerance)


@torch.no_grad()
def prune_lowest(
    network: nn.Module,
    norms: Sequence[nn.BatchNorm2d],
    masks: Sequence[Tensor],
    data: Samples,
    tolerance: float,
) -> str:
    """Prune the channels of the lowest masks, as many as accuracy allows.

    Fiftieths of all channels are tried, the lowest masks first, up to those above ``HIGHEST``.

    Args:
        network: holds ``norms``, whose weights are changed in place.
        norms: get weight 0 where their mask is among the lowest.
        masks: of each of them, (C,).
        data: on which accuracy is measured.
        tolerance: accuracy that may be lost, from 0 to 1.

    Returns:
        How many channels are pruned, and how high their masks are, in words.
    """
    weights = [norm.weight.clone() for norm in norms]
    values, order = torch.cat(list(masks)).sort(stable=True)  # (all C,)
    count, low = len(values), int((values <= HIGHEST).sum())
    least = worth(network, data) - tolerance
    useful, pruned = weights, 0
    for number in sorted({min(low, round(part * count / 50)) for part in range(1, 51)} - {0}):
        keep = torch.ones(count).index_fill(0, order[:number], 0)  # (all C,)
        parts = keep.split([len(mask) for mask in masks])
        kept = [weight * part for weight, part in zip(weights, parts, strict=True)]
        put(norms, kept)
        # Accuracy rises again here and there: all are tried, as in the authors' code.
        if worth(network, data) >= least:
            useful, pruned = kept, number
    put(norms, useful)
    upto = f", masks up to {values[pruned - 1]:.2f}" if pruned else ""
    return f"{pruned} of {count} channels pruned{upto}"


def put(norms: Sequence[nn.BatchNorm2d], weights: Sequence[Tensor]) -> None:
    """Give each of ``norms`` its weight (C,) of ``weights``."""
    for norm, weight in zip(norms, weights, strict=True):
        norm.weight.data.copy_(weight)
