"""From a suspect's answers to a verdict: evidence, the nulls it stands on, the judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from scipy import optimize, special, stats
from torch import Tensor

from softmark.errors import InputError


class Null(Protocol):
    """A test of "this suspect knows nothing of the key"."""

    name: str

    def p_value(self, calibration: Sequence[Null], confidence: float) -> float:
        """``calibration``: the same test of each calibration innocent, for a null made of them."""


@dataclass(frozen=True)
class Signs:
    """Key bits are coin flips: S = sum of ``weights * signs``, with ``weights`` fixed (CSP).

    Exact for any weights that don't depend on the key. ``weights`` and ``signs``: (M,).
    """

    weights: Tensor
    signs: Tensor
    name = "signs"

    # Above so many bits the grid's rounding costs more than Chernoff's bound does.
    CONVOLVED = 1000
    GRID = 20_000

    @property
    def score(self) -> float:
        """S over its largest possible value: between -1 and 1, 0 for no evidence."""
        total = float(self.weights.double().abs().sum())
        return float((self.weights.double() * self.signs).sum()) / total if total else 0.0

    def p_value(self, calibration: Sequence[Null] = (), confidence: float = 0.0) -> float:
        size = self.weights.double().abs().numpy()
        score = float((self.weights.double() * self.signs).sum())
        size = size[size > 0]
        if not len(size) or score <= 0:
            return 1.0
        bounds = [chernoff(size, score)]
        if len(size) <= self.CONVOLVED:
            bounds.append(convolve(size, score, self.GRID))
        return min(1.0, *bounds)


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
    name = "direction"

    @property
    def score(self) -> float:
        return self.cosine

    def p_value(self, calibration: Sequence[Null] = (), confidence: float = 0.0) -> float:
        if self.dimensions < 2 or not self.cosine > 0:
            return 1.0
        outside = max(0.0, 1 - self.cosine**2)
        return float(special.betainc((self.dimensions - 1) / 2, 0.5, outside) / 2)


@dataclass(frozen=True)
class Binomial:
    """``hits`` of ``trials``, each drawn with chance ``rate``, independently of the suspect."""

    hits: int
    trials: int
    rate: float
    name = "binomial"

    @property
    def score(self) -> float:
        return self.hits / self.trials if self.trials else 0.0

    def p_value(self, calibration: Sequence[Null] = (), confidence: float = 0.0) -> float:
        if not self.trials:
            return 1.0
        # Below 1e-300 float64 runs out and would say 0; the bound is still true.
        return max(float(stats.binom.sf(self.hits - 1, self.trials, self.rate)), 1e-300)


@dataclass(frozen=True)
class Flags:
    """How many probes a detector flags, against the worst calibration innocent's rate (USP).

    It assumes that the accused is no stranger than those innocents: no exact null.
    """

    flagged: int
    trials: int
    name = "flags"

    @property
    def score(self) -> float:
        return self.flagged / self.trials if self.trials else 0.0

    def p_value(self, calibration: Sequence[Null], confidence: float) -> float:
        if not calibration or not self.trials:
            return 1.0
        rate = max(upper_bound(other.flagged, other.trials, confidence) for other in calibration)
        return Binomial(self.flagged, self.trials, rate).p_value()


def upper_bound(hits: int, trials: int, confidence: float) -> float:
    """Clopper and Pearson's upper bound of a rate, one-sided; 1 where there were no trials."""
    if hits >= trials:
        return 1.0
    return float(stats.beta.ppf(confidence, hits + 1, trials - hits))


