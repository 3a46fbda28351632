"""Null distributions of "this suspect knows nothing of the key".

Each null has a ``kind`` that says what its p-value rests on, and from which the level of a claim
follows: ``exact`` (the key's own randomness), ``sampled`` (keys drawn again, so that p has a floor)
or ``innocents`` (independent models, so that p has a floor and assumes that the accused is no
stranger than they are). ``independent_probes``: it holds only where no key chose the probes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from scipy import special, stats
from torch import Tensor

# Below it float64 runs out and would say 0; the bound is still true.
SMALLEST_P = 1e-300
Kind = Literal["exact", "sampled", "innocents"]


class Null(Protocol):
    """One test of "this suspect knows nothing of the key".

    Attributes:
        kind: what its p-value rests on, see above.
        independent_probes: whether it holds only where no key chose the probes.

    Example:
        >>> Binomial(hits=9, trials=10, rate=0.5).p_value()
        0.0107421875
    """

    kind: Kind
    independent_probes: bool

    @property
    def score(self) -> float:
        """How much evidence there is: larger for more."""

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        """Return the probability of as much evidence under the null, from 0 to 1.

        ``innocents``: the same test's score of each calibration innocent.
        """


@dataclass(frozen=True)
class Direction:
    """Test the cosine of a direction, drawn uniformly on the sphere, to the evidence (USP).

    Args:
        cosine: of pattern and evidence, from -1 to 1.
        dimensions: of the sphere's space.
        about: which part of the answers the evidence is of, for whoever reads the verdict.

    Example:
        In two dimensions a direction is within 60 degrees of another with chance 1/3:

        >>> round(Direction(cosine=0.5, dimensions=2).p_value(), 6)
        0.333333
    """

    cosine: float
    dimensions: int
    about: str = ""
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @property
    def score(self) -> float:
        return self.cosine

    @property
    def idle(self) -> bool:
        """Whether nothing was seen: a random direction is never at a right angle to anything."""
        return self.cosine == 0

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        if self.dimensions < 2 or not self.cosine > 0:
            return 1.0
        outside = max(0.0, 1 - self.cosine**2)
        # A cosine of 1 is a p-value that float64 can't tell from 0.
        return max(float(special.betainc((self.dimensions - 1) / 2, 0.5, outside) / 2), SMALLEST_P)


@dataclass(frozen=True)
class Either:
    """Take the strongest of several exact tests, its p times their number (Bonferroni).

    Args:
        tests: of the same key; they may depend on each other.

    Example:
        >>> round(Either((Direction(0.5, 2), Direction(0.0, 2))).p_value(), 6)
        0.666667
    """

    tests: tuple[Null, ...]
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @classmethod
    def of(cls, tests: Sequence[Any]) -> Either:
        """Combine those of ``tests`` that found any evidence, whatever the key says of it.

        No factor is paid for the others. Where none found any, the first is taken.
        """
        return cls(tuple(test for test in tests if not test.idle) or tuple(tests[:1]))

    @property
    def strongest(self) -> Null:
        """The test of the smallest p."""
        return min(self.tests, key=lambda test: test.p_value())

    @property
    def score(self) -> float:
        return self.strongest.score

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return min(1.0, len(self.tests) * min(test.p_value() for test in self.tests))


@dataclass(frozen=True)
class Both:
    """Combine two exact tests, where chance decides each independently of the other.

    P(U V <= x) = x (1 - ln x) for two numbers that are uniform between 0 and 1, and x the product
    of both p-values (Fisher 1932, "Statistical Methods for Research Workers").

    Args:
        first: one of both tests.
        second: the other one.

    Example:
        >>> two = Both(Binomial(7, 10, 0.5), Binomial(7, 10, 0.5))
        >>> round(two.first.p_value(), 3), round(two.p_value(), 3)
        (0.172, 0.134)
    """

    first: Null
    second: Null
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = True

    @property
    def score(self) -> float:
        """The mean of both scores."""
        return (self.first.score + self.second.score) / 2

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        product = max(self.first.p_value() * self.second.p_value(), SMALLEST_P)
        return product * (1 - math.log(product))


@dataclass(frozen=True)
class Binomial:
    """Test how often a suspect agrees with what was drawn independently of it.

    The draws may be the probes' own (trigger labels, bits), so that the key may choose the probes.

    Args:
        hits: how often the suspect agrees.
        trials: of how many draws.
        rate: the chance of each, between 0 and 1.

    Example:
        >>> round(Binomial(hits=20, trials=100, rate=0.1).p_value(), 4)
        0.002
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
    """Compare a score with those of n keys drawn again: p = (1 + those as large) / (1 + n).

    Args:
        score: of the suspect under the owner's key.
        drawn: of the same suspect under keys of the same distribution, (n,).

    Example:
        >>> import torch
        >>> Sampled(0.9, torch.zeros(99)).p_value()
        0.01
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
    """Compare a score with the calibration innocents': p = (1 + those as large) / (1 + n).

    A conformal test. With 24 innocents p can't fall below 1/25. It assumes that the accused, if
    innocent, is drawn like them.

    Args:
        score: of the suspect.

    Example:
        >>> Innocents(0.9).p_value([0.1] * 24)
        0.04
    """

    score: float
    kind: ClassVar[Kind] = "innocents"
    independent_probes: ClassVar[bool] = False

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return (1 + sum(not other < self.score for other in innocents)) / (1 + len(innocents))


@dataclass(frozen=True)
class Measured:
    """Hold a test whose p-value was computed before: what a file keeps of an innocent's.

    Args:
        kind: of the test.
        score: of the innocent.
        p: its p-value; not read where ``kind`` is innocents, whose pool may be another one now.
    """

    kind: Kind
    score: float
    p: float
    independent_probes: ClassVar[bool] = False

    def p_value(self, innocents: Sequence[float] = ()) -> float:
        return Innocents(self.score).p_value(innocents) if self.kind == "innocents" else self.p


def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """Return Clopper and Pearson's upper bound of a rate, one-sided; 1 for no trials.

    Example:
        >>> round(upper_bound(hits=0, trials=98, confidence=0.95), 4)
        0.0301
    """
    if hits >= trials:
        return 1.0
    return float(stats.beta.ppf(confidence, hits + 1, trials - hits))
