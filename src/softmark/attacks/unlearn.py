"""Repairs for networks with a backdoor, turned against a mark.

Neural attention distillation (Li et al. 2021), adversarial neuron pruning (Wu and Wang 2021) and
adversarial unlearning (after Zeng et al. 2022).
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.finetune import tuning
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.training import Batch, Classifier, Fit, Recipe, as_input


def maps_of(network: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The logits, and the last map (N, C, H, W) of each size that is larger than one pixel."""
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
    """The attention map (N, H W) of ``features``: their squares summed over C, of L2 norm 1."""
    return F.normalize(features.float().square().sum(1).flatten(1))


class Attentive(Classifier):
    """A network that learns the labels, and to look where ``teacher`` looks."""

    def __init__(self, network: nn.Module, recipe: Recipe, teacher: nn.Module, beta: float):
        super().__init__(network, recipe)
        self.teacher = teacher.requires_grad_(False)
        self.beta = beta

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            _, shown = maps_of(self.teacher.eval(), batch.inputs)
        logits, own = maps_of(self.network, batch.inputs)
        apart = [
            (attention(mine) - attention(theirs)).square().sum(1).mean()
            for mine, theirs in zip(own, shown, strict=True)
        ]
        return F.cross_entropy(logits, batch.labels) + self.beta * sum(apart)


class AttentionDistillation(Attack):
    """Neural attention distillation, NAD (Li et al. 2021): the stolen model as a student.

    Its teacher is a copy that was fine-tuned first, for as long. The loss is cross-entropy plus
    ``beta`` times the squared distance of normalised attention maps, summed over their pixels (the
    paper's code has the mean, which depends on the pictures' size). The paper's maps are the
    outputs of a ResNet's stages; here they are the last map of each size above one pixel, whatever
    module gives it, and all have the same ``beta``.
    """

    access = "weights"

    def __init__(self, recipe: Recipe, epochs: int, lr_factor: float, beta: float):
        if not beta >= 0:
            raise InputError(f"attack.beta={beta}: it can't be negative")
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.beta = beta

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        if not maps_of(target, as_input(data.inputs[:1]))[1]:
            raise InputError(f"attack: {type(target).__name__} has no map of more than one pixel")
        teacher = fit(Classifier(copy.deepcopy(target), self.recipe), data, "teacher")
        return Stolen(fit(Attentive(target, self.recipe, teacher, self.beta), data, "student"))


class NeuronMasks(Classifier):
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
        """The cross-entropy with masks, and with weights and biases moved by ``moves``."""
        changed = {}
        for (name, norm), mask, (d, x) in zip(self.norms.items(), self.masks, moves, strict=True):
            changed[f"{name}.weight"] = norm.weight * (mask + d)
            changed[f"{name}.bias"] = norm.bias * (1 + x)
        return F.cross_entropy(functional_call(self.network, changed, batch.inputs), batch.labels)

    def worst(self, batch: Batch) -> list[tuple[Tensor, Tensor]]:
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
    def on_train_batch_end(self, outputs: object, batch: Batch, step: int) -> None:
        for mask in self.masks:
            mask.clamp_(0, 1)


class PruneNeurons(Attack):
    """Adversarial neuron pruning, ANP (Wu and Wang 2021): sensitive channels are taken out.

    ``NeuronMasks`` learns which: a channel whose mask ends below ``threshold`` gets BatchNorm
    weight 0, and keeps its bias. ``lr``: of the masks. The paper's learning rate is constant, here
    it has the recipe's cycle; its networks take BatchNorm's statistics from each batch meanwhile,
    here they keep those that they came with.
    """

    access = "weights"

    def __init__(
        self, recipe: Recipe, epochs: int, lr: float, eps: float, alpha: float, threshold: float
    ):
        if not epochs >= 1:
            raise InputError(f"attack.epochs={epochs}: at least 1")
        for name, value in {"lr": lr, "eps": eps}.items():
            if not value > 0:
                raise InputError(f"attack.{name}={value}: it must be above 0")
        for name, value in {"alpha": alpha, "threshold": threshold}.items():
            if not 0 <= value <= 1:
                raise InputError(f"attack.{name}={value}: a fraction between 0 and 1")
        self.recipe = replace(recipe, epochs=epochs, lr=lr)
        self.eps, self.alpha, self.threshold = eps, alpha, threshold

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        module = NeuronMasks(target, self.recipe, self.eps, self.alpha)
        if not module.norms:
            raise InputError(f"attack: {type(target).__name__} has no BatchNorm to be pruned")
        network = fit(module, data, "masks")
        pruned = 0
        for norm, mask in zip(module.norms.values(), module.masks, strict=True):
            low = mask.detach() < self.threshold
            norm.weight.data[low] = 0
            pruned += int(low.sum())
        total = sum(mask.numel() for mask in module.masks)
        return Stolen(network.requires_grad_(True), note=f"{pruned} of {total} channels pruned")


class Unlearning(Classifier):
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
        """One perturbation (1, C, H, W) for all pictures, by steps along the gradient."""
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


class Unlearn(Attack):
    """Adversarial unlearning, after I-BAU (Zeng et al. 2022): what fools the model is unlearnt.

    Two steps in turn, for each batch: one perturbation is found that, added to every picture,
    raises the loss, and the network is trained to be right all the same. This is the plain
    alternation: without the paper's implicit gradient, which tells the second step how the first
    would answer. The paper seeks one perturbation a round, on all pictures.
    """

    access = "weights"

    def __init__(
        self,
        recipe: Recipe,
        epochs: int,
        lr_factor: float,
        size: float,
        ascents: int,
        fraction: float,
    ):
        if not size > 0:
            raise InputError(f"attack.size={size}: it must be above 0")
        if not ascents >= 1:
            raise InputError(f"attack.ascents={ascents}: at least 1")
        if not 0 < fraction <= 1:
            raise InputError(f"attack.fraction={fraction}: a fraction above 0, at most 1")
        self.recipe = tuning(recipe, epochs, lr_factor)
        self.size, self.ascents, self.fraction = size, ascents, fraction

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        module = Unlearning(target, self.recipe, self.size, self.ascents, self.fraction)
        return Stolen(fit(module, data, "unlearn"))
