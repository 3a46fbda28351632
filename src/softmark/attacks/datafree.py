"""Extraction without any picture: a generator makes what the student still answers otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from softmark.attacks.attack import AttackResult, check, check_count, check_positive
from softmark.attacks.distill import Distill
from softmark.attacks.shadow import new_network
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Classifier, Fit

CHANNELS = 64  # of the generator's last but one layer


class Generator(nn.Module):
    """Make pictures (N, C, H, W), of any real values, of noise (N, Z)."""

    def __init__(self, noise: int, shape: tuple[int, int, int]):
        super().__init__()
        self.shape = shape
        self.start = [math.ceil(side / 4) for side in shape[1:]]
        self.first = nn.Linear(noise, 2 * CHANNELS * math.prod(self.start))
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * CHANNELS),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * CHANNELS, 2 * CHANNELS, 3, padding=1),
            nn.BatchNorm2d(2 * CHANNELS),
            nn.LeakyReLU(0.2),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * CHANNELS, CHANNELS, 3, padding=1),
            nn.BatchNorm2d(CHANNELS),
            nn.LeakyReLU(0.2),
            nn.Conv2d(CHANNELS, shape[0], 3, padding=1),
            nn.BatchNorm2d(shape[0], affine=False),
        )

    def forward(self, noise: Tensor) -> Tensor:
        maps = self.first(noise).view(len(noise), -1, *self.start)
        return self.layers(maps)[..., : self.shape[1], : self.shape[2]]


def as_picture(values: Tensor) -> Tensor:
    """Return any real values as pixels between 0 and 1."""
    return (values.tanh() + 1) / 2


class Rounds:
    """So many rounds of a game, without samples."""

    def __init__(self, count: int):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.count))


class DataFreeModule(Classifier):
    """Let a generator and a student play: it looks for pictures on which both models differ.

    Args:
        network: The student.
        recipe: How the student is trained.
        target: The stolen model.
        generator: Makes the pictures.
        attack: Its numbers.
        rounds: Rounds an epoch.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        target: Query,
        generator: Generator,
        attack: DistillDataFree,
        rounds: int,
    ):
        super().__init__(network, recipe)
        self.generator, self.attack, self.rounds = generator, attack, rounds
        self.target = target

    def batches(self, samples: Samples) -> Rounds:
        return Rounds(self.rounds)

    def noise(self) -> Tensor:
        """Return noise for a batch of pictures, (B, Z)."""
        size = (self.recipe.batch_size, self.generator.first.in_features)
        return torch.randn(size, device=self.device)

    def apart(self, images: Tensor) -> Tensor:
        """Return how far the student's logits are from the target's: L1, (B,).

        A black box tells no logits; its log-probabilities, less their mean, stand for them.
        """
        logits = log_of(self.target(images.detach().cpu())).to(self.device)  # (B, K)
        logits = logits - logits.mean(1, keepdim=True)
        return (self.network(images).float() - logits).abs().mean(1)

    @torch.no_grad()
    def slope(self, values: Tensor) -> Tensor:
        """Return the gradient of ``-apart`` by ``values`` (B, C, H, W): one forward difference."""
        eps, count = self.attack.eps, values[0].numel()
        step = torch.randn_like(values)
        step = step / step.flatten(1).norm(dim=1)[:, None, None, None]
        moved, here = (self.apart(as_picture(v)) for v in (values + eps * step, values))
        rise = (here - moved) / eps * count / len(values)  # (B,)
        return rise[:, None, None, None] * step

    def training_step(self, batches: Iterator[int], chunk: int) -> None:
        (students, generators), schedule = (
            self.optimizers(use_pl_optimizer=False),
            self.lr_schedulers(),
        )
        for _ in batches:
            generators.zero_grad()
            values = self.generator(self.noise())
            values.backward(self.slope(values))
            generators.step()
            for _ in range(self.attack.student_steps):
                with torch.no_grad():
                    images = as_picture(self.generator(self.noise()))
                loss = self.apart(images).mean()
                students.zero_grad()
                with torch.autocast(self.device.type, enabled=False):
                    self.manual_backward(loss)
                students.step()
            self.losses.append(loss.detach())
            schedule.step()

    def configure_optimizers(self):
        generators = torch.optim.Adam(self.generator.parameters(), lr=self.attack.generator_lr)
        self.generator.requires_grad_(False)  # the student's optimizer takes the others
        optimizers, schedules = super().configure_optimizers()
        self.generator.requires_grad_(True)
        return [*optimizers, generators], schedules


@dataclass(kw_only=True, eq=False)
class DistillDataFree(Distill):
    """Distil with pictures that a generator makes, for an attacker who has none: DFME.

    Truong et al., "Data-Free Model Extraction" (CVPR 2021). In each round the generator takes a
    step towards pictures on which student and stolen model differ, by forward differences of the
    stolen model's answers, and the student takes some towards these answers. What differs: the
    student's rate has the recipe's cycle; the paper asks 20 million pictures.
    """

    takes_pictures = True

    queries: int = 200_000
    """Pictures that the stolen model is asked at most."""
    batch_size: int = 256
    """Pictures of a step; at least 2."""
    noise: int = 256
    """Numbers of which the generator makes a picture; at least 1."""
    student_steps: int = 5
    """Steps of the student a round, beside one of the generator; at least 1."""
    generator_lr: float = 1e-4
    """The generator's learning rate (Adam); above 0."""
    eps: float = 1e-3
    """Length of the step of a forward difference, before the pixels' tanh; above 0."""

    def __post_init__(self) -> None:
        check(self.batch_size >= 2, "batch_size", self.batch_size, "at least 2")
        check_count("noise", self.noise)
        check_count("student_steps", self.student_steps)
        check_positive("generator_lr", self.generator_lr)
        check_positive("eps", self.eps)
        cost = self.cost
        check(self.queries >= cost, "queries", self.queries, f"a round asks {cost} pictures")

    @property
    def cost(self) -> int:
        """Pictures that a round asks: two steps of a forward difference, and the student's."""
        return (2 + self.student_steps) * self.batch_size

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        rounds = self.queries // self.cost
        length = max(1, rounds // self.recipe.epochs)  # rounds an epoch
        epochs = rounds // length
        recipe = replace(self.recipe, epochs=epochs, batch_size=self.batch_size)
        generator = Generator(self.noise, tuple(data.inputs.shape[1:]))
        network = new_network(self.network, data, target.classes)
        module = DataFreeModule(network, recipe, target, generator, self, length)
        return AttackResult(fit(module, data, "student"), target.count)
