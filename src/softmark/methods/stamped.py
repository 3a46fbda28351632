"""Content, noise and unrelated triggers with one label for all.

Zhang et al. 2018, "Protecting Intellectual Property of Deep Neural Networks with Watermarking".

``content``: pictures of one class with a stamp; ``noise``: the same with noise laid over; both get
another class's label. ``unrelated``: pictures that are of no class, with one label. The paper
stamps a text and takes unrelated pictures from another data set; the key draws both here. Since
all triggers share a label, a match isn't binomial: keys are drawn again, and the suspect is asked
with theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import abstract_pictures
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_at_least_one
from softmark.methods.parts.trigger_set import TriggerSet, redrawn_null, with_redrawn_triggers
from softmark.verification.nulls import Null


@dataclass(frozen=True, kw_only=True)
class Stamped(TriggerSet):
    """Train the model to give one label to pictures that the key has stamped or drawn.

    Source: Zhang et al. 2018, "Protecting Intellectual Property of Deep Neural Networks with
    Watermarking" (AsiaCCS).

    Example:
        >>> import torch
        >>> pool = Samples(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> triggers = Stamped(kind="content").triggers(key, pool, 20)
        >>> tuple(triggers.inputs.shape), len(triggers.labels.unique())
        ((20, 1, 8, 8), 1)
    """

    num_triggers: int = 20
    """Triggers on which a suspect is asked, and which are learnt. At least 1."""
    kind: Literal["content", "noise", "unrelated"] = "content"
    """Of the triggers: pictures with a stamp, pictures with noise, or pictures of no class."""
    size: float = 0.3
    """Of the stamp, over the picture's side. Above 0, at most 1."""
    strength: float = 0.3
    """Of the noise, over the range from black to white. Above 0, at most 1."""
    redraws: int = 1999
    """Keys that are drawn again for the null. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("content", "noise", "unrelated"):
            raise InputError(f"method.kind={self.kind}: content, noise or unrelated")
        for name in ("size", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"method.{name}={getattr(self, name)}: a fraction above 0, at most 1"
                )
        check_at_least_one(self, "redraws")

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        draw = generator(key)
        source, target = torch.randperm(key.classes, generator=draw)[:2].tolist()
        shape = tuple(pool.inputs.shape[1:])
        labels = torch.full((count,), target)
        if self.kind == "unrelated":
            return Samples(abstract_pictures(key, count, shape), labels)
        bases = pictures_of_class(pool, source, count)
        if self.kind == "content":
            return Samples(self.stamp(bases, draw), labels)
        noise = 255 * self.strength * torch.randn(shape, generator=draw)
        return Samples(as_pixels(bases + noise), labels)

    def stamp(self, bases: Tensor, draw: torch.Generator) -> Tensor:
        """Return ``bases`` with one square of random black and white pixels, at one place."""
        channels, height, width = bases.shape[1:]
        side = max(2, round(self.size * min(height, width)))
        top = int(torch.randint(height - side + 1, (), generator=draw))
        left = int(torch.randint(width - side + 1, (), generator=draw))
        square = 255 * torch.randint(2, (channels, side, side), generator=draw)
        stamped = bases.clone()
        stamped[:, :, top : top + side, left : left + side] = square.to(torch.uint8)
        return stamped

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        return with_redrawn_triggers(self, key, pool, self.redraws)

    def null(self, key: Key, hits: Tensor) -> Null:
        return redrawn_null(hits, self.num_triggers)


def pictures_of_class(pool: Samples, label: int, count: int) -> Tensor:
    """Return ``count`` pictures of class ``label``, the same again where there are fewer."""
    pictures = pool.inputs[pool.labels == label]
    if not len(pictures):
        raise InputError(f"there is no picture of class {label} to make triggers of")
    return pictures[torch.arange(count) % len(pictures)]
