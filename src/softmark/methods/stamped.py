"""Content, noise and unrelated triggers.

Zhang et al. 2018, "Protecting Intellectual Property of Deep Neural Networks with Watermarking".

``content``: pictures of one class with a stamp; ``noise``: the same with noise laid over; both get
another class's label. ``unrelated``: pictures that are of no class. The paper stamps a text and
takes unrelated pictures from another data set; the key draws both here. No code of the authors' is
known. The Watermark Robustness Toolbox (Lukas et al. 2022) takes 100 pictures of one class, learnt
ten times each, and asks the suspect for the same pictures; DeepJudge's copy learns all pictures of
a class and asks for others, as we do. Of unrelated pictures the toolbox gives each a random label,
which we do as well, and DeepJudge gives all one.

One pair of source and target proves little: a model that answers any stamp on the source with the
target fits one key in K (K - 1), and no p can fall below that. So a key draws several pairs,
``pairs`` of them, all under the one stamp. The test is exact: each target was drawn independently.
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
from softmark.methods.parts.drawn_targets import draw_targets, drawn_targets
from softmark.methods.parts.trigger_set import TriggerSet, random_labels
from softmark.models.access import Suspect
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial, Null


@dataclass(frozen=True, kw_only=True)
class Stamped(TriggerSet):
    """Train the model to give wrong labels to pictures that the key has stamped or drawn.

    Source: Zhang et al. 2018, "Protecting Intellectual Property of Deep Neural Networks with
    Watermarking" (AsiaCCS).

    Example:
        >>> import torch
        >>> pool = Samples(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> triggers = Stamped(kind="content", pairs=1).triggers(key, pool, 20)
        >>> tuple(triggers.inputs.shape), len(triggers.labels.unique())
        ((20, 1, 8, 8), 1)
    """

    trigger_fraction: float = 0.3
    """Of the training samples that are triggers. Between 0 and 1."""
    kind: Literal["content", "noise", "unrelated"] = "content"
    """Of the triggers: pictures with a stamp, pictures with noise, or pictures of no class."""
    pairs: int = 10
    """Source classes, each with a target. At least 1; as many as there are classes at most."""
    size: float = 0.3
    """Of the stamp, over the picture's side. Above 0, at most 1."""
    strength: float = 0.3
    """Of the noise, over the range from black to white. Above 0, at most 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in ("content", "noise", "unrelated"):
            raise InputError(f"method.kind={self.kind}: content, noise or unrelated")
        for name in ("size", "strength"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(
                    f"method.{name}={getattr(self, name)}: a fraction above 0, at most 1"
                )
        check_at_least_one(self, "pairs")

    def draw_pairs(self, key: Key, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the source classes, all different, and their targets: (P,) each.

        Of fewer classes than ``pairs`` each is a source.
        """
        sources = torch.randperm(key.classes, generator=draw)[: self.pairs]
        return sources, draw_targets(sources[:, None], key.classes, draw)

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Return ``count`` triggers; the pairs take turns."""
        shape = tuple(pool.inputs.shape[1:])
        if self.kind == "unrelated":
            return Samples(abstract_pictures(key, count, shape), random_labels(key, count))
        draw = generator(key)
        sources, targets = self.draw_pairs(key, draw)
        turns = torch.arange(count) % len(sources)
        bases = torch.empty(count, *shape, dtype=torch.uint8)
        for number, source in enumerate(sources.tolist()):
            of_pair = turns == number
            bases[of_pair] = pictures_of_class(pool, source, int(of_pair.sum()))
        if self.kind == "content":
            return Samples(self.stamp(bases, draw), targets[turns])
        noise = 255 * self.strength * torch.randn(shape, generator=draw)
        return Samples(as_pixels(bases + noise), targets[turns])

    def learnt(self, key: Key, data: Samples) -> Samples:
        """Return the triggers that the model learns: as many different ones as there can be."""
        odds = self.trigger_fraction / (1 - self.trigger_fraction)
        many = 0 if self.kind == "unrelated" else round(odds * len(data))
        return self.triggers(key, data, max(self.num_triggers, many))

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

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if self.kind == "unrelated":
            return super().evidence(suspect, key, probes)
        answered = suspect.answers(probes).argmax(1)  # (N,)
        sources, _ = self.draw_pairs(key, generator(key))
        turns = torch.arange(len(answered)) % len(sources)
        test = drawn_targets(answered, probes.labels, turns, sources[:, None], key.classes)
        hits = answered == probes.labels
        return Evidence(hits.float(), {"triggers": test}, mark_recall=test.score)

    def null(self, key: Key, hits: Tensor) -> Null:
        return Binomial(int(hits.sum()), len(hits), 1 / key.classes)


def pictures_of_class(pool: Samples, label: int, count: int) -> Tensor:
    """Return ``count`` pictures of class ``label``, the same again where there are fewer."""
    pictures = pool.inputs[pool.labels == label]
    if not len(pictures):
        raise InputError(f"there is no picture of class {label} to make triggers of")
    return pictures[torch.arange(count) % len(pictures)]
