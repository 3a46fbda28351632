"""Neural Cleanse: a small trigger of each class is found, and unlearnt where it is too small."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    AttackResult,
    DecayingClassifier,
    TrainingAttack,
    check,
    check_between,
    check_count,
    check_positive,
)
from softmark.attacks.datafree import as_picture
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.models.access import classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

WINDOW = 10  # steps after which the weight of a trigger's size is set anew: BackdoorBench's epoch
PATIENCE = 5  # windows of success, or of failure, in a row that change it
RAISED = 2.0  # what it is multiplied by after success; it falls by this to the power of 1.5
START = 0.001  # of that weight, times the size in pixels
OUTLIER = 2.0  # median absolute deviations below the median at which a size is suspicious
CONSISTENT = 1.4826  # by which such a deviation of normal numbers is a standard deviation


class TriggerModule(DecayingClassifier):
    """Find the smallest patch that makes every picture one of class ``label``; the network stays.

    A picture x becomes (1 - m) x + m t, with a mask m (1, 1, H, W) and a pattern t (1, C, H, W).
    The loss is the cross-entropy of ``label`` plus ``cost`` times the sum of m, where ``cost``
    rises while the patch succeeds and falls while it doesn't.

    Attributes:
        best: The mask and the pattern of the smallest patch that succeeded, (1, 1 + C, H, W); the
            last one's where none did.
    """

    best: Tensor
    smallest: Tensor
    cost: Tensor
    run: Tensor
    hits: Tensor

    def __init__(
        self, network: nn.Module, recipe: Recipe, shape: tuple[int, ...], label: int, success: float
    ):
        super().__init__(network.requires_grad_(False), recipe)
        channels, height, width = shape
        self.label, self.success = label, success
        self.values = nn.Parameter(torch.ones(1, 1 + channels, height, width))
        # In buffers, so that an interrupted training goes on with them.
        self.register_buffer("best", as_picture(self.values.detach()))
        self.register_buffer("smallest", torch.tensor(torch.inf))
        self.register_buffer("cost", torch.tensor(START))
        self.register_buffer("run", torch.zeros(()))  # windows of success in a row; below 0: not
        self.register_buffer("hits", torch.zeros(2))  # fraction of hits, summed; steps

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam([self.values], self.recipe.lr, betas=(0.5, 0.9))

    def loss(self, batch: Batch) -> Tensor:
        self.network.eval()
        patch = as_picture(self.values)
        logits = self.network(patched(batch.inputs, patch)).float()
        wanted = torch.full_like(batch.labels, self.label)
        self.hits += torch.stack(
            [(logits.argmax(1) == wanted).float().mean(), self.hits.new_ones(())]
        )
        return F.cross_entropy(logits, wanted) + self.cost * patch[:, :1].sum()

    @torch.no_grad()
    def after_step(self) -> None:
        # Without a branch: a GPU would wait for Python at every step.
        full = self.hits[1] >= WINDOW
        succeeded = full & (self.hits[0] >= self.success * self.hits[1])
        patch = as_picture(self.values)
        size = patch[:, :1].sum()
        better = torch.where(self.smallest.isinf(), full, succeeded & (size < self.smallest))
        self.best.copy_(torch.where(better, patch, self.best))
        self.smallest.copy_(torch.where(succeeded & better, size, self.smallest))
        failed = full & ~succeeded
        run = torch.where(succeeded, self.run.clamp_min(0) + 1, self.run)
        run = torch.where(failed, run.clamp_max(0) - 1, run)
        self.cost *= torch.where(run >= PATIENCE, RAISED, 1.0)
        self.cost *= torch.where(run <= -PATIENCE, RAISED**-1.5, 1.0)
        self.run.copy_(run * (run.abs() < PATIENCE))
        self.hits *= ~full


def patched(images: Tensor, patches: Tensor) -> Tensor:
    """Return ``images`` (B, C, H, W) under ``patches``.

    Args:
        images: Floats from 0 to 1.
        patches: One for all or one for each, (1 or B, 1 + C, H, W): how much of it covers the
            picture, from 0 to 1, and its own pixels.
    """
    mask, pattern = patches[:, :1], patches[:, 1:]
    return (1 - mask) * images + mask * pattern


def suspicious(sizes: Tensor) -> list[int]:
    """Return the classes whose patch is an outlier: far smaller than the others' (K,)."""
    below = sizes.median() - sizes  # (K,)
    deviation = CONSISTENT * below.abs().median()
    return (below > OUTLIER * deviation).nonzero().flatten().tolist()


