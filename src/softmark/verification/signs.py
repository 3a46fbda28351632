"""The null of keys that are signs: a weighted sum of coin flips, whose tail is never too small."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import optimize
from torch import Tensor

from softmark.verification.nulls import SMALLEST_P, Kind

MAX_SEARCHED = 100_000  # sizes by which Chernoff's rate is searched


@dataclass(frozen=True)
class Signs:
    """Test key bits as coin flips: S = sum of ``weights * signs``, with ``weights`` fixed (CSP).

    Exact for any weights that don't depend on the key; S is bounded from above where M is large.

    Args:
        weights: what the suspect shows of each sign, (M,).
        signs: of the key, 1 or -1, (M,).
        about: which part of the answers the weights are of, for whoever reads the verdict.

    Example:
        Ten signs of which all agree have a chance of 2^-10:

        >>> import torch
        >>> p = Signs(torch.ones(10), torch.ones(10)).p_value()
        >>> 2**-10 <= p < 1.001 * 2**-10
        True
    """

    weights: Tensor
    signs: Tensor
    about: str = ""
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    # Above so many bits the grid's rounding costs more than Chernoff's bound does.
    CONVOLVED: ClassVar[int] = 1000
    GRID: ClassVar[int] = 20_000

    @property
    def score(self) -> float:
        """S over its largest possible value: between -1 and 1, 0 for no evidence."""
        total = float(self.weights.double().abs().sum())
        return float((self.weights.double() * self.signs).sum()) / total if total else 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing was seen."""
        return not self.weights.any()

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return self._tail

    @functools.cached_property
    def _tail(self) -> float:
        sizes = self.weights.double().abs().numpy()  # (M,)
        score = float((self.weights.double() * self.signs).sum())
        sizes = sizes[sizes > 0]
        # Not above 0, and also no number at all.
        if not len(sizes) or not score > 0:
            return 1.0
        bounds = [chernoff(sizes, score)]
        if len(sizes) <= self.CONVOLVED:
            bounds.append(convolve(sizes, score, self.GRID))
        return max(min(1.0, *bounds), SMALLEST_P)


def convolve(sizes: np.ndarray, score: float, grid: int) -> float:
    """Return P(sum of +-``sizes`` >= ``score``), never below the truth, by adding on a grid.

    Only positive numbers are added, so that even 1e-25 keeps its digits. Each size moves by at most
    half a step when it is put on the grid: ``score`` is lowered by as much.

    Args:
        sizes: above 0, (M,).
        score: of the suspect.
        grid: steps of the grid.
    """
    step = sizes.sum() / grid
    jumps = np.rint(sizes / step).astype(int)  # (M,)
    mass = np.ones(1)  # of each sum that the jumps so far can reach, lowest first
    for jump in jumps[jumps > 0]:
        halved = mass / 2
        mass = np.zeros(len(mass) + 2 * jump)
        mass[2 * jump :] += halved
        mass[: len(halved)] += halved
    lowest = math.floor(score / step - len(sizes) / 2 - 1e-9)
    # A part in a billion outweighs what the additions themselves can have lost.
    return float(mass[max(0, lowest + len(mass) // 2) :].sum() * (1 + 1e-9))


def chernoff(sizes: np.ndarray, score: float) -> float:
    """Return min over l >= 0 of exp(-l ``score``) prod cosh(l ``sizes``): a bound of the tail.

    Every l gives a bound, so that an inexact minimum is still one; 1 where ``score`` <= 0.
    """
    if score <= 0:
        return 1.0
    scale = float(np.sqrt((sizes**2).sum()))

    def log_bound(rate: float, some: np.ndarray) -> float:
        x = rate * some / scale  # (m,)
        # log cosh x without overflow
        logs = (x + np.log1p(np.exp(-2 * x)) - math.log(2)).sum() * (len(sizes) / len(some))
        return float(logs - rate * score / scale)

    # A part of a million sizes shows where the minimum lies.
    some = sizes[:: math.ceil(len(sizes) / MAX_SEARCHED)]
    best = optimize.minimize_scalar(log_bound, bounds=(0, 200), args=(some,), method="bounded")
    return min(1.0, math.exp(log_bound(best.x, sizes)) * (1 + 1e-9))
