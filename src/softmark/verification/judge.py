"""The one judge of all methods: from evidence to a verdict."""

from __future__ import annotations

import math
import numbers
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect
from softmark.verification.evidence import Evidence, usable
from softmark.verification.metrics import flag_rate, threshold
from softmark.verification.nulls import SMALLEST_P, Either, Null, upper_bound
from softmark.verification.signs import Signs, log_p_value
from softmark.verification.verdict import Identification, Innocent, Verdict

KINDS = ("exact", "sampled", "innocents")
MANY = 10**6  # keys, from which on it counts how far below SMALLEST_P a p is


@dataclass(frozen=True)
class Verifier:
    """Hold the terms of a claim, and judge by them.

    Raises:
        InputError: for numbers outside of their ranges, and messages that name nobody.

    Example:
        >>> from softmark.verification.nulls import Binomial
        >>> import torch
        >>> levels = {"exact": 1e-6, "sampled": 1e-3, "innocents": 0.05}
        >>> verifier = Verifier(100, "samples", [], levels, 0.5, 0.01, keys_tried=1)
        >>> evidence = Evidence(torch.empty(0), {"bits": Binomial(60, 64, 0.5)})
        >>> verifier.judge(evidence, (), ()).claimed
        True
    """

    probes: int
    """How many inputs are asked. At least 1."""
    inputs: str
    """Which (``data.roles.Roles.probes``): samples, sure, blends or noise."""
    messages: list[str]
    """Those that the owner registered, of which the verdict may name one."""
    levels: dict[str, float]
    """The p-value that a test must reach, by the kind of its null: exact, sampled, innocents."""
    usable: float
    """The part of the answers that must be probabilities for any verdict. Between 0 and 1."""
    false_flags: float
    """The rate at which the single-probe threshold flags calibration innocents' probes."""
    keys_tried: int
    """Keys, salts or customers tried on this suspect, at least 1: p is multiplied by it."""

    def __post_init__(self) -> None:
        for message in self.messages:
            if not message:
                raise InputError("verifier.messages: an empty message names nobody")
            if self.messages.count(message) > 1:
                raise InputError(f"verifier.messages: {message!r} is registered twice")
        for name in ("probes", "keys_tried"):
            if not getattr(self, name) >= 1:
                raise InputError(f"verifier.{name}={getattr(self, name)}: at least 1")
        if sorted(self.levels) != sorted(KINDS):
            raise InputError(f"verifier.levels names {', '.join(self.levels)}: {', '.join(KINDS)}")
        fractions = {"false_flags": self.false_flags, "usable": self.usable}
        fractions |= {f"levels.{name}": level for name, level in self.levels.items()}
        for name, value in fractions.items():
            if not 0 < value < 1:
                raise InputError(f"verifier.{name}={value}: a fraction between 0 and 1")

    @property
    def terms(self) -> dict[str, Any]:
        """How a claim will be decided: what the owner commits to together with the key."""
        return {
            "probes": self.probes,
            "inputs": self.inputs,
            "levels": self.levels,
            "usable": self.usable,
        }

    def ask(
        self, method: Any, suspect: Suspect, key: Any, probes: Samples, pool: Samples
    ) -> Evidence:
        """Return the evidence of ``method``, which sees of ``suspect`` no more than it needs.

        A null that needs probes which no key chose is refused where others are asked. Answers that
        are no probabilities count as no evidence, and are counted.

        Args:
            method: the watermark.
            suspect: the model that stands accused.
            key: the key whose mark is looked for.
            probes: what the suspect is asked.
            pool: the judge's probes, which no key has chosen.
        """
        visible = self.admit(method, suspect, key, probes)
        if isinstance(visible, Evidence):
            return visible
        evidence = method.evidence(visible, key, probes)
        if not isinstance(evidence, Evidence):
            name = f"{type(method).__name__}.evidence"
            raise InputError(f"{name} returned a {type(evidence).__name__}: an Evidence is needed")
        keyed = probes.fingerprint != pool[: len(probes)].fingerprint
        for name, test in evidence.tests.items():
            if keyed and test.independent_probes:
                return Evidence.none(f"{name} is exact only for probes that no key has chosen")
        return replace(evidence, unusable=usable(suspect.answers(probes))[1])

    def admit(
        self, method: Any, suspect: Suspect, key: Any, samples: Samples
    ) -> Suspect | Evidence:
        """Return what ``method`` may see of ``suspect``, or why there can be no verdict."""
        raw = suspect.answers(samples)
        if raw.shape != (shape := (len(samples), key.classes)):
            return Evidence.none(f"the suspect answers {tuple(raw.shape)}, not {shape}")
        answers, unusable = usable(raw)
        if len(raw) - unusable < self.usable * len(raw):
            return Evidence.none(f"{unusable} of {len(raw)} answers are no probabilities", unusable)
        if method.needs == "weights" and suspect.network is None:
            return Evidence.none("this method needs the suspect's weights")
        clean = Suspect(
            lambda images: usable(suspect.answer(images))[0],
            suspect.network,
            suspect.log,
            suspect.reads_logits,
            {samples.fingerprint: answers},
        )
        return clean.seen_by(method.needs)

    def judge(
        self, evidence: Evidence, calibration: Sequence[Innocent], evaluation: Sequence[Innocent]
    ) -> Verdict:
        """Return the verdict on ``evidence``.

        An innocent without tests is skipped. The threshold for the probes of an evaluation innocent
        comes from calibration innocents of other kinds than its own.

        Args:
            evidence: of the suspect.
            calibration: innocents from which thresholds and conformal p-values come.
            evaluation: innocents on which false claims are counted.
        """
        tested = [[i for i in pool if i.evidence.tests] for pool in (calibration, evaluation)]
        skipped = len(calibration) + len(evaluation) - sum(map(len, tested))
        if not evidence.tests:
            return Verdict(
                None, None, None, False, why=evidence.why, skipped=skipped,
                unusable=evidence.unusable,
            )  # fmt: skip
        calibration, evaluation = tested
        tests = self.p_values(evidence, calibration)
        claims = [
            self._claims(other.evidence, self.p_values(other.evidence, calibration))
            for other in evaluation
        ]
        single, tens = (self._accuracy(evidence, *tested, group) for group in (1, 10))
        return Verdict(
            score=next(iter(evidence.tests.values())).score,
            p_value=max(tests.values()),
            null="+".join(tests),
            claimed=self._claims(evidence, tests),
            tests=tests,
            watermark_accuracy=single,
            watermark_accuracy_of_10=tens,
            mark_recall=evidence.mark_recall,
            unusable=evidence.unusable,
            false_claims=sum(claims),
            innocents=len(claims),
            skipped=skipped,
            false_claims_upper=upper_bound(sum(claims), len(claims), 0.95) if claims else None,
            by_kind=self._by_kind(calibration, evaluation, claims),
            levels={name: self.levels[test.kind] for name, test in evidence.tests.items()},
            why=evidence.why,
        )

    def p_values(self, evidence: Evidence, calibration: Sequence[Innocent]) -> dict[str, float]:
        """Return the p-value of each test by name, corrected for the number of keys tried."""
        return {
            name: corrected(test, self.keys_tried, _scores_of(name, calibration), name)
            for name, test in evidence.tests.items()
        }

    def identify(self, tests: Mapping[str, Null]) -> Identification | None:
        """Name the message whose test is the strongest, if it reaches its level; None for no test.

        p is multiplied by their number, so that an innocent is named with no more than the level's
        probability. ``tests``: the exact test of each registered message.
        """
        if not tests:
            return None
        tried = len(tests) * self.keys_tried
        p_values = {name: corrected(test, tried, name=name) for name, test in tests.items()}
        name = min(p_values, key=p_values.__getitem__)
        proven = p_values[name] <= self.levels[tests[name].kind]
        return Identification(name if proven else None, p_values[name], p_values)

    def _claims(self, evidence: Evidence, p_values: Mapping[str, float]) -> bool:
        """Return whether every test reaches its level, and there is one."""
        reached = [p <= self.levels[evidence.tests[name].kind] for name, p in p_values.items()]
        return bool(reached) and all(reached)

    def _accuracy(
        self,
        evidence: Evidence,
        calibration: Sequence[Innocent],
        evaluation: Sequence[Innocent],
        group: int,
    ) -> float | None:
        """Return the balanced accuracy of decisions on ``group`` probes.

        Each innocent weighs the same.

        None without innocents, without a score a probe, or with too few probes.
        """
        calibration, evaluation = (
            [other for other in pool if len(other.evidence.scores) >= group]
            for pool in (calibration, evaluation)
        )
        if not calibration or not evaluation or len(evidence.scores) < group:
            return None
        scores = [other.evidence.scores for other in calibration]
        hit = flag_rate(evidence.scores, threshold(scores, self.false_flags, group), group)
        false = statistics.fmean(self._flagged(other, calibration, group) for other in evaluation)
        return (hit + 1 - false) / 2

    def _flagged(self, innocent: Innocent, calibration: Sequence[Innocent], group: int) -> float:
        """Return how much of an evaluation innocent is flagged, as if nobody knew its kind."""
        others = [i.evidence.scores for i in calibration if i.kind != innocent.kind]
        others = others or [i.evidence.scores for i in calibration]
        return flag_rate(
            innocent.evidence.scores, threshold(others, self.false_flags, group), group
        )

    def _by_kind(
        self,
        calibration: Sequence[Innocent],
        evaluation: Sequence[Innocent],
        claims: Sequence[bool],
    ) -> dict[str, dict[str, float | None]]:
        """Return number, flagged probes and claims of the evaluation innocents of each kind."""
        scored = [i for i in calibration if len(i.evidence.scores)]
        by_kind: dict[str, dict[str, float | None]] = {}
        for kind in dict.fromkeys(other.kind for other in evaluation):
            places = [i for i, other in enumerate(evaluation) if other.kind == kind]
            flags = [
                self._flagged(evaluation[i], scored, 1)
                for i in places
                if scored and len(evaluation[i].evidence.scores)
            ]
            by_kind[kind] = {
                "innocents": len(places),
                "false_flags": statistics.fmean(flags) if flags else None,
                "false_claims": sum(claims[i] for i in places),
            }
        return by_kind


