"""Extraction with other inputs than pictures of the task: noise, mixtures, photographs, the border.

Each asks as many inputs as the attacker has pictures, unless it says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from softmark.attacks.attack import check_between
from softmark.attacks.distill import Distill
from softmark.attacks.perturb import check_perturbation, perturbed_pictures
from softmark.attacks.shadow import train_shadow_model
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.training import Fit, predict


@dataclass(kw_only=True, eq=False)
class DistillNoise(Distill):
    """Distil from answers to uniform noise: the attacker has no picture at all."""

    takes_pictures = True

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        return answered(target, torch.randint(256, data.inputs.shape, dtype=torch.uint8))


@dataclass(kw_only=True, eq=False)
class DistillMixtures(Distill):
    """Distil from answers to means of two of the attacker's pictures (mixup, Zhang et al. 2018)."""

    takes_pictures = True

    weight: float = 0.5
    """Weight of the first of both pictures; between 0 and 1."""

    def __post_init__(self) -> None:
        check_between("weight", self.weight)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        other = data.inputs[torch.randperm(len(data))].float()
        mixed = self.weight * data.inputs.float() + (1 - self.weight) * other
        return answered(target, as_pixels(mixed))


@dataclass(kw_only=True, eq=False)
class DistillPhotographs(Distill):
    """Distil from answers to another data set: crops of two photographs that scikit-learn brings.

    After Asano and Saeed 2021, "The Augmented Image Prior", who distil from crops of one picture;
    theirs are augmented more.
    """

    takes_pictures = True

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        return answered(target, photographs(len(data), tuple(data.inputs.shape[1:])))


@dataclass(kw_only=True, eq=False)
class DistillBoundary(Distill):
    """Distil from the attacker's pictures and as many near the border between two classes.

    A model of the attacker's own, trained on their labels, is used to move each picture away from
    the class that it answers. After Papernot et al. 2017 (queries along a substitute's gradient),
    in one round.
    """

    takes_pictures = True

    eps: float = 0.1
    """How far a pixel is moved, of its range from 0 to 1; above 0, at most 1."""
    iterations: int = 5
    """Gradient steps of each picture; at least 1."""

    def __post_init__(self) -> None:
        check_perturbation("attack", self.eps, self.iterations)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        shadow = train_shadow_model(self.network, self.recipe, data, target.classes, fit)
        answers = Samples(data.inputs, predict(shadow, data.inputs).argmax(1))
        border = perturbed_pictures(shadow, answers, self.eps, self.iterations)
        return answered(target, torch.cat([data.inputs, border]))


def answered(target: Query, images: Tensor) -> tuple[Samples, Tensor]:
    """Return ``images`` (N, ...) with the labels and the answers (N, K) that ``target`` gives."""
    answers = target(images)
    return Samples(images, answers.argmax(1)), answers


def photographs(count: int, shape: tuple[int, int, int]) -> Tensor:
    """Return ``count`` random crops of photographs, uint8 (``count``, C, H, W).

    They are cut at twice to eight times the size of ``shape`` (C, H, W), and made smaller.
    """
    from sklearn.datasets import load_sample_images

    channels, height, width = shape
    sources = [
        torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in load_sample_images().images
    ]
    crops = []
    for _ in range(count):
        photograph = sources[int(torch.randint(len(sources), ()))]  # (3, H, W)
        zoom = 2 + 6 * float(torch.rand(()))
        size = [
            min(int(zoom * side), most)
            for side, most in zip((height, width), photograph.shape[1:], strict=True)
        ]
        top, left = (
            int(torch.randint(most - side + 1, ()))
            for side, most in zip(size, photograph.shape[1:], strict=True)
        )
        crop = photograph[None, :, top : top + size[0], left : left + size[1]].float()
        crops.append(F.interpolate(crop, (height, width), mode="area")[0])
    images = torch.stack(crops)
    images = images.mean(1, keepdim=True) if channels == 1 else images
    return as_pixels(images)
