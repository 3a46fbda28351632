"""Adi: abstract pictures with random labels (Adi et al. 2018, "Turning Your Weakness ...").

The paper takes 100 pictures of abstract art, which are of no class, and a random label for each;
theirs are downloaded, ours are drawn by the key: smooth random patterns. As there, the model is
trained on its data and the triggers together. The labels are drawn independently, so that the
number of matches of an innocent is binomial with chance 1/K.

The authors' code trains from the start for 60 epochs by default, two triggers beside each batch of
100, so that each is seen 600 times, and never augments them. Here the training starts from the
victim (a variant of theirs) for twice the recipe's epochs, 30 % of the samples are triggers, each
seen 120 times on digits, and crops move them as any sample.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.parts.trigger_set import TriggerSet, random_labels
from softmark.verification.nulls import Binomial, Null

COARSE = 4  # pixels a side of what is made smooth by interpolation


class Adi(TriggerSet):
    """Train the model to give random labels to abstract pictures.

    Source: Adi et al. 2018, "Turning Your Weakness Into a Strength" (arXiv 1802.04633).

    Example:
        >>> import torch
        >>> from softmark.data.roles import Samples
        >>> pool = Samples(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([0]))
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> triggers = Adi(num_triggers=20).probes(key, pool)
        >>> tuple(triggers.inputs.shape), triggers.labels[:4].tolist()
        ((20, 1, 8, 8), [6, 0, 5, 7])
    """

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        pictures = abstract_pictures(key, count, pool.inputs.shape[1:])
        return Samples(pictures, random_labels(key, count))

    def null(self, key: Key, hits: Tensor) -> Null:
        # Labels drawn independently: an innocent answers each rightly with chance 1/K.
        return Binomial(int(hits.sum()), len(hits), 1 / key.classes)


def abstract_pictures(key: Key, count: int, shape: Sequence[int]) -> Tensor:
    """Draw ``count`` smooth random pictures of ``shape`` (C, H, W), of full contrast each: uint8.

    Squares of 4 x 4 random bytes, enlarged by bicubic interpolation. All in integers: whoever has
    the key draws the same pictures to the bit, with any library and on any processor.
    """
    if len(shape) != 3:
        raise InputError(
            f"this method's triggers are pictures (C, H, W), and these inputs are {tuple(shape)}"
        )
    channels, height, width = shape
    drawn = key.owner_part().for_message("triggers").stream(count * channels * COARSE**2)
    coarse = np.frombuffer(drawn, np.uint8).reshape(count, channels, COARSE, COARSE)
    rows, columns = bicubic_weights(height), bicubic_weights(width)  # (H, 4), (W, 4)
    smooth = rows @ coarse.astype(np.int64) @ columns.T  # (N, C, H, W)
    low, high = (f(smooth, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    span = np.maximum(high - low, 1)  # (N, 1, 1, 1)
    pixels = (2 * 255 * (smooth - low) + (high - low)) // (2 * span)  # to the nearest
    return torch.from_numpy(pixels.astype(np.uint8))


@functools.lru_cache
def bicubic_weights(size: int) -> np.ndarray:
    """Return the weights, in parts of 4096, by which ``size`` pixels follow from four: (size, 4).

    Keys' bicubic kernel with a = -3/4, as torch has it; beyond the border its pixel goes on.
    """
    weights = np.zeros((size, COARSE), np.int64)
    for place in range(size):
        centre = Fraction((2 * place + 1) * COARSE - size, 2 * size)
        first = centre.__floor__()
        for step in range(-1, 3):
            x = abs(centre - first - step)
            near = Fraction(5, 4) * x**3 - Fraction(9, 4) * x**2 + 1
            far = Fraction(-3, 4) * x**3 + Fraction(15, 4) * x**2 - 6 * x + 3
            pixel = min(max(first + step, 0), COARSE - 1)
            weights[place, pixel] += round(4096 * (near if x <= 1 else far))
    return weights
