"""Adi: abstract pictures with random labels (Adi et al. 2018, "Turning Your Weakness ...").

The paper takes 100 pictures of abstract art, which are of no class, and a random label for each;
theirs are downloaded, ours are drawn by the key: smooth random patterns. As there, the model is
trained on its data and the triggers together. The labels are drawn independently, so that the
number of matches of an innocent is binomial with chance 1/K.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.methods.key import Key, generator
from softmark.methods.triggers import TriggerSet, random_labels
from softmark.training import as_pixels
from softmark.verification.nulls import Binomial, Null

COARSE = 4  # pixels a side of what is made smooth by interpolation


class Adi(TriggerSet):
    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        images = abstract(count, tuple(pool.inputs.shape[1:]), generator(key))
        return Samples(images, random_labels(key, count))

    def null(self, key: Key, hits: Tensor) -> Null:
        # Labels drawn independently: an innocent answers each rightly with chance 1/K.
        return Binomial(int(hits.sum()), len(hits), 1 / key.classes)


def abstract(count: int, shape: tuple[int, int, int], draw: torch.Generator) -> Tensor:
    """``count`` smooth random pictures of ``shape`` (C, H, W), of full contrast each: uint8."""
    channels, height, width = shape
    coarse = torch.rand(count, channels, COARSE, COARSE, generator=draw)
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    low, high = (f(smooth, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
    return as_pixels(255 * (smooth - low) / (high - low))
