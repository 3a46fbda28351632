"""Neural attention distillation, a repair of networks with a backdoor (Li et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    TrainingAttack,
    check,
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


class SteppedClassifier(Classifier):
    """Learns labels at the recipe's rate for the ``first`` part of the steps, then at ``later``."""

    def __init__(self, network: nn.Module, recipe: Recipe, first: float, later: float):
        super().__init__(network, recipe)
        self.first, self.later = first, later

    def rate(self, progress: float) -> float:
        return 1.0 if progress < self.first else self.later


class AttentionModule(SteppedClassifier):
    """Learns the labels, and to look where ``teacher`` looks.

    ``beta``: the weights of the last maps' distances, the last map's last; any map before these has
    the first weight.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        teacher: nn.Module,
        beta: Sequence[float],
        first: float = 1.0,
        later: float = 1.0,
    ):
        super().__init__(network, recipe, first, later)
        self.teacher = teacher.requires_grad_(False)
        self.beta = list(beta)

    def loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            _, teacher_maps = maps_of(self.teacher.eval(), batch.inputs)
        logits, maps = maps_of(self.network, batch.inputs)
        betas = [self.beta[0]] * (len(maps) - len(self.beta)) + self.beta[-len(maps) :]
        distances = [
            beta * (attention(features) - attention(shown)).square().sum(1).mean()  # of (B, H W)
            for beta, features, shown in zip(betas, maps, teacher_maps, strict=True)
        ]
        return F.cross_entropy(logits, batch.labels) + sum(distances)


@dataclass(kw_only=True, eq=False)
class AttentionDistillation(TrainingAttack):
    """Teach the stolen model to look where a fine-tuned copy of it looks: NAD.

    Li et al., "Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks"
    (2021). The loss is cross-entropy plus ``beta`` times the squared distances of normalised
    attention maps. Theirs is a mean over pixels, which depends on the pictures' size, ours a sum.
    Their maps are the outputs of a ResNet's three stages; here they are the last map of each size
    above one pixel. As there the rate begins high and then falls at once; the teacher is trained
    with the same rates, for as long. Theirs sees pictures with patches cut out, ours don't.
    """

    epochs: int = 20
    """Epochs of teacher and student each; at least 1."""
    lr_factor: float = 1.0
    """The first learning rate over the recipe's peak; above 0."""
    min_steps: int | None = 780
    """Steps of teacher and student each at least; None: no bound."""
    first: float = 0.1
    """Fraction of the steps at the first learning rate; 0 to 1."""
    later: float = 0.1
    """Later learning rate over the first; above 0."""
    beta: Sequence[float] = (0.5, 4.0, 16.0)
    """Weights of the last maps' distances beside the cross-entropy; 0 or more."""

    def __post_init__(self) -> None:
        check_fraction("first", self.first)
        check_positive("later", self.later)
        check(len(self.beta) > 0, "beta", self.beta, "at least one weight")
        for beta in self.beta:
            check_not_negative("beta", beta)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        if not maps_of(target, as_input(data.inputs[:1]))[1]:
            raise InputError(f"attack: {type(target).__name__} has no map of more than one pixel")
        recipe, rates = self.tuned_for(data), (self.first, self.later)
        teacher = fit(SteppedClassifier(copy.deepcopy(target), recipe, *rates), data, "teacher")
        module = AttentionModule(target, recipe, teacher, self.beta, *rates)
        return AttackResult(fit(module, data, "student"))
