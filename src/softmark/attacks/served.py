"""What is put before the stolen model: changed answers, changed inputs, several models' answers.

The model stays as it was stolen. Who asks gets what is served; who holds the weights doesn't.
"""

from __future__ import annotations

import functools
import io

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from softmark.attacks.answers import Change
from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.own import own_model
from softmark.data.augment import crop_and_flip
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Answer, answers_of, classes_of
from softmark.models.networks import Ensemble, OtherTail
from softmark.recipe import Recipe
from softmark.training import Fit, as_pixels, predict


class Serve(Attack):
    """The answers are changed by ``change``, which learns from the model's answers first."""

    access = "weights"

    def __init__(self, change: Change):
        self.front = change

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        answers = predict(target, data.inputs)
        self.front.learn(answers, data, fit)
        # What can't be done is known now, not when the judge asks.
        self.front(answers[:2])
        return Stolen(target)

    def serve(self, answer: Answer) -> Answer:
        return lambda images: self.front(answer(images))


class ServeTogether(Attack):
    """The mean of the stolen model's answers and of those of a model that the attacker trained."""

    access = "weights"
    together = Ensemble

    def __init__(self, recipe: Recipe, network: functools.partial[nn.Module]):
        self.recipe, self.network = recipe, network

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        own = own_model(self.network, self.recipe, data, classes_of(target, data), fit)
        return Stolen(self.together.of([target, own]))


class ServeOwnTail(ServeTogether):
    """The stolen model's classes, with the tails of a model that the attacker trained."""

    together = OtherTail


class Inputs(Attack):
    """Pictures are changed before the model sees them; ``change`` is one of the classes below."""

    access = "weights"

    def __init__(self, change: Jpeg | Blur | Median | Levels | PixelNoise | Mirror | Smoothing):
        self.change = change

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        self.change(answers_of(target), data.inputs[:2])
        return Stolen(target)

    def serve(self, answer: Answer) -> Answer:
        return lambda images: self.change(answer, images)


class Jpeg:
    """``quality``: of the JPEG file that each picture goes through, 1 to 95."""

    def __init__(self, quality: int):
        if not 1 <= quality <= 95:
            raise InputError(f"attack.change.quality={quality}: 1 to 95")
        self.quality = quality

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(torch.stack([self.through(image) for image in images]))

    def through(self, image: Tensor) -> Tensor:
        grey = image.shape[0] == 1
        pixels = image[0].numpy() if grey else image.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        decoded = torch.from_numpy(np.array(Image.open(file)))
        return decoded[None] if grey else decoded.permute(2, 0, 1)


class Blur:
    """A Gaussian of ``sigma`` pixels."""

    def __init__(self, sigma: float):
        if not sigma > 0:
            raise InputError(f"attack.change.sigma={sigma}: it must be above 0")
        self.sigma = sigma

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        blurred = ndimage.gaussian_filter(images.float().numpy(), (0, 0, self.sigma, self.sigma))
        return answer(as_pixels(torch.from_numpy(blurred)))


class Median:
    """The median of ``size`` x ``size`` pixels."""

    def __init__(self, size: int):
        if not size >= 2:
            raise InputError(f"attack.change.size={size}: at least 2 pixels")
        self.size = size

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(
            torch.from_numpy(ndimage.median_filter(images.numpy(), (1, 1, self.size, self.size)))
        )


class Levels:
    """``levels`` values a pixel instead of 256 (feature squeezing, Xu et al. 2018)."""

    def __init__(self, levels: int):
        if not 2 <= levels <= 256:
            raise InputError(f"attack.change.levels={levels}: 2 to 256")
        self.levels = levels

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        step = 255 / (self.levels - 1)
        return answer(as_pixels((images / step).round() * step))


class PixelNoise:
    """Independent normal noise of ``sigma`` on each pixel, of which white is 1."""

    def __init__(self, sigma: float):
        if not sigma > 0:
            raise InputError(f"attack.change.sigma={sigma}: it must be above 0")
        self.sigma = sigma

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(noisy(images, self.sigma, len(images)))


class Mirror:
    """Left and right change places."""

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(images.flip(3))


class Smoothing:
    """The mean answer to ``copies`` of a picture, each shifted by up to ``pad`` pixels, with noise.

    Randomised smoothing (Cohen et al. 2019), which tells probabilities here and not a majority.
    """

    def __init__(self, copies: int, sigma: float, pad: int):
        if not copies >= 1:
            raise InputError(f"attack.change.copies={copies}: at least 1")
        if not sigma > 0:
            raise InputError(f"attack.change.sigma={sigma}: it must be above 0")
        if not pad >= 0:
            raise InputError(f"attack.change.pad={pad}: it can't be negative")
        self.copies, self.sigma, self.pad = copies, sigma, pad

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        with torch.random.fork_rng():
            # The same for every call with as many pictures: a verdict can be repeated.
            torch.manual_seed(len(images))
            moved = [crop_and_flip(images, self.pad, False) for _ in range(self.copies)]
        noised = [noisy(each, self.sigma, number) for number, each in enumerate(moved)]
        return torch.stack([answer(each) for each in noised]).mean(0)


def noisy(images: Tensor, sigma: float, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return as_pixels(images + 255 * sigma * torch.randn(images.shape, generator=draw))