def checked_p(name: str, p: Any) -> float:
    """Return ``p`` of the test ``name``. Raise ``InputError`` where it is no number from 0 to 1.

    Example:
        >>> checked_p("bits", 0.5)
        0.5
    """
    if not (isinstance(p, numbers.Real) and 0 <= p <= 1):
        raise InputError(f"the test {name!r} gives p = {p!r:.40}: a p-value lies between 0 and 1")
    return float(p)


def corrected(
    test: Null, tried: int, innocents: Sequence[float] = (), name: str = "of the mark"
) -> float:
    """Return p of ``test`` for the best of ``tried`` keys: as many times as large, and at most 1.

    ``innocents``: as for ``Null.p_value``; ``name``: of the test, for errors.

    Example:
        >>> from softmark.verification.nulls import Binomial
        >>> corrected(Binomial(9, 10, 0.5), 5), corrected(Binomial(5, 10, 0.5), 5)
        (0.0537109375, 1.0)
    """
    p = checked_p(name, test.p_value(innocents))
    if tried <= MANY or p > 1000 * SMALLEST_P:
        # A float can't count more keys, nor does any such p stand so many.
        return min(1.0, min(tried, 10**300) * p)
    log_p = log_p_value(test) if isinstance(test, Signs | Either) else math.log(max(p, SMALLEST_P))
    return max(math.exp(min(0.0, log_p + math.log(tried))), SMALLEST_P)


def _scores_of(name: str, innocents: Sequence[Innocent]) -> list[float]:
    return [i.evidence.tests[name].score for i in innocents if name in i.evidence.tests]
