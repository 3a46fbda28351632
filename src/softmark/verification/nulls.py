"""Null distributions of "this suspect knows nothing of the key".

Each null has a ``kind`` that says what its p-value rests on, and from which the level of a claim
follows: ``exact`` (the key's own randomness), ``sampled`` (keys drawn again, so that p has a floor)
or ``innocents`` (independent models, so that p has a floor and assumes that the accused is no
stranger than they are). ``independent_probes``: it holds only where no key chose the probes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from scipy import optimize, special, stats
from torch import Tensor

# Below it float64 runs out and would say 0; the bound is still true.
SMALLEST_P = 1e-300
Kind = Literal["exact", "sampled", "innocents"]


class Null(Protocol):
    """One test. ``score``: larger for more evidence."""

    kind: Kind
    independent_probes: bool

    @property
    def score(self) -> float: ...

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        """``innocents``: the same test's score of each calibration innocent."""


@dataclass(frozen=True)
class Signs:
    """Key bits are coin flips: S = sum of ``weights * signs``, with ``weights`` fixed (CSP).

    Exact for any weights that don't depend on the key. ``weights`` and ``signs``: (M,).
    """

    weights: Tensor
    signs: Tensor
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
        """Nothing was seen."""
        return not self.weights.any()

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return self._tail

    @functools.cached_property
    def _tail(self) -> float:
        size = self.weights.double().abs().numpy()
        score = float((self.weights.double() * self.signs).sum())
        size = size[size > 0]
        # Not above 0, and also no number at all.
        if not len(size) or not score > 0:
            return 1.0
        bounds = [chernoff(size, score)]
        if len(size) <= self.CONVOLVED:
            bounds.append(convolve(size, score, self.GRID))
        return max(min(1.0, *bounds), SMALLEST_P)


def convolve(sizes: np.ndarray, score: float, grid: int) -> float:
    """P(sum of +-``sizes`` >= ``score``), never below the truth, by shift and add on a grid.

    Only positive numbers are added, so that even 1e-25 keeps its digits. Each size moves by at most
    half a step when it is put on the grid: ``score`` is lowered by as much.
    """
    step = sizes.sum() / grid
    jumps = np.rint(sizes / step).astype(int)
    reach = int(jumps.sum())
    mass = np.zeros(2 * reach + 1)
    mass[reach] = 1.0
    for jump in jumps[jumps > 0]:
        halved = mass / 2
        mass = np.zeros_like(mass)
        mass[jump:] += halved[: len(mass) - jump]
        mass[: len(mass) - jump] += halved[jump:]
    lowest = math.floor(score / step - len(sizes) / 2 - 1e-9)
    # A part in a billion outweighs what the additions themselves can have lost.
    return float(mass[max(0, lowest + reach) :].sum() * (1 + 1e-9))


def chernoff(sizes: np.ndarray, score: float) -> float:
    """min over l >= 0 of exp(-l ``score``) prod cosh(l ``sizes``): an upper bound of the tail.

    Every l gives a bound, so that an inexact minimum is still one; 1 where ``score`` <= 0.
    """
    if score <= 0:
        return 1.0
    scale = float(np.sqrt((sizes**2).sum()))

    def log_bound(rate: float) -> float:
        x = rate * sizes / scale
        # log cosh x without overflow
        return float((x + np.log1p(np.exp(-2 * x)) - math.log(2)).sum() - rate * score / scale)

    best = optimize.minimize_scalar(log_bound, bounds=(0, 200), method="bounded")
    return min(1.0, math.exp(log_bound(best.x)) * (1 + 1e-9))


@dataclass(frozen=True)
class Direction:
    """A direction drawn uniformly on the sphere in ``dimensions``: its cosine to the evidence."""

    cosine: float
    dimensions: int
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @property
    def score(self) -> float:
        return self.cosine

    @property
    def idle(self) -> bool:
        """Nothing was seen: a random direction is never at a right angle to anything else."""
        return self.cosine == 0

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        if self.dimensions < 2 or not self.cosine > 0:
            return 1.0
        outside = max(0.0, 1 - self.cosine**2)
        # A cosine of 1 is a p-value that float64 can't tell from 0.
        return max(float(special.betainc((self.dimensions - 1) / 2, 0.5, outside) / 2), SMALLEST_P)


@dataclass(frozen=True)
class Either:
    """The strongest of several exact tests, p multiplied by their number (Bonferroni).

    ``tests``: of the same key; they may depend on each other.
    """

    tests: tuple[Null, ...]
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @classmethod
    def of(cls, tests: Sequence[Signs | Direction]) -> Either:
        """Of those for which there is evidence at all, whatever the key says of it; or the first.

        No factor is paid for the others.
        """
        return cls(tuple(test for test in tests if not test.idle) or tuple(tests[:1]))

    @property
    def strongest(self) -> Null:
        return min(self.tests, key=lambda test: test.p_value())

    @property
    def score(self) -> float:
        return self.strongest.score

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return min(1.0, len(self.tests) * min(test.p_value() for test in self.tests))


@dataclass(frozen=True)
class Both:
    """Two exact tests together, where chance decides each independently of the other.

    P(U V <= x) = x (1 - ln x) for two numbers that are uniform between 0 and 1, and x the product
    of both p-values (Fisher 1932, "Statistical Methods for Research Workers").
    """

    first: Null
    second: Null
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @property
    def score(self) -> float:
        """The mean of both."""
        return (self.first.score + self.second.score) / 2

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        product = max(self.first.p_value() * self.second.p_value(), SMALLEST_P)
        return product * (1 - math.log(product))


@dataclass(frozen=True)
class Binomial:
    """``hits`` of ``trials``, each drawn with chance ``rate``, independently of the suspect.

    The draws may be the probes' own (trigger labels, bits), so that the key may choose the probes.
    """

    hits: int
    trials: int
    rate: float
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = False

    @property
    def score(self) -> float:
        return self.hits / self.trials if self.trials else 0.0

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        if not self.trials:
            return 1.0
        return max(float(stats.binom.sf(self.hits - 1, self.trials, self.rate)), SMALLEST_P)


@dataclass(frozen=True)
class Sampled:
    """``score`` among the scores of n keys drawn again: p = (1 + those as large) / (1 + n).

    ``drawn``: (n,), scores of the same suspect under keys of the same distribution.
    """

    score: float
    drawn: Tensor
    kind: ClassVar[Kind] = "sampled"
    independent_probes: ClassVar[bool] = False

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        # What is no number counts against the owner.
        return (1 + int((~(self.drawn < self.score)).sum())) / (1 + len(self.drawn))


@dataclass(frozen=True)
class Innocents:
    """``score`` among the calibration innocents' (conformal): p = (1 + those as large) / (1 + n).

    With 24 innocents p can't fall below 1/25. It assumes that the accused, if innocent, is drawn
    like them.
    """

    score: float
    kind: ClassVar[Kind] = "innocents"
    independent_probes: ClassVar[bool] = False

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return (1 + sum(not other < self.score for other in innocents)) / (1 + len(innocents))


@dataclass(frozen=True)
class Measured:
    """A test whose p-value was computed before: what is kept of an innocent's."""

    kind: Kind
    score: float
    p: float
    independent_probes: ClassVar[bool] = False

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return Innocents(self.score).p_value(innocents) if self.kind == "innocents" else self.p


def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound of a rate, one-sided; 1 where there were no trials."""
    if hits >= trials:
        return 1.0
    return float(stats.beta.ppf(confidence, hits + 1, trials - hits))
