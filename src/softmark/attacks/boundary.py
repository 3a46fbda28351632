"""WRK: a new last layer, learnt with pictures across the border between classes as well."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.attacks.attack import (
    Attack,
    AttackResult,
    check_between,
    check_not_negative,
    check_positive,
)
from softmark.attacks.distill import count_of
from softmark.attacks.finetune import last_layer
from softmark.attacks.repairs import LongTraining, UnlikeModule
from softmark.data.pixels import as_input, as_pixels
from softmark.data.roles import Samples, concatenate
from softmark.training import Fit


def across_border(network: nn.Module, samples: Samples, eps: float) -> Samples:
    """Return ``samples`` moved by one step towards a class, each with a wrong label, at random.

    Args:
        network: Gives logits (N, K); in eval mode.
        samples: Pictures, uint8 (N, C, H, W).
        eps: How far each pixel is moved, of its range from 0 to 1.
    """
    images = as_input(samples.inputs).clone().requires_grad_(True)
    logits = network(images)  # (N, K)
    classes = logits.shape[1]
    towards = torch.randint(classes, (len(samples), 1))
    (slope,) = torch.autograd.grad(logits.gather(1, towards).sum(), images)
    moved = as_pixels(255 * (images.detach() + eps * slope.sign()))
    return Samples(moved, wrong_labels(samples.labels, classes))


def wrong_labels(labels: Tensor, classes: int) -> Tensor:
    """Return for each of ``labels`` (N,) another class, all others alike likely.

    Example:
        >>> labels = torch.arange(100) % 3
        >>> bool((wrong_labels(labels, 3) != labels).all())
        True
    """
    return (labels + torch.randint(1, classes, labels.shape)) % classes


@dataclass(kw_only=True, eq=False)
class CrossBorder(LongTraining, Attack):
    """Draw the last layer anew, unlike the old one, and learn wrong labels across the border: WRK.

    Of "Class-feature Watermark" (AAAI 2026), made against marks that survive extraction: triggers
    lie near the border between classes, and wrong labels there move it. What differs: the attacker
    uses all of their pictures, there a twentieth of CIFAR-10, with 100 pictures across the border;
    their code steps 2.0 in units of the pixels' deviation, and never gives class 0 as wrong label.
    """

    access = "weights"
    takes_pictures = True

    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    fraction: float = 0.04
    """Pictures across the border, over all that the attacker has; between 0 and 1."""
    eps: float = 0.4
    """How far a pixel is moved, of its range from 0 to 1; above 0."""
    alpha: float = 0.01
    """Weight of the last layers' inner product beside the cross-entropy; 0 or more."""

    def __post_init__(self) -> None:
        check_between("fraction", self.fraction)
        check_positive("eps", self.eps)
        check_not_negative("alpha", self.alpha)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        chosen = torch.randperm(len(data))[: count_of(self.fraction, data)]
        border = across_border(target.eval(), data[chosen], self.eps)
        head = last_layer(target)
        module = UnlikeModule(target, self.tuned, head, self.alpha)
        head.reset_parameters()
        return AttackResult(fit(module, concatenate([data, border]), "repair"))
