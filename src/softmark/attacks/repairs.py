"""Repairs of networks with a backdoor that change how a fine-tuning goes: FT-SAM, FST and SEAM."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check_count,
    check_fraction,
    check_not_negative,
    check_positive,
    worth,
)
from softmark.attacks.finetune import last_layer
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict


@dataclass(kw_only=True, eq=False)
class LongTraining:
    """The numbers of an attack that trains for a multiple of the victim's own training.

    Repairs are published with steps on thousands of pictures, which five epochs of few pictures
    aren't: here their length follows the victim's.
    """

    recipe: Recipe = RECIPE
    """How the victim was trained: batch size, learning rate, momentum, weight decay, crops."""
    epochs_factor: float = 1.0
    """Epochs over the recipe's; above 0, and one at least is left."""
    lr_factor: float = 0.1
    """Peak learning rate over the recipe's; above 0."""

    def __post_init__(self) -> None:
        check_positive("epochs_factor", self.epochs_factor)
        check_positive("lr_factor", self.lr_factor)

    @property
    def tuned(self) -> Recipe:
        """The recipe of this training."""
        return self.recipe.scaled(epochs=self.epochs_factor, lr=self.lr_factor)


class SharpnessModule(Classifier):
    """Take each step along the gradient at the weights nearby that raise the loss most.

    Adaptive sharpness-aware minimisation (Kwon et al. 2021): a weight w is moved by ``rho`` times
    w^2 g over the norm of |w| g, where g is the gradient.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, rho: float):
        super().__init__(network, recipe)
        self.rho = rho

    @torch.no_grad()
    def add_gradients(self, batch: Batch) -> None:
        weights = [w for w in self.parameters() if w.grad is not None]
        size = torch.stack([(w.abs() * w.grad).norm() for w in weights]).norm()
        moves = [self.rho * w.square() * w.grad / (size + 1e-12) for w in weights]
        for weight, move in zip(weights, moves, strict=True):
            weight += move
            weight.grad = None
        with torch.enable_grad():
            loss = self.loss(batch)
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)
        for weight, move in zip(weights, moves, strict=True):
            weight -= move


@dataclass(kw_only=True, eq=False)
class FineTuneFlat(LongTraining, Attack):
    """Fine-tune towards a flat minimum, on smoothed labels: FT-SAM.

    Zhu et al., "Enhancing Fine-Tuning Based Backdoor Defense with Sharpness-Aware Minimization"
    (ICCV 2023). A mark's weights are large, and adaptive steps move large weights furthest. Numbers
    of BackdoorBench's config, but for the length: 100 epochs of 2,500 pictures there.
    """

    access = "weights"

    epochs_factor: float = 5.0
    """Epochs over the recipe's; above 0, and one at least is left."""
    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    rho: float = 2.0
    """How far weights are moved; above 0."""
    label_smoothing: float = 0.1
    """Mass of each label that is spread evenly over all classes; from 0 to below 1."""

    def __post_init__(self) -> None:
        check_positive("rho", self.rho)
        super().__post_init__()
        _ = self.tuned

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, label_smoothing=self.label_smoothing)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        return AttackResult(fit(SharpnessModule(target, self.tuned, self.rho), data, "repair"))


class UnlikeModule(Classifier):
    """Learn the labels with a last layer unlike the old one: ``alpha`` <W, W_old> is added."""

    def __init__(self, network: nn.Module, recipe: Recipe, head: nn.Module, alpha: float):
        super().__init__(network, recipe)
        self.head, self.alpha = head, alpha
        self.register_buffer("old", head.weight.detach().clone(), persistent=False)  # (K, D)

    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) + self.alpha * (self.head.weight * self.old).sum()


class ShiftModule(UnlikeModule):
    """The same; after each step W has the norm of W_old again."""

    @torch.no_grad()
    def after_step(self) -> None:
        self.head.weight *= self.old.norm() / self.head.weight.norm().clamp_min(1e-12)


@dataclass(kw_only=True, eq=False)
class ShiftFeatures(LongTraining, Attack):
    """Draw the last layer anew and keep it unlike the old one, so that the features move: FST.

    Min et al., "Towards Stable Backdoor Purification through Feature Shift Tuning" (NeurIPS 2023).
    Numbers of its code, but for the length, 10 epochs of a fiftieth of CIFAR-10, and the rate, that
    of the training.
    """

    access = "weights"

    alpha: float = 0.2
    """Weight of the last layers' inner product beside the cross-entropy; 0 or more."""

    def __post_init__(self) -> None:
        check_not_negative("alpha", self.alpha)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        head = last_layer(target)
        module = ShiftModule(target, self.tuned, head, self.alpha)
        head.reset_parameters()
        module.after_step()
        return AttackResult(fit(module, data, "repair"))


@dataclass(kw_only=True, eq=False)
class Forget(LongTraining, Attack):
    """Learn random labels until the model knows little, then the true ones: SEAM.

    Zhu et al., "Selective Amnesia: On Efficient, High-Fidelity and Blind Suppression of Backdoor
    Effects in Trojaned Machine Learning Models" (S&P 2023). What is remembered first is the task.
    Their code forgets a twentieth of the pictures at a time with Adam, here they are all forgotten,
    epoch by epoch, by the recipe's SGD.
    """

    access = "weights"

    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    bound: float = 0.2
    """Accuracy below which the model has forgotten enough; 0 to 1."""
    rounds: int = 10
    """Epochs of random labels at most; at least 1."""

    def __post_init__(self) -> None:
        check_fraction("bound", self.bound)
        check_count("rounds", self.rounds)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        classes = predict(target, data.inputs[:2]).shape[1]
        for number in range(self.rounds):
            wrong = Samples(data.inputs, torch.randint(classes, (len(data),)))
            recipe = replace(self.tuned, epochs=1)
            target = fit(Classifier(target, recipe), wrong, f"forget-{number + 1}")
            left = worth(target, data)
            if left < self.bound:
                break
        network = fit(Classifier(target, self.tuned), data, "recover")
        note = f"forgot to {left:.2f} in {number + 1} epochs"
        return AttackResult(network, note=note)
