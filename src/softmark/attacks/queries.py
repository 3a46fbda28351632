"""Extraction with other inputs than pictures of the task: noise, mixtures, photographs, the border.

Each asks as many inputs as the attacker has pictures, unless it says otherwise.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.distill import Distill, Student
from softmark.attacks.own import own_model
from softmark.attacks.perturb import check_perturbation, perturbed_pictures
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.training import Fit, Recipe, as_pixels, predict


class DistillNoise(Distill):
    """Uniform noise, every pixel drawn by itself: the attacker has no picture at all."""

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        return answered(target, torch.randint(256, data.inputs.shape, dtype=torch.uint8))


class DistillMixtures(Distill):
    """The mean of two of the attacker's pictures, by ``weight`` (mixup, Zhang et al. 2018)."""

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        weight: float,
    ):
        if not 0 < weight < 1:
            raise InputError(f"attack.weight={weight}: a fraction between 0 and 1")
        super().__init__(recipe, network, student)
        self.weight = weight

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        other = data.inputs[torch.randperm(len(data))].float()
        mixed = self.weight * data.inputs.float() + (1 - self.weight) * other
        return answered(target, as_pixels(mixed))


class DistillPhotographs(Distill):
    """Another data set: random crops of two photographs that scikit-learn brings.

    After Asano and Saeed 2021, "The Augmented Image Prior", who distil from crops of one picture;
    theirs are augmented more.
    """

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        return answered(target, photographs(len(data), tuple(data.inputs.shape[1:])))


class DistillBoundary(Distill):
    """The attacker's pictures, and as many that lie near the border between two classes.

    A model of the attacker's own, trained on their labels, is used to move each picture by at most
    ``eps`` of a pixel's range, in ``iterations`` gradient steps, away from the class that it
    answers. After Papernot et al. 2017 (queries along a substitute's gradient), in one round.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        student: functools.partial[Student],
        eps: float,
        iterations: int,
    ):
        check_perturbation("attack", eps, iterations)
        super().__init__(recipe, network, student)
        self.eps, self.iterations = eps, iterations

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        own = own_model(self.network, self.recipe, data, target.classes, fit)
        best = Samples(data.inputs, predict(own, data.inputs).argmax(1))
        border = perturbed_pictures(own, best, self.eps, self.iterations)
        return answered(target, torch.cat([data.inputs, border]))


def answered(target: Query, images: Tensor) -> tuple[Samples, Tensor]:
    """``images`` with the labels and the answers that ``target`` gives."""
    answers = target(images)
    return Samples(images, answers.argmax(1)), answers


def photographs(count: int, shape: tuple[int, int, int]) -> Tensor:
    """``count`` random crops (``count``, C, H, W) of photographs, uint8, of twice to eight times
    the size ``shape``, made smaller."""
    from sklearn.datasets import load_sample_images

    channels, height, width = shape
    whole = [
        torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in load_sample_images().images
    ]
    crops = []
    for _ in range(count):
        photograph = whole[int(torch.randint(len(whole), ()))]
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
