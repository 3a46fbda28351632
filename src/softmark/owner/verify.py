"""Whether a suspect derives from a marked model: its answers to the probes, the key, a verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect
from softmark.owner.asked import ask
from softmark.owner.beacon import Beacon, check_round
from softmark.owner.key import Key
from softmark.owner.kinds import watermark_of
from softmark.owner.samples import as_inputs
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON, Probes, Statement
from softmark.owner.told import remarks
from softmark.settings import CONF
from softmark.tails import is_clear, mistakes
from softmark.verification.evidence import Evidence, usable
from softmark.verification.judge import Verdict, Verifier

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
    gives logits. ``labels`` (N,): the classes that you see in the probes, -1 where you don't know:
    what the suspect mistakes for what counts only where the owner's labels are yours. ``beacon``,
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
    answers, said = ask(suspect, unlabelled(inputs), key.classes, logits)
    evidence = court.evidence(answers)
    verdict = court.judge(evidence, answers)
    said += remarks(answers[: court.count], key.statement.has_triggers, court.checked is not None)
    why = "; ".join(filter(None, [verdict.why, *said]))
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


class Court:
    """One key, its method, the probes: what stays the same for every suspect.

    ``inputs`` (N + T, ...): the probes, and behind them the triggers. ``checked`` (N,): the labels
    of whoever verifies, or None. Raises ``InputError`` where the inputs aren't those that the key
    was committed to and draws.
    """

    def __init__(self, key: Key, inputs: Tensor, level: float, keys_tried: int, labels: Any):
        self.key, self.inputs = key, inputs
        self.method = watermark_of(key.statement)
        self.count = key.statement.probes.count
        check_inputs(key.statement, inputs)
        self.keys = key.pattern_keys()
        self.first = self.keys[key.messages[0]]
        check_triggers(self.method, self.first, inputs[self.count :])
        self.checked = None if labels is None else checked_labels(labels, self.count)
        self.probes = Samples(inputs[: self.count], self._labels())
        self.verifier = verifier(len(inputs), level, _tried(keys_tried))

    def _labels(self) -> Tensor:
        """The committed labels that whoever verifies gives, too; else -1: (N,)."""
        nobody = torch.full((self.count,), -1)
        if self.key.labels is None or self.checked is None:
            return nobody
        return torch.where(self.key.labels == self.checked, self.key.labels, nobody)

    def evidence(self, answers: Tensor) -> Evidence:
        """Of ``answers`` (N + T, K), or to the first of the inputs alone."""
        labels = self.key.labels if self.checked is None else self.checked
        if pair := exchanged(answers[: self.count], labels):
            return Evidence.none(
                f"the answers fit the labels better with the classes {pair[0]} and {pair[1]} "
                "exchanged: the columns have another order, or the labels are wrong"
            )
        probes = self.probes[: min(len(answers), self.count)]
        return self.verifier.ask(self.method, self._suspect(answers), self.first, probes, probes)

    def judge(self, evidence: Evidence, answers: Tensor) -> Verdict:
        verdict = self.verifier.judge(evidence, (), ())
        return self._named(verdict, answers) if len(self.keys) > 1 and evidence.tests else verdict

    def p_value(self, answers: Tensor) -> float:
        p = self.judge(self.evidence(answers), answers).p_value
        return 1.0 if p is None else p

    def _suspect(self, answers: Tensor) -> Suspect:
        triggers = self.inputs[self.count :]

        def answer(inputs: Tensor) -> Tensor:
            keyed = len(triggers) and torch.equal(inputs, triggers)
            return answers[self.count :] if keyed else answers[: self.count]

        return Suspect(answer)

    def _named(self, verdict: Verdict, answers: Tensor) -> Verdict:
        """The verdict on the likeliest customer, corrected for the number of them."""
        suspect, probes = Suspect(lambda inputs: usable(answers)[0]), self.probes[: len(answers)]
        tests = {
            name: next(iter(self.method.evidence(suspect, key, probes).tests.values()))
            for name, key in self.keys.items()
        }
        identified = self.verifier.identify(tests)
        best = min(identified.p_values, key=identified.p_values.__getitem__)
        return replace(
            verdict,
            score=tests[best].score,
            p_value=identified.p_value,
            claimed=identified.name is not None,
            tests=dict.fromkeys(verdict.tests, identified.p_value),
            identified=identified.name,
        )


def verifier(probes: int, level: float, keys_tried: int) -> Verifier:
    """Softmark's own verifier at ``level``: no key has a say in it."""
    numbers = OmegaConf.to_container(OmegaConf.load(CONF / "verifier" / "standard.yaml"))
    del numbers["_target_"]
    numbers["levels"]["exact"] = level
    return Verifier(**{**numbers, "probes": probes, "keys_tried": keys_tried})


