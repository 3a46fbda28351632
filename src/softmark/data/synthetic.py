"""Draw pictures of any number of classes: nothing to download."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from softmark.data.sources import Decoded
from softmark.errors import InputError


@dataclass(frozen=True)
class Synthetic:
    """Drawn pictures, of any number of classes: each class has a smooth pattern of its own.

    Five classes at a time share most of it, so that models mistake them for each other. A picture
    is its class's pattern, moved by up to two pixels around the edges, fainter or stronger, with
    normal noise. The same numbers give the same pictures.

    Args:
        classes: at least 2.
        pictures: of all classes together, which have as many each; at least 6 a class.
        size: pixels a side, at least 4.
        noise: the standard deviation, in units of that of the patterns.
        seed: from 0 on.

    Example:
        >>> Synthetic(classes=2, pictures=12, size=8, noise=0.5, seed=0).read().images.shape
        (12, 1, 8, 8)
    """

    classes: int
    pictures: int
    size: int
    noise: float
    seed: int

    def __post_init__(self) -> None:
        least = {"classes": 2, "pictures": 6 * self.classes, "size": 4, "noise": 0, "seed": 0}
        for name, minimum in least.items():
            if not getattr(self, name) >= minimum:
                raise InputError(f"data.{name}={getattr(self, name)}: at least {minimum} is needed")

    def read(self) -> Decoded:
        """Decode everything."""
        random = np.random.Generator(np.random.PCG64(self.seed))
        alike = self._patterns(random, -(-self.classes // 5)).repeat(5, 0)[: self.classes]
        patterns = (alike + 0.7 * self._patterns(random, self.classes)) / 1.49**0.5
        labels = np.arange(self.pictures) % self.classes
        images = np.empty((len(labels), 1, self.size, self.size), np.uint8)
        for place, label in enumerate(labels):
            moved = np.roll(patterns[label], random.integers(-2, 3, 2), (0, 1))
            picture = moved * random.uniform(0.6, 1.4)
            picture = picture + self.noise * random.standard_normal(picture.shape)
            images[place, 0] = np.clip(np.rint(128 + 32 * picture), 0, 255)
        return Decoded(images, labels, tuple(map(str, range(self.classes))), len(labels))

    def _patterns(self, random: np.random.Generator, count: int) -> np.ndarray:
        """Draw ``count`` smooth patterns of mean 0 and sd 1 that go on across the edges."""
        waves = np.fft.fft2(random.standard_normal((count, self.size, self.size)))
        frequency = np.fft.fftfreq(self.size) * self.size
        low = np.exp(-(frequency[:, None] ** 2 + frequency**2) / 8)
        low[0, 0] = 0
        patterns = np.fft.ifft2(waves * low).real  # (count, size, size)
        return patterns / patterns.std((1, 2), keepdims=True)

    def signature(self) -> dict[str, Any]:
        """Return what tells this source from others, without decoding it."""
        return {"source": "synthetic", **asdict(self)}
