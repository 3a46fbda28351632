"""What is put before the stolen model: changed answers, changed inputs, several models' answers.

The model stays as it was stolen. Who asks gets what is served; who holds the weights doesn't.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from softmark.attacks.answers import Change, Flatten
from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check,
    check_count,
    check_not_negative,
    check_positive,
)
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.data.augment import crop_and_flip
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.models.access import Answer, answers_of, classes_of
from softmark.models.networks import Ensemble, OtherTail
from softmark.recipe import Recipe
from softmark.training import Fit, predict


@dataclass(kw_only=True, eq=False)
class Serve(Attack):
    """Change the answers of the stolen model before they are told.

    Example:
        >>> import torch
        >>> from softmark.attacks import Labels
        >>> model = torch.nn.Linear(2, 3)
        >>> suspect = Serve(change=Labels())(model, (torch.rand(8, 2), torch.arange(8) % 3))
        >>> answers = suspect(torch.rand(5, 2)).exp()
        >>> answers.amax(1).tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0]
    """

    access = "weights"

    change: Change = field(default_factory=Flatten)
    """What is made of the answers; it may learn from the model's answers first."""

    @property
    def transform(self) -> Change:
        """What has learnt from the model's answers."""
        return self.change

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        answers = predict(target, data.inputs)
        self.change.learn(answers, data, fit)
        # What can't be done is known now, not when the judge asks.
        self.change(answers[:2])
        return AttackResult(target)

    def serve(self, answer: Answer) -> Answer:
        return lambda images: self.change(answer(images))


@dataclass(kw_only=True, eq=False)
class ServeTogether(Attack):
    """Tell the mean of the stolen model's answers and of those of a model of the attacker's own."""

    access = "weights"
    together: ClassVar[type[Ensemble]] = Ensemble

    recipe: Recipe = RECIPE
    """How the attacker's model is trained."""
    network: NetworkFactory | None = None
    """The architecture of the attacker's model; None in a call: the target's own."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        classes = classes_of(target, data)
        shadow = train_shadow_model(self.network, self.recipe, data, classes, fit)
        return AttackResult(self.together.of([target, shadow]))


@dataclass(kw_only=True, eq=False)
class ServeOwnTail(ServeTogether):
    """Tell the stolen model's classes, with the tails of a model that the attacker trained."""

    together: ClassVar[type[Ensemble]] = OtherTail


@dataclass(kw_only=True, eq=False)
class InputChange:
    """Give a model other pictures than were asked."""

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        """Return the answers (N, K) of ``answer`` to changed ``images``, uint8 (N, C, H, W)."""
        raise NotImplementedError


@dataclass(kw_only=True, eq=False)
class Jpeg(InputChange):
    """Send each picture through a JPEG file."""

    quality: int = 45
    """Quality of the file; 1 to 95."""

    def __post_init__(self) -> None:
        check(1 <= self.quality <= 95, "change.quality", self.quality, "1 to 95")

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(torch.stack([self.through(image) for image in images]))

    def through(self, image: Tensor) -> Tensor:
        """Return ``image``, uint8 (C, H, W), as it is read from the file."""
        grey = image.shape[0] == 1
        pixels = image[0].numpy() if grey else image.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=self.quality)
        decoded = torch.from_numpy(np.array(Image.open(file)))
        return decoded[None] if grey else decoded.permute(2, 0, 1)


@dataclass(kw_only=True, eq=False)
class Inputs(Attack):
    """Change pictures before the model sees them."""

    access = "weights"
    takes_pictures = True

    change: InputChange = field(default_factory=Jpeg)
    """What is made of the pictures."""

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        self.change(answers_of(target), data.inputs[:2])
        return AttackResult(target)

    def serve(self, answer: Answer) -> Answer:
        return lambda images: self.change(answer, images)


@dataclass(kw_only=True, eq=False)
class Blur(InputChange):
    """Blur by a Gaussian."""

    sigma: float = 0.5
    """Its standard deviation in pixels; above 0."""

    def __post_init__(self) -> None:
        check_positive("change.sigma", self.sigma)

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        blurred = ndimage.gaussian_filter(images.float().numpy(), (0, 0, self.sigma, self.sigma))
        return answer(as_pixels(torch.from_numpy(blurred)))


@dataclass(kw_only=True, eq=False)
class Median(InputChange):
    """Make each pixel the median of its neighbourhood."""

    size: int = 2
    """Pixels a side of the neighbourhood; at least 2."""

    def __post_init__(self) -> None:
        check(self.size >= 2, "change.size", self.size, "at least 2 pixels")

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(
            torch.from_numpy(ndimage.median_filter(images.numpy(), (1, 1, self.size, self.size)))
        )


@dataclass(kw_only=True, eq=False)
class Levels(InputChange):
    """Leave few values a pixel: feature squeezing (Xu et al. 2018)."""

    levels: int = 10
    """Values a pixel, instead of 256; 2 to 256."""

    def __post_init__(self) -> None:
        check(2 <= self.levels <= 256, "change.levels", self.levels, "2 to 256")

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        step = 255 / (self.levels - 1)
        return answer(as_pixels((images / step).round() * step))


@dataclass(kw_only=True, eq=False)
class PixelNoise(InputChange):
    """Add independent normal noise to each pixel."""

    sigma: float = 0.05
    """Its standard deviation, of the range from black to white; above 0."""

    def __post_init__(self) -> None:
        check_positive("change.sigma", self.sigma)

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(noisy(images, self.sigma, len(images)))


@dataclass(kw_only=True, eq=False)
class Mirror(InputChange):
    """Let left and right change places."""

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        return answer(images.flip(3))


@dataclass(kw_only=True, eq=False)
class Smoothing(InputChange):
    """Tell the mean answer to shifted copies of a picture, with noise.

    Randomised smoothing (Cohen et al. 2019), which tells probabilities here and not a majority.
    """

    copies: int = 10
    """Copies of each picture; at least 1."""
    sigma: float = 0.05
    """Standard deviation of each pixel's noise, of the range from black to white; above 0."""
    pad: int = 1
    """Pixels by which a copy is shifted at most; 0 or more."""

    def __post_init__(self) -> None:
        check_count("change.copies", self.copies)
        check_positive("change.sigma", self.sigma)
        check_not_negative("change.pad", self.pad)

    def __call__(self, answer: Answer, images: Tensor) -> Tensor:
        with torch.random.fork_rng():
            # The same for every call with as many pictures: a verdict can be repeated.
            torch.manual_seed(len(images))
            shifted = [crop_and_flip(images, self.pad, False) for _ in range(self.copies)]
        copies = [noisy(images, self.sigma, number) for number, images in enumerate(shifted)]
        return torch.stack([answer(images) for images in copies]).mean(0)  # (N, K)


def noisy(images: Tensor, sigma: float, seed: int) -> Tensor:
    """Return uint8 ``images`` with normal noise of ``sigma`` times the range on each pixel."""
    draw = torch.Generator().manual_seed(seed)
    return as_pixels(images + 255 * sigma * torch.randn(images.shape, generator=draw))
