"""Neural Dehydration: pictures that the model itself remembers are unlearnt."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    Attack,
    AttackResult,
    check_count,
    check_not_negative,
    check_positive,
)
from softmark.attacks.datafree import as_picture
from softmark.attacks.repairs import LongTraining
from softmark.batches import Batch
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples, concatenate
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

L2, TOTAL_VARIATION, STATISTICS = 0.01, 0.03, 0.1  # weights of the inversion's terms, the paper's


class InversionModule(Classifier):
    """Find pictures of which the network is sure, and that look to its BatchNorms as others do.

    The network stays as it is; what is trained are pictures (N, C, H, W), before ``as_picture``.
    The last two BatchNorms don't count, as in the paper's code, where there are more.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, shape: tuple[int, ...], lr: float):
        super().__init__(network.requires_grad_(False), recipe)
        self.lr = lr
        self.values = nn.Parameter(torch.randn(shape))
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        self.norms = norms[:-2] or norms

    def statistics(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of ``images``, and how far their statistics are from those kept."""
        apart = []

        def note(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
            variance, mean = torch.var_mean(inputs[0].float(), (0, 2, 3))
            apart.append((mean - norm.running_mean).norm() + (variance - norm.running_var).norm())

        handles = [norm.register_forward_pre_hook(note) for norm in self.norms]
        try:
            logits = self.network(images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, sum(apart, torch.zeros((), device=images.device))

    def loss(self, batch: Batch) -> Tensor:
        self.network.eval()
        images = as_picture(self.values[batch.index])
        logits, apart = self.statistics(images)
        rough = (images.diff(dim=2).abs().mean() + images.diff(dim=3).abs().mean()) / 2
        loss = F.cross_entropy(logits, batch.labels) + L2 * images.square().mean().sqrt()
        return loss + TOTAL_VARIATION * rough + STATISTICS * apart

    def configure_optimizers(self):
        optimizer = torch.optim.Adam([self.values], lr=self.lr, betas=(0.5, 0.9))
        steps = max(2, self.epochs * self.steps_per_epoch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class DehydrationModule(Classifier):
    """Learn the labels of the first ``task_size`` samples, and even answers to the others."""

    def __init__(self, network: nn.Module, recipe: Recipe, task_size: int, weight: float):
        super().__init__(network, recipe)
        self.task_size, self.weight = task_size, weight

    def loss(self, batch: Batch) -> Tensor:
        log_p = self.network(batch.inputs).float().log_softmax(1)  # (B, K)
        task = (batch.index < self.task_size).float()  # (B,)
        right = F.nll_loss(log_p, batch.labels, reduction="none")
        even = -log_p.mean(1) - torch.tensor(float(log_p.shape[1])).log()  # KL of the even answer
        loss = (task * right).sum() / task.sum().clamp_min(1)
        return loss + self.weight * ((1 - task) * even).sum() / (1 - task).sum().clamp_min(1)


@dataclass(kw_only=True, eq=False)
class Dehydrate(LongTraining, Attack):
    """Unlearn the pictures that the model remembers of each class: Neural Dehydration.

    Lu et al., "Neural Dehydration: Effective Erasure of Black-box Watermarks from DNNs with Limited
    Data" (CCS 2024), the basic attack. Pictures are inverted from the stolen model, among them ones
    like triggers; it is fine-tuned on clean pictures to answer these evenly. What differs: the
    attacker uses all of their pictures, there 833 of CIFAR-10. The paper's code divides its weight
    of the even answers, .125 (15 in a strong setting), by the number of classes, too, since an
    argument for the mean has the name of another; here it isn't.
    """

    access = "weights"
    takes_pictures = True

    epochs_factor: float = 2.0
    """Epochs of the fine-tuning over the recipe's; above 0, and one at least is left."""
    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    per_class: int = 20
    """Pictures that are inverted of each class; at least 1."""
    inversion_factor: float = 10.0
    """Epochs of the inversion over the recipe's; above 0, and one at least is left."""
    inversion_lr: float = 0.1
    """The inversion's learning rate (Adam); above 0."""
    weight: float = 1.5
    """Weight of the even answers beside the cross-entropy; 0 or more."""

    def __post_init__(self) -> None:
        check_count("per_class", self.per_class)
        check_positive("inversion_factor", self.inversion_factor)
        check_positive("inversion_lr", self.inversion_lr)
        check_not_negative("weight", self.weight)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        remembered = self.invert(target, data, fit)
        samples = concatenate([data, remembered])
        target.requires_grad_(True)
        module = DehydrationModule(target, self.tuned, len(data), self.weight)
        return AttackResult(fit(module, samples, "dehydrate"))

    def invert(self, target: nn.Module, data: Samples, fit: Fit) -> Samples:
        """Return pictures that ``target`` remembers, ``per_class`` of each class."""
        labels = torch.arange(classes_of(target, data)).repeat(self.per_class)
        shape = (len(labels), *data.inputs.shape[1:])
        recipe = replace(
            self.recipe.scaled(epochs=self.inversion_factor),
            batch_size=len(labels),
            pad=0,
            flip=False,
        )
        module = InversionModule(target, recipe, shape, self.inversion_lr)
        fit(module, Samples(torch.zeros(shape, dtype=torch.uint8), labels), "invert")
        images = as_picture(module.values.detach().cpu())
        return Samples(as_pixels(255 * images), labels)
