"""Fine-tuning on the attacker's data: FTAL, FTLL, RTAL and RTLL of Adi et al. 2018, and others."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.answers import Change, Temper
from softmark.attacks.attack import AttackResult, DecayingClassifier, TrainingAttack, check
from softmark.attacks.distill import SOFT, StudentFactory, count_of
from softmark.attacks.perturb import check_perturbation, perturbed
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict


@dataclass(kw_only=True, eq=False)
class FineTune(TrainingAttack):
    """Train the stolen model on the attacker's labels.

    FTAL and FTLL of Adi et al., "Turning Your Weakness Into a Strength" (2018): all layers or the
    last.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
        >>> inputs, labels = torch.rand(8, 2), torch.arange(8) % 3
        >>> suspect = FineTune(epochs=1, layers="last")(model, (inputs, labels))
        >>> bool((suspect[0].weight == model[0].weight).all())
        True
        >>> bool((suspect[2].weight == model[2].weight).all())
        False
    """

    layers: Literal["all", "last"] = "all"
    """Which layers are trained: all, or the last (the one called head, or the last linear one)."""
    samples: float | None = None
    """Labelled pictures that the attacker has, at least 2, or a fraction of them below 1, in as
    many steps; None for all."""
    lr_decay: float | None = None
    """Factor of the learning rate after each epoch, 1 for a constant rate; None: one cycle."""

    def __post_init__(self) -> None:
        check(self.layers in ("all", "last"), "layers", self.layers, "all or last")
        enough = self.samples is None or 0 < self.samples < 1 or self.samples >= 2
        check(enough, "samples", self.samples, "at least 2, or a fraction (or null for all)")
        decays = self.lr_decay is None or 0 < self.lr_decay <= 1
        check(decays, "lr_decay", self.lr_decay, "above 0, at most 1 (or null for one cycle)")
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        head = last_layer(target)
        few = data if self.samples is None else data[: count_of(self.samples, data)]
        recipe = self.tuned_for(few, len(data))
        for parameter in target.parameters():
            parameter.requires_grad_(self.layers == "all")
        head.requires_grad_(True)
        network = fit(DecayingClassifier(target, recipe, self.lr_decay), few, "finetune")
        return AttackResult(network.requires_grad_(True))


def last_layer(network: nn.Module) -> nn.Module:
    """Return the layer called head, else the last linear one.

    Raises ``InputError`` where there is neither.
    """
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    head = getattr(network, "head", linear[-1] if linear else None)
    if head is None:
        raise InputError(
            f"attack: {type(network).__name__} has no last layer called head, and no linear one"
        )
    return head


@dataclass(kw_only=True, eq=False)
class ReTrain(FineTune):
    """Draw the last layer anew, then train (RTAL and RTLL of Adi et al. 2018)."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        last_layer(target).reset_parameters()
        return super().apply(target, data, fit)


@dataclass(kw_only=True, eq=False)
class SmoothLabels(FineTune):
    """Fine-tune on smoothed labels, which write an even tail over the one that carries a mark.

    Lukas et al., "SoK: How Robust is Image Classification Deep Neural Network Watermarking?"
    (2022). Their code smooths the stolen model's own answers (``answers.DropRunnersUp``), and
    raises the rate tenfold that the training ended with.
    """

    lr_factor: float = 1.0
    """Peak learning rate over the recipe's; above 0."""
    min_steps: int | None = 1300
    """Steps of the training at least: few pictures are shown in more epochs; None: no bound."""
    label_smoothing: float = 0.3
    """Mass of each label that is spread evenly over all classes; from 0 to below 1."""

    @property
    def tuned(self) -> Recipe:
        return replace(super().tuned, label_smoothing=self.label_smoothing)


class AdversarialModule(Classifier):
    """Learns from pictures that ``perturb.perturbed`` moves by at most ``eps``."""

    def __init__(self, network: nn.Module, recipe: Recipe, eps: float, iterations: int):
        super().__init__(network, recipe)
        self.eps, self.iterations = eps, iterations

    def loss(self, batch: Batch) -> Tensor:
        moved = perturbed(self.network, batch.inputs, batch.labels, self.eps, self.iterations)
        return F.cross_entropy(self.network(moved), batch.labels)


@dataclass(kw_only=True, eq=False)
class TrainAdversarially(TrainingAttack):
    """Fine-tune on pictures that are moved against the model: adversarial training.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks" (2018).
    """

    takes_pictures = True

    eps: float = 0.1
    """How far a pixel is moved, of its range from 0 to 1; above 0, at most 1."""
    iterations: int = 5
    """Projected gradient steps of each picture; at least 1."""

    def __post_init__(self) -> None:
        check_perturbation("attack", self.eps, self.iterations)
        super().__post_init__()

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        module = AdversarialModule(target, self.tuned_for(data), self.eps, self.iterations)
        return AttackResult(fit(module, data, "finetune"))


@dataclass(kw_only=True, eq=False)
class SelfDistill(TrainingAttack):
    """Let the stolen model learn its own answers, after they were changed.

    No label is needed. A tail that is flattened so is flattened in the weights too.
    """

    student: StudentFactory = SOFT
    """What the model learns of the answers."""
    change: Change = field(default_factory=lambda: Temper(temperature=0.5))
    """What is made of the answers."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        answers = predict(target, data.inputs)  # (N, K)
        self.change.learn(answers, data, fit)
        changed = self.change(answers)
        student = self.student(network=target, recipe=self.tuned_for(data), answers=changed)
        return AttackResult(fit(student, data, "finetune"))
