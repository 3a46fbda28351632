"""Judge whether a suspect derives from a marked model, by its answers to the key's probes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from softmark.devices import usual_torch
from softmark.errors import InputError
from softmark.owner.beacon import Beacon, check_round
from softmark.owner.committed_key_verifier import (
    MIN_PROBES_OF_CLASS,
    CommittedKeyVerifier,
    in_words,
    num_open_orders,
)
from softmark.owner.key import Key
from softmark.owner.samples import as_named_inputs
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON
from softmark.owner.suspects.agreement import agreement_of, disagreement, is_certain, other_columns
from softmark.owner.suspects.diagnose import remarks_on
from softmark.owner.suspects.query import how_asked, query_suspect
from softmark.verification.evidence import Evidence, usable
from softmark.verification.verdict import Verdict

NO_BEACON = (
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
# A suspect of so small a p was asked rightly, whatever it answers.
SHOWS_MARK = 1e-3


@dataclass(frozen=True)
class Examination:
    """A verdict and what it stands on.

    Args:
        verdict: what ``verify`` returns.
        key_verifier: the key, its probes, and the terms of the claim.
        answers: the suspect's, as probabilities (N + T, K).
        evidence: what they show of the key.
        how: in which way the suspect was asked, in words.
        begun: when it was asked first.
        ended: when its last answer was there.

    Example:
        >>> examination = examine(marked.model, marked.key, marked.probes)
        >>> curve = examination.curve()
        >>> list(curve)[:5], curve[500] < curve[5]
        ([1, 2, 5, 10, 20], True)
    """

    verdict: Verdict
    key_verifier: CommittedKeyVerifier
    answers: Tensor
    evidence: Evidence
    how: str
    begun: datetime
    ended: datetime

    def curve(self) -> dict[int, float]:
        """Return p by the number of probes: 1, 2, 5, 10, 20, 50, ... and all."""
        num_inputs = len(self.key_verifier.inputs)
        steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
        counts = [*(step for step in steps if step < num_inputs), num_inputs]
        return {count: self.key_verifier.p_value(self.answers[:count]) for count in counts}


def verify(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
    labels: Any = None,
    beacon: Beacon | None = None,
    published: str | datetime | None = None,
    raw: bool = False,
    class_names: Sequence[str] | None = None,
) -> Verdict:
    """Judge whether ``suspect`` derives from the model that ``key`` has marked.

    Exact tests alone decide: csp's ``signs``, usp's ``direction``, ``triggers``, ``both``. They
    assume nothing about other models: only that secret and probes were fixed before the answers
    were seen. docs/FORMAT.md describes them.

    Args:
        suspect: a module that gives logits (asked in eval mode), a function from a batch of inputs
            to probabilities (n, K), an array of probabilities, one row for each probe in order,
            labels (N,), or an ``Endpoint``. Module and function are given the same: uint8 pictures
            as floats in [0, 1], anything else as it is.
        key: of ``mark``, ``new_key`` or ``load``.
        probes: those of the commitment, in their order.
        keys_tried: keys that were tried on this suspect; p is multiplied by it.
        logits: the function or the array gives logits or log-probabilities.
        labels: the classes that you see in the probes, (N,), for all of them: what the suspect
            mistakes for what counts only where the owner's labels are yours. None: it isn't
            counted.
        beacon: where to look up the round that the key names.
        published: when its commitment became public, as its public record says, with a time zone.
            Without ``beacon`` and ``published`` the level is 1e-12, as for a key without a beacon.
        raw: give a function uint8 pictures as bytes.
        class_names: where the suspect names classes (``[{"label": "cat", "score": 0.9}, ...]``):
            the names, in the order of the labels. None: by the number at their end.

    Returns:
        The verdict: ``outcome``, ``claimed``, ``p_value``, ``levels`` (what p must reach),
        ``identified`` (which of the key's customers leaked the model), ``agreement`` (how often the
        suspect answers as the unmarked model did), ``why`` (remarks on the answers), and
        ``grounds`` (what keeps an owner from drawing keys until one fits). Where the answers hardly
        agree with the unmarked model's there is no verdict, unless the mark is claimed.

    Raises:
        InputError: for answers or probes that can't be used, and for a key that isn't what was
            committed to.

    Example:
        >>> verdict = softmark.verify(marked.model, marked.key, marked.probes)
        >>> verdict.claimed, verdict.p_value < 1e-12
        (True, True)
        >>> softmark.verify(model, marked.key, marked.probes).claimed  # the unmarked model
        False
    """
    return examine(
        suspect, key, probes, keys_tried, logits, labels, beacon, published, raw, class_names
    ).verdict


@usual_torch()
def examine(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
    labels: Any = None,
    beacon: Beacon | None = None,
    published: str | datetime | None = None,
    raw: bool = False,
    class_names: Sequence[str] | None = None,
) -> Examination:
    """Return the verdict of ``verify`` together with what it stands on; arguments as there."""
    level, grounds = level_and_grounds(key, beacon, published)
    inputs, layout = as_named_inputs(probes)
    key_verifier = CommittedKeyVerifier(key, inputs, level, keys_tried, labels)
    begun = datetime.now(UTC)
    answers, remarks = query_suspect(suspect, inputs, key.classes, logits, raw, class_names, layout)
    ended = datetime.now(UTC)
    evidence = key_verifier.evidence(answers)
    num_open = len(key_verifier.open_classes(answers))
    open_orders = num_open_orders(num_open, key.classes)
    verdict = replace(key_verifier.judge(evidence, answers, open_orders), grounds=grounds)
    labels_checked = key_verifier.checked_labels is not None
    remarks += remarks_on(
        answers[: key_verifier.num_probes], key.statement.has_triggers, labels_checked
    )
    scaled = callable(suspect) and not raw and inputs.dtype == torch.uint8
    verdict = _with_agreement(verdict, key, answers[: key_verifier.num_probes], scaled)
    if open_orders > 1 and verdict.tests:
        remarks.append(
            f"the committed labels don't show the column of {num_open} of {key.classes} classes "
            f"({MIN_PROBES_OF_CLASS} probes of each must be answered as labelled): p is multiplied "
            f"by {in_words(open_orders)}, for any order of them"
        )
    why = "; ".join(filter(None, [verdict.why, *remarks]))
    verdict, how = replace(verdict, why=why), how_asked(suspect)
    return Examination(verdict, key_verifier, answers, evidence, how, begun, ended)


def _with_agreement(verdict: Verdict, key: Key, answers: Tensor, scaled: bool) -> Verdict:
    """Return ``verdict`` with the agreement of ``answers`` (N, K); none where that is too low.

    ``scaled``: the suspect was given uint8 pictures as floats in [0, 1].
    """
    probs = usable(answers)[0]  # (N, K)
    agreement = agreement_of(probs, key.labels)
    if agreement is None:
        unknown = "the key has no labels of the probes: whether this task is answered isn't known"
        why = "; ".join(filter(None, [verdict.why, "" if verdict.claimed else unknown]))
        return replace(verdict, why=why)
    verdict = replace(verdict, agreement=agreement.share)
    if verdict.claimed or not verdict.tests:
        return verdict
    if not agreement.answers_task or other_columns(probs, key.labels):
        reason = disagreement(agreement, probs, key.labels, scaled)
        if verdict.p_value <= SHOWS_MARK:
            return replace(verdict, why="; ".join(filter(None, [verdict.why, reason])))
        return Verdict(
            None, None, None, False, unusable=verdict.unusable, agreement=agreement.share,
            why=f"no verdict: it doesn't answer this task as asked, {reason}",
            grounds=verdict.grounds,
        )  # fmt: skip
    remark = ""
    if is_certain(probs):
        remark = "most answers are certain (.999999): inputs in another range would do that"
    elif agreement.is_low:
        remark = disagreement(agreement, probs, key.labels, scaled)
    return replace(verdict, why="; ".join(filter(None, [verdict.why, remark])))


def level_and_grounds(
    key: Key, beacon: Beacon | None, published: str | datetime | None
) -> tuple[float, str]:
    """Return the level of a claim, and what keeps an owner from drawing keys until one fits.

    Raises:
        InputError: where the beacon's round isn't what the key says.
    """
    named_round, own_level = key.statement.beacon, key.statement.level or 1.0
    if (beacon is None) != (published is None):
        raise InputError("beacon and published: either needs the other")
    if named_round is None:
        if beacon is not None:
            raise InputError("the key names no beacon's round: leave beacon and published out")
        return min(LEVEL, own_level), NO_BEACON
    if beacon is None:
        return min(LEVEL, own_level), NOT_LOOKED_UP
    check_round(named_round, key.randomness, beacon, published)
    grounds = LOOKED_UP.format(round=named_round.round, published=published)
    return min(LEVEL_WITH_BEACON, own_level), grounds