class PatchedModule(Classifier):
    """Learn the labels, of pictures too under which one of ``patches`` (P, 1 + C, H, W) lies."""

    patches: Tensor

    def __init__(self, network: nn.Module, recipe: Recipe, patches: Tensor, fraction: float):
        super().__init__(network.requires_grad_(True), recipe)
        self.fraction = fraction
        self.register_buffer("patches", patches, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        device, count = batch.inputs.device, len(batch.labels)
        drawn = self.patches[torch.randint(len(self.patches), (count,), device=device)]
        hit = torch.rand(count, 1, 1, 1, device=device) < self.fraction
        inputs = torch.where(hit, patched(batch.inputs, drawn), batch.inputs)
        return super().loss(batch._replace(inputs=inputs))


@dataclass(kw_only=True, eq=False)
class NeuralCleanse(TrainingAttack):
    """Find a small patch for each class that makes any picture one of it, and unlearn these.

    Wang et al., "Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks"
    (S&P 2019). The patches that are outliers by their size are laid over a part of the pictures,
    which keep their labels; where none is an outlier, all patches are, while the paper's defender
    stops. Numbers of BackdoorBench's config; a window of steps stands for its epoch.
    """

    takes_pictures = True

    epochs: int = 1
    """Epochs of the unlearning; at least 1."""
    min_steps: int | None = 1000
    """Steps of the unlearning at least; None: no bound."""
    lr_factor: float = 0.1
    """Peak learning rate of the unlearning over the recipe's; above 0."""
    fraction: float = 0.2
    """Fraction of the pictures that a patch is laid over; between 0 and 1."""
    patch_steps: int = 800
    """Steps in which each class's patch is found; at least 1."""
    patch_lr: float = 0.1
    """Learning rate of a patch (Adam); above 0."""
    success: float = 0.98
    """Fraction of pictures that a patch must make one of its class; above 0, at most 1."""

    def __post_init__(self) -> None:
        check_between("fraction", self.fraction)
        check_count("patch_steps", self.patch_steps)
        check_positive("patch_lr", self.patch_lr)
        check(0 < self.success <= 1, "success", self.success, "a fraction above 0, at most 1")
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        patches, note = self.find(target, data, fit)
        module = PatchedModule(target, self.tuned_for(data), patches, self.fraction)
        return AttackResult(fit(module, data, "unlearn"), note=note)

    def find(self, target: nn.Module, data: Samples, fit: Fit) -> tuple[Tensor, str]:
        """Return the patches to be unlearnt, (P, 1 + C, H, W), and of which classes they are."""
        steps = max(1, len(data) // self.recipe.batch_size)  # an epoch's
        epochs = self.at_most(max(1, self.patch_steps // steps), steps)
        recipe = replace(self.recipe, epochs=epochs, lr=self.patch_lr)
        shape, found = tuple(data.inputs.shape[1:]), []
        for label in range(classes_of(target, data)):
            module = TriggerModule(target, recipe, shape, label, self.success)
            fit(module, data, f"patch-{label}")
            found.append(module.best.detach().cpu())
        patches = torch.cat(found)  # (K, 1 + C, H, W)
        classes = suspicious(patches[:, 0].sum((1, 2)))
        if not classes:
            return patches, "no class has an outlying patch: all are unlearnt"
        return patches[classes], f"outlying patches of classes {', '.join(map(str, classes))}"
