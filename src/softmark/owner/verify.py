"""Whether a suspect derives from a marked model: its answers to the probes, the key, a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from torch import Tensor

from softmark.errors import InputError
from softmark.owner.beacon import Beacon, check_round
from softmark.owner.court import SEEN, Court
from softmark.owner.key import Key
from softmark.owner.samples import as_inputs
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON
from softmark.owner.suspects.diagnose import remarks_on
from softmark.owner.suspects.query import query_suspect
from softmark.verification.evidence import Evidence
from softmark.verification.judge import Verdict

PRICE = (
    "nobody but the owner drew the secret: each key that is tried costs scrypt's tenth of a "
    f"second, and the level is {LEVEL:g}"
)
NOT_LOOKED_UP = (
    f"the key names a beacon's round, which nobody looked up here: the level is {LEVEL:g}, as "
    "without one"
)
LOOKED_UP = (
    "round {round} of the beacon drew after the commitment of {published}, so that the level is "
    f"{LEVEL_WITH_BEACON:g}; each further commitment of the owner for such a round is one more try"
)


@dataclass(frozen=True)
class Examination:
    """A verdict and what it stands on.

    ``answers`` (N + T, K): the suspect's, as probabilities. ``evidence``: what they show of the
    key.
    """

    verdict: Verdict
    court: Court
    answers: Tensor
    evidence: Evidence

    def curve(self) -> dict[int, float]:
        """p by the number of probes: 1, 2, 5, 10, 20, 50, ... and all."""
        probes = len(self.court.inputs)
        steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
        counts = [*(step for step in steps if step < probes), probes]
        return {count: self.court.p_value(self.answers[:count]) for count in counts}


def verify(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
    labels: Any = None,
    beacon: Beacon | None = None,
    published: str | datetime | None = None,
) -> Verdict:
    """The verdict on ``suspect``: whether it derives from the model that ``key`` has marked.

    ``suspect``: a module that gives logits (asked in eval mode), a function from inputs to
    probabilities (N, K), an array of probabilities, one row for each probe in order, labels (N,),
    or an ``Endpoint``. ``probes``: those of the commitment, in their order. ``keys_tried``: keys
    that were tried on this suspect; p is multiplied by it. ``logits``: the function or the array
    gives logits. ``labels`` (N,): the classes that you see in the probes, of all of them: what the
    suspect mistakes for what counts only where the owner's labels are yours. ``beacon``,
    ``published``: where to look up the round that the key names, and when its commitment was public
    as its public record says; without both the level is 1e-12, as for a key without a beacon.

    The exact tests alone decide: csp's ``signs``, usp's ``direction``, ``triggers``, ``both``. A
    key of many customers names which of them leaked (``Verdict.identified``). ``Verdict.grounds``
    says what keeps an owner from drawing keys until one fits. Raises ``InputError`` for answers or
    probes that can't be used, and for a key that isn't what was committed to.
    """
    return examine(suspect, key, probes, keys_tried, logits, labels, beacon, published).verdict


def examine(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
    labels: Any = None,
    beacon: Beacon | None = None,
    published: str | datetime | None = None,
) -> Examination:
    """``verify``, with what the verdict stands on."""
    level, grounds = grounds_of(key, beacon, published)
    inputs = as_inputs(probes)
    court = Court(key, inputs, level, keys_tried, labels)
    answers, remarks = query_suspect(suspect, inputs, key.classes, logits)
    evidence = court.evidence(answers)
    verdict = court.judge(evidence, answers)
    has_triggers, labels_checked = key.statement.has_triggers, court.checked is not None
    remarks += remarks_on(answers[: court.count], has_triggers, labels_checked)
    if (orders := court.orders(answers)) > 1 and evidence.tests:
        remarks.append(
            f"the committed labels don't show the place of {len(court.unseen(answers))} of "
            f"{key.classes} classes ({SEEN} probes of each are to be answered so): p is multiplied "
            f"by {float(min(orders, 10**300)):.2g}, for any order of them"
        )
    why = "; ".join(filter(None, [verdict.why, *remarks]))
    return Examination(replace(verdict, why=why, grounds=grounds), court, answers, evidence)


def grounds_of(
    key: Key, beacon: Beacon | None, published: str | datetime | None
) -> tuple[float, str]:
    """The level of a claim, and what keeps an owner from drawing keys until one fits, in words.

    Raises ``InputError`` where the beacon's round isn't what the key says.
    """
    wanted, own = key.statement.beacon, key.statement.level or 1.0
    if (beacon is None) != (published is None):
        raise InputError("beacon and published: either needs the other")
    if wanted is None:
        if beacon is not None:
            raise InputError("the key names no beacon's round: leave beacon and published out")
        return min(LEVEL, own), PRICE
    if beacon is None:
        return min(LEVEL, own), NOT_LOOKED_UP
    check_round(wanted, key.randomness, beacon, published)
    words = LOOKED_UP.format(round=wanted.round, published=published)
    return min(LEVEL_WITH_BEACON, own), words
