"""Triggers of several source classes, each with a target class that the key draws.

Triggers of one source share a label, so that their matches aren't binomial: a model may answer all
of them alike. But each source's target was drawn independently of the others, and the answers of a
model that knows nothing of the key don't depend on the draw. So every combination of targets is as
likely, and p is the part of them that the answers match as often as the owner's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from softmark.verification.nulls import SMALLEST_P, Kind


@dataclass(frozen=True)
class DrawnTargets:
    """Compare the matches with those of all targets that the key could have drawn.

    Args:
        hits: how many triggers are answered with the target of their source.
        counts: for each source, how many of its triggers are answered with each class that its
            target could have been.
        trials: how many triggers there are.

    Example:
        Two sources of five triggers, all answered alike, and three possible targets for each:

        >>> round(9 * DrawnTargets(10, ((5, 0, 0), (0, 0, 5)), 10).p_value(), 6)
        1.0
    """

    hits: int
    counts: tuple[tuple[int, ...], ...]
    trials: int
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = False

    @property
    def score(self) -> float:
        """The part of the triggers that is answered as the owner wants."""
        return self.hits / self.trials if self.trials else 0.0

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        if self.hits <= 0:
            return 1.0
        chances = np.ones(1)  # of each number of matches, (M,)
        for counts in self.counts:
            one = np.bincount(counts) / len(counts)
            chances = np.convolve(chances, one)
        tail = float(chances[self.hits :].sum())
        return min(1.0, max(tail, SMALLEST_P))


def drawn_targets(
    answered: Tensor, labels: Tensor, kinds: Tensor, sources: Tensor, classes: int
) -> DrawnTargets:
    """Return the test of what a suspect answers to triggers.

    Args:
        answered: classes, (N,).
        labels: the targets, (N,).
        kinds: which source each trigger is of, from 0 on, (N,).
        sources: the classes that each source's target can't be, (S, n).
        classes: K.
    """
    counts = []
    for kind, barred in enumerate(sources.tolist()):
        found = torch.bincount(answered[kinds == kind], minlength=classes).tolist()  # (K,)
        counts.append(tuple(found[label] for label in range(classes) if label not in barred))
    return DrawnTargets(int((answered == labels).sum()), tuple(counts), len(answered))


def draw_targets(sources: Tensor, classes: int, draw: torch.Generator) -> Tensor:
    """Return a target for each of ``sources`` (S, n), none of its n classes: (S,).

    Each is drawn independently, and uniformly among the K - n classes that are left.
    """
    left = torch.ones(len(sources), classes, dtype=torch.bool).scatter(1, sources, False)
    ranks = torch.randint(classes - sources.shape[1], (len(sources),), generator=draw)  # (S,)
    return (left.long().cumsum(1) == 1 + ranks[:, None]).int().argmax(1)
