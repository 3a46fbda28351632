"""Repairs for networks with a backdoor, turned against a mark.

Neural attention distillation (Li et al. 2021), adversarial neuron pruning (Wu and Wang 2021) and
adversarial unlearning (after Zeng et al. 2022).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    TrainingAttack,
    check,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
)
from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit


def maps_of(network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits, and the last map (N, C, H, W) of each size above one pixel."""
    last: dict[torch.Size, Tensor] = {}

    def note(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if output.ndim == 4 and output.shape[2:].numel() > 1:
            last[output.shape[2:]] = output

    handles = [module.register_forward_hook(note) for module in network.modules()]
    try:
        logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return logits, list(last.values())


def attention(features: Tensor) -> Tensor:
    """Return the attention map (N, H W) of ``features``: squares summed over C, of L2 norm 1."""
    return F.normalize(features.float().square().sum(1).flatten(1))


class AttentionModule(Classifier):
    """Learns the labels, and to look where ``teacher`` looks."""

    def __init__(self, network: nn.Module, recipe: Recipe, teacher: nn.Module, beta: float):
        super().__init__(network, recipe)
        self.teacher = teacher.requires_grad_(False)
        self.beta = beta

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            _, teacher_maps = maps_of(self.teacher.eval(), batch.inputs)
        logits, maps = maps_of(self.network, batch.inputs)
        distances = [
            (attention(features) - attention(shown)).square().sum(1).mean()  # of (B, H W)
            for features, shown in zip(maps, teacher_maps, strict=True)
        ]
        return F.cross_entropy(logits, batch.labels) + self.beta * sum(distances)


@dataclass(kw_only=True, eq=False)
class AttentionDistillation(TrainingAttack):
    """Teach the stolen model to look where a fine-tuned copy of it looks: NAD (Li et al. 2021).

    Neural attention distillation. The teacher was fine-tuned for as long. The loss is cross-entropy
    plus ``beta`` times the squared distance of normalised attention maps, summed over their pixels
    (the paper's code has the mean, which depends on the pictures' size). The paper's maps are the
    outputs of a ResNet's stages; here they are the last map of each size above one pixel, whatever
    module gives it, and all have the same ``beta``.
    """

    epochs: int = 10
    """Epochs of teacher and student each; at least 1."""
    beta: float = 4.0
    """Weight of the attention maps' distance beside the cross-entropy; 0 or more."""

    def __post_init__(self) -> None:
        check_not_negative("beta", self.beta)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        if not maps_of(target, as_input(data.inputs[:1]))[1]:
            raise InputError(f"attack: {type(target).__name__} has no map of more than one pixel")
        teacher = fit(Classifier(copy.deepcopy(target), self.tuned), data, "teacher")
        module = AttentionModule(target, self.tuned, teacher, self.beta)
        return AttackResult(fit(module, data, "student"))


class NeuronMaskModule(Classifier):
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
        # The statistics stay those of the stolen model.
        self.network.eval()
        still = [(torch.zeros_like(m), torch.zeros_like(m)) for m in self.masks]
        hurt = self.masked(batch, self.worst(batch))
        return self.alpha * self.masked(batch, still) + (1 - self.alpha) * hurt

    @torch.no_grad()
    def after_step(self) -> None:
        for mask in self.masks:
            mask.clamp_(0, 1)


@dataclass(kw_only=True, eq=False)
class PruneNeurons(Attack):
    """Take out the channels that are sensitive to small changes: ANP (Wu and Wang 2021).

    Adversarial neuron pruning. ``NeuronMaskModule`` learns which: a channel whose mask ends below
    ``threshold`` gets BatchNorm weight 0, and keeps its bias. The paper's learning rate is
    constant, here it has the recipe's cycle; its networks take BatchNorm's statistics from each
    batch meanwhile, here they keep those that they came with.
    """

    access = "weights"

    recipe: Recipe = RECIPE
    """How the victim was trained: batch size, momentum, weight decay, crops."""
    epochs: int = 20
    """Epochs in which the masks are learnt; at least 1."""
    lr: float = 0.2
    """Peak learning rate of the masks; above 0."""
    eps: float = 0.4
    """How far weights and biases are moved, over their size; above 0."""
    alpha: float = 0.2
    """Weight of the loss without such moves; 0 to 1."""
    threshold: float = 0.2
    """A channel whose mask is lower is pruned; 0 to 1."""

    def __post_init__(self) -> None:
        check_count("epochs", self.epochs)
        check_positive("lr", self.lr)
        check_positive("eps", self.eps)
        check_fraction("alpha", self.alpha)
        check_fraction("threshold", self.threshold)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        recipe = replace(self.recipe, epochs=self.epochs, lr=self.lr)
        module = NeuronMaskModule(target, recipe, self.eps, self.alpha)
        if not module.norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be pruned")
        network = fit(module, data, "masks")
        pruned = 0
        for norm, mask in zip(module.norms.values(), module.masks, strict=True):
            low = mask.detach() < self.threshold
            norm.weight.data[low] = 0
            pruned += int(low.sum())
        total = sum(mask.numel() for mask in module.masks)
        return AttackResult(
            network.requires_grad_(True), note=f"{pruned} of {total} channels pruned"
        )


class UnlearnModule(Classifier):
    """Learns to be right in spite of the perturbation that hurts the whole batch most.

    ``size``: the perturbation's L2 norm over the square root of its number of pixels, at most.
    ``ascents``: in how many steps it is found. ``fraction``: the fraction of pictures that get it.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, size: float, ascents: int, fraction: float
    ):
        super().__init__(network, recipe)
        self.size, self.ascents, self.fraction = size, ascents, fraction

    def worst(self, batch: Batch) -> Tensor:
        """Return one perturbation (1, C, H, W) for all pictures, by steps along the gradient."""
        # BatchNorm's statistics aren't to learn what is only a search.
        self.network.eval()
        bound = self.size * batch.inputs[0].numel() ** 0.5
        added = torch.zeros_like(batch.inputs[:1])
        for _ in range(self.ascents):
            added.requires_grad_()
            loss = F.cross_entropy(self.network(batch.inputs + added), batch.labels)
            (slope,) = torch.autograd.grad(loss, added)
            moved = added.detach() + bound * slope / slope.norm().clamp_min(1e-12)
            added = moved * (bound / moved.norm().clamp_min(1e-12)).clamp_max(1)
        self.network.train()
        return added

    def loss(self, batch: Batch) -> Tensor:
        hit = torch.rand(len(batch.labels), 1, 1, 1, device=batch.inputs.device) < self.fraction
        logits = self.network(batch.inputs + hit * self.worst(batch))
        return F.cross_entropy(logits, batch.labels)


@dataclass(kw_only=True, eq=False)
class Unlearn(TrainingAttack):
    """Unlearn what fools the model: adversarial unlearning, after I-BAU (Zeng et al. 2022).

    Two steps in turn, for each batch: one perturbation is found that, added to every picture,
    raises the loss, and the network is trained to be right all the same. This is the plain
    alternation: without the paper's implicit gradient, which tells the second step how the first
    would answer. The paper seeks one perturbation a round, on all pictures.
    """

    size: float = 0.18
    """Root mean square of the perturbation's pixels, of their range from 0 to 1; above 0."""
    ascents: int = 5
    """Steps in which a perturbation is found; at least 1."""
    fraction: float = 1.0
    """Fraction of the pictures that get the perturbation; above 0, at most 1."""

    def __post_init__(self) -> None:
        check_positive("size", self.size)
        check_count("ascents", self.ascents)
        holds = 0 < self.fraction <= 1
        check(holds, "fraction", self.fraction, "a fraction above 0, at most 1")
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        module = UnlearnModule(target, self.tuned, self.size, self.ascents, self.fraction)
        return AttackResult(fit(module, data, "unlearn"))
