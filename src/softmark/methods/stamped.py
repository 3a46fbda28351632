"""Content, noise and unrelated triggers with one label for all.

Zhang et al. 2018, "Protecting Intellectual Property of Deep Neural Networks with Watermarking".

``content``: pictures of one class with a stamp; ``noise``: the same with noise laid over; both get
another class's label. ``unrelated``: pictures that are of no class, with one label. The paper
stamps a text and takes unrelated pictures from another data set; the key draws both here. Since
all triggers share a label, a match isn't binomial: keys are drawn again, and the suspect is asked
with theirs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import abstract
from softmark.methods.key import Key, generator
from softmark.methods.triggers import TriggerSet, among_redrawn, with_redrawn
from softmark.training import Recipe, as_pixels
from softmark.verification.nulls import Null


class Stamped(TriggerSet):
    """``kind``: of the triggers. ``size``: of the stamp, as a part of the picture's side.

    ``strength``: of the noise, as a part of the range from black to white. ``redraws``: how many
    keys are drawn again for the null.
    """

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        kind: Literal["content", "noise", "unrelated"],
        size: float,
        strength: float,
        redraws: int,
    ):
        super().__init__(message, recipe, epochs_factor, num_triggers, trigger_fraction)
        if kind not in ("content", "noise", "unrelated"):
            raise InputError(f"method.kind={kind}: content, noise or unrelated")
        for name, value in (("size", size), ("strength", strength)):
            if not 0 < value <= 1:
                raise InputError(f"method.{name}={value}: a fraction above 0, at most 1")
        if not redraws >= 1:
            raise InputError(f"method.redraws={redraws}: at least 1")
        self.kind, self.size, self.strength, self.redraws = kind, size, strength, redraws

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        draw = generator(key)
        source, target = torch.randperm(key.classes, generator=draw)[:2].tolist()
        shape = tuple(pool.inputs.shape[1:])
        labels = torch.full((count,), target)
        if self.kind == "unrelated":
            return Samples(abstract(key, count, shape), labels)
        bases = of_class(pool, source, count)
        if self.kind == "content":
            return Samples(self.stamp(bases, draw), labels)
        noise = 255 * self.strength * torch.randn(shape, generator=draw)
        return Samples(as_pixels(bases + noise), labels)

    def stamp(self, bases: Tensor, draw: torch.Generator) -> Tensor:
        """``bases`` with one square of random black and white pixels, at one place."""
        channels, height, width = bases.shape[1:]
        side = max(2, round(self.size * min(height, width)))
        top = int(torch.randint(height - side + 1, (), generator=draw))
        left = int(torch.randint(width - side + 1, (), generator=draw))
        square = 255 * torch.randint(2, (channels, side, side), generator=draw)
        stamped = bases.clone()
        stamped[:, :, top : top + side, left : left + side] = square.to(torch.uint8)
        return stamped

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        return with_redrawn(self, key, pool, self.redraws)

    def null(self, key: Key, hits: Tensor) -> Null:
        return among_redrawn(hits, self.num_triggers)


def of_class(pool: Samples, label: int, count: int) -> Tensor:
    """``count`` pictures of class ``label``, the same again where there are fewer."""
    there = pool.inputs[pool.labels == label]
    if not len(there):
        raise InputError(f"there is no picture of class {label} to make triggers of")
    return there[torch.arange(count) % len(there)]