@dataclass(frozen=True)
class Evidence:
    """What the probes show: ``scores`` (N,), one number a probe, and the tests of the whole.

    No tests: no mark to judge, and ``why`` says so.
    """

    scores: Tensor
    tests: tuple[Null, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Identification:
    """Which registered message a suspect carries: ``name``, or None where none is proven.

    ``p_value``: of the likeliest message, and ``p_values`` of each, corrected for their number.
    """

    name: str | None
    p_value: float
    p_values: dict[str, float]


NO_MARK = Evidence(torch.empty(0), (), "no mark to judge")


@dataclass(frozen=True)
class Verdict:
    """``p_value`` is the weakest test's, since all must reach their level for a claim.

    ``tests``: the p-value of each null, corrected for the number of keys that were tried.
    """

    score: float | None
    p_value: float | None
    null: str | None
    claimed: bool
    tests: dict[str, float] = field(default_factory=dict)
    watermark_accuracy: float | None = None
    watermark_accuracy_of_10: float | None = None
    false_claims: int = 0
    innocents: int = 0
    false_claims_upper: float | None = None
    why: str = ""


def honest_answers(answers: Tensor, classes: int) -> str:
    """Why ``answers`` can't be probabilities (N, ``classes``); empty where they can."""
    if answers.ndim != 2 or answers.shape[1] != classes:
        return f"the suspect answers {tuple(answers.shape)}, not (probes, {classes})"
    if not bool(answers.isfinite().all()):
        return "the suspect answers with numbers that are not finite"
    if bool((answers < 0).any()) or bool(((answers.sum(1) - 1).abs() > 0.01).any()):
        return "the suspect's answers are not probabilities"
    return ""


@dataclass(frozen=True)
class Verifier:
    """The one judge of all methods.

    ``probes``: how many inputs are asked, of the kind ``inputs`` (``data.Roles.probes``).
    ``messages``: those that the owner registered, of which the verdict may name one. ``levels``:
    the p-value that each null must reach for a claim. ``false_flags``: of the single-probe
    threshold, on calibration innocents. ``confidence``: of upper bounds. ``keys_tried``: keys,
    salts or customers tried on this suspect; p is multiplied.
    """

    probes: int
    inputs: str
    messages: list[str]
    levels: dict[str, float]
    false_flags: float
    confidence: float
    keys_tried: int

    def __post_init__(self) -> None:
        for message in self.messages:
            if not message:
                raise InputError("verifier.messages: an empty message names nobody")
            if self.messages.count(message) > 1:
                raise InputError(f"verifier.messages: {message!r} is registered twice")
        for name in ("probes", "keys_tried"):
            if getattr(self, name) < 1:
                raise InputError(f"verifier.{name}={getattr(self, name)}: at least 1")
        fractions = {"false_flags": self.false_flags, "confidence": self.confidence}
        fractions |= {f"levels.{name}": level for name, level in self.levels.items()}
        for name, value in fractions.items():
            if not 0 < value < 1:
                raise InputError(f"verifier.{name}={value}: a fraction between 0 and 1")

    def judge(
        self,
        evidence: Evidence,
        calibration: Sequence[Evidence],
        evaluation: Sequence[Evidence],
    ) -> Verdict:
        """The verdict on ``evidence``; the innocents' evidence is of the same key and probes."""
        if not evidence.tests:
            return Verdict(None, None, None, claimed=False, why=evidence.why)
        tests = self._p_values(evidence, calibration)
        claims = [self._claims(self._p_values(other, calibration)) for other in evaluation]
        single, tens = (
            balanced_accuracy(evidence, calibration, evaluation, self.false_flags, group)
            for group in (1, 10)
        )
        return Verdict(
            score=evidence.tests[0].score,
            p_value=max(tests.values()),
            null="+".join(tests),
            claimed=self._claims(tests),
            tests=tests,
            watermark_accuracy=single,
            watermark_accuracy_of_10=tens,
            false_claims=sum(claims),
            innocents=len(claims),
            false_claims_upper=upper_bound(sum(claims), len(claims), 0.95) if claims else None,
            why=evidence.why,
        )

    def p_value(self, evidence: Evidence, calibration: Sequence[Evidence]) -> float | None:
        """The weakest test's p-value; None without a test."""
        return max(self._p_values(evidence, calibration).values()) if evidence.tests else None

    def identify(self, tests: Mapping[str, Null]) -> Identification | None:
        """Names the message whose test is the strongest, if it reaches its level; None for no test.

        ``tests``: the exact test of each registered message. p is multiplied by their number, so
        that an innocent is named with no more than the level's probability.
        """
        if not tests:
            return None
        tried = len(tests) * self.keys_tried
        p_values = {name: min(1.0, tried * test.p_value((), 0.0)) for name, test in tests.items()}
        name = min(p_values, key=p_values.__getitem__)
        proven = p_values[name] <= self.levels[tests[name].name]
        return Identification(name if proven else None, p_values[name], p_values)

    def _p_values(self, evidence: Evidence, calibration: Sequence[Evidence]) -> dict[str, float]:
        others = [[other.tests[i] for other in calibration] for i in range(len(evidence.tests))]
        return {
            test.name: min(1.0, self.keys_tried * test.p_value(others[i], self.confidence))
            for i, test in enumerate(evidence.tests)
        }

    def _claims(self, tests: dict[str, float]) -> bool:
        return all(p <= self.levels[name] for name, p in tests.items())


def balanced_accuracy(
    evidence: Evidence,
    calibration: Sequence[Evidence],
    evaluation: Sequence[Evidence],
    false_flags: float,
    group: int,
) -> float | None:
    """How often a decision on ``group`` probes is right, suspect and innocents weighing the same.

    The threshold leaves ``false_flags`` of the calibration innocents' groups above it, and each
    evaluation innocent weighs the same. None without innocents or with too few probes.
    """
    if not calibration or not evaluation or len(evidence.scores) < group:
        return None
    threshold = float(
        np.quantile(
            np.concatenate([_groups(e.scores, group) for e in calibration]),
            1 - false_flags,
            method="higher",
        )
    )
    hit = float((_groups(evidence.scores, group) > threshold).mean())
    false = float(np.mean([(_groups(e.scores, group) > threshold).mean() for e in evaluation]))
    return (hit + 1 - false) / 2


def _groups(scores: Tensor, group: int) -> np.ndarray:
    """The mean score of each run of ``group`` probes."""
    whole = len(scores) // group * group
    return scores[:whole].double().reshape(-1, group).mean(1).numpy()
