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

from softmark.verification.nulls import SMALLEST_P, Either, Kind, Null

MAX_SEARCHED = 100_000  # sizes by which Chernoff's rate is searched
AT_A_TIME = 2**20  # sizes that are held in float64


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
        total = sum(float(part.double().abs().sum()) for part in self.weights.split(AT_A_TIME))
        return self._sum / total if total else 0.0

    @property
    def idle(self) -> bool:
        """Whether nothing was seen."""
        return not self.weights.any()

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return self._tail

    @functools.cached_property
    def log_p_value(self) -> float:
        """The natural logarithm of p by Chernoff's bound, which doesn't end at ``SMALLEST_P``."""
        sizes = self._sizes
        return log_chernoff(sizes, self._sum) if len(sizes) else 0.0

    @functools.cached_property
    def _sum(self) -> float:
        parts = zip(self.weights.split(AT_A_TIME), self.signs.split(AT_A_TIME), strict=True)
        return sum(float((weights.double() * signs).sum()) for weights, signs in parts)

    @property
    def _sizes(self) -> np.ndarray:
        """The weights' sizes above 0; none where S isn't above 0, or is no number at all."""
        sizes = self.weights.abs().numpy()  # (M,)
        return sizes[sizes > 0] if self._sum > 0 else sizes[:0]

    @functools.cached_property
    def _tail(self) -> float:
        sizes = self._sizes
        if not len(sizes):
            return 1.0
        bounds = [chernoff(sizes, self._sum)]
        if len(sizes) <= self.CONVOLVED:
            bounds.append(convolve(sizes.astype(float), self._sum, self.GRID))
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
    return min(1.0, math.exp(log_chernoff(sizes, score)) * (1 + 1e-9))


def log_chernoff(sizes: np.ndarray, score: float) -> float:
    """Return the natural logarithm of the least of ``chernoff``'s bounds: at most 0."""
    if score <= 0:
        return 0.0
    starts = range(0, len(sizes), AT_A_TIME)
    parts = [sizes[start : start + AT_A_TIME] for start in starts]
    scale = float(np.sqrt(sum((part.astype(float) ** 2).sum() for part in parts)))

    def log_cosh(rate: float, some: np.ndarray) -> float:
        x = rate * some.astype(float) / scale  # (m,)
        return float((x + np.log1p(np.exp(-2 * x)) - math.log(2)).sum())  # without overflow

    # A part of a million sizes shows where the minimum lies.
    some = sizes[:: math.ceil(len(sizes) / MAX_SEARCHED)]

    def log_bound(rate: float) -> float:
        return log_cosh(rate, some) * (len(sizes) / len(some)) - rate * score / scale

    best = optimize.minimize_scalar(log_bound, bounds=(0, 200), method="bounded").x
    return min(0.0, sum(log_cosh(best, part) for part in parts) - best * score / scale)


def log_p_value(test: Null) -> float:
    """Return the natural logarithm of an exact test's p: of signs it goes on below SMALLEST_P.

    Example:
        >>> import torch
        >>> bool(log_p_value(Signs(torch.ones(9000), torch.ones(9000))) < -6000)
        True
    """
    if isinstance(test, Either):
        return min(0.0, math.log(len(test.tests)) + min(map(log_p_value, test.tests)))
    log_p = math.log(max(test.p_value(), SMALLEST_P))
    return min(log_p, test.log_p_value) if isinstance(test, Signs) else log_p