def unlabelled(inputs: Tensor) -> Samples:
    """``inputs`` as samples whose labels nobody knows."""
    return Samples(inputs, torch.full((len(inputs),), -1))


def check_inputs(statement: Statement, inputs: Tensor) -> None:
    """Raises ``InputError`` where ``inputs`` aren't the probes that were committed to."""
    wanted, triggers = statement.probes, statement.triggers
    if len(inputs) != wanted.count + triggers:
        raise InputError(
            f"probes: there are {len(inputs)}, and the key was committed to "
            f"{wanted.count + triggers}"
        )
    if Probes.of(inputs[: wanted.count]) != wanted:
        raise InputError(
            f"probes: their fingerprint isn't {wanted.sha256[:16]}..., to which the key was "
            "committed: other probes, another order, or another type of number"
        )


def check_triggers(method: Any, key: Any, inputs: Tensor) -> None:
    """Raises ``InputError`` where ``inputs`` (T, ...) aren't the pictures that ``key`` draws."""
    drawn = method.added(key, unlabelled(inputs))
    if not len(drawn) or torch.equal(drawn.inputs, inputs):
        return
    other = int((drawn.inputs != inputs).flatten(1).any(1).nonzero()[0])
    raise InputError(
        f"probes: of the last {len(inputs)} number {other + 1} isn't the picture that the key "
        "draws there: no verdict can stand on it"
    )


def exchanged(answers: Tensor, labels: Tensor | None) -> tuple[int, int] | None:
    """Two classes that seem to be exchanged in ``answers`` (N, K), or None.

    Whoever could choose the order of the classes could choose one that fits the pattern. ``labels``
    (N,): those of whoever verifies, or the committed ones, -1 where nobody knows. Two classes are
    exchanged if that would make five more answers right, and a quarter of what was asked of both.
    """
    if labels is None:
        return None
    clean, labels = usable(answers)[0], labels[: len(answers)]
    other = mistakes(clean, labels)
    known = is_clear(clean) & (labels >= 0)
    asked = labels[known].bincount(minlength=len(other)).float()
    right = asked - other.sum(1)
    gain = (other + other.T - right - right[:, None]).fill_diagonal_(-1)
    wrong = ((gain >= 5) & (4 * gain >= asked + asked[:, None])).nonzero()
    return tuple(wrong[0].tolist()) if len(wrong) else None


def checked_labels(labels: Any, count: int) -> Tensor:
    """``labels`` as int64 (N,). Raises ``InputError`` for others than one for each probe."""
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels: they are no numbers ({error})") from error
    if given.shape != (count,) or (given.is_floating_point() and (given != given.round()).any()):
        first = given.shape == (count - 1,)
        hint = "; a 0 in the first line of a CSV is taken for the column's name" if first else ""
        raise InputError(
            f"labels of shape {tuple(given.shape)} and type {given.dtype}: one whole number for "
            f"each of {count} probes is needed, -1 where you don't know{hint}"
        )
    return given.long()


def _tried(count: Any) -> int:
    if type(count) is not int or count < 1:
        raise InputError(f"keys_tried={count!r}: a whole number from 1 on is needed")
    return count
