"""What stays the same for every suspect of a key: its probes and triggers, and how it is judged."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect
from softmark.owner.key import Key
from softmark.owner.kinds import watermark_of
from softmark.owner.statement import Probes, Statement
from softmark.settings import CONF
from softmark.tails import is_clear, mistakes
from softmark.verification.evidence import Evidence, usable
from softmark.verification.judge import Verdict, Verifier

# Of the answers to the probes so many must tell something: who may leave some out can choose them.
USABLE = 0.95
SEEN = 5  # probes of a class that must be answered so, and be most of it, to show its column


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
        self.checked = None if labels is None else checked_labels(labels, self.count, key.classes)
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
        probes = self.probes[: min(len(answers), self.count)]
        found = self.verifier.ask(self.method, self._suspect(answers), self.first, probes, probes)
        clean = usable(answers[: self.count])[0]
        tied = int((clean == clean[:, :1]).all(1).sum())
        if found.tests and tied > (1 - USABLE) * len(clean):
            return Evidence.none(f"{tied} of {len(clean)} answers tell nothing")
        return found

    def judge(self, evidence: Evidence, answers: Tensor) -> Verdict:
        """The verdict on ``answers`` (N + T, K), corrected for the orders of classes left open."""
        orders = self.orders(answers)
        judging = replace(self.verifier, keys_tried=self.verifier.keys_tried * orders)
        verdict = judging.judge(evidence, (), ())
        if len(self.keys) > 1 and evidence.tests:
            return self._named(judging, verdict, answers)
        return verdict

    def orders(self, answers: Tensor) -> int:
        """How many orders of classes the committed labels leave open: p is multiplied by it."""
        return orders_open(len(self.unseen(answers)), self.key.classes)

    def unseen(self, answers: Tensor) -> list[int]:
        """The classes whose place in ``answers`` (N + T, K) the committed labels don't show."""
        labels = self.key.labels
        if labels is None:
            return list(range(self.key.classes))
        clean, labels = usable(answers[: self.count])[0], labels[: len(answers)]
        wrong = mistakes(clean, labels).sum(1)
        asked = labels[is_clear(clean)].bincount(minlength=self.key.classes)
        right = asked - wrong
        return ((right < SEEN) | (2 * right <= asked)).nonzero().flatten().tolist()

    def p_value(self, answers: Tensor) -> float:
        p = self.judge(self.evidence(answers), answers).p_value
        return 1.0 if p is None else p

    def _suspect(self, answers: Tensor) -> Suspect:
        triggers = self.inputs[self.count :]

        def answer(inputs: Tensor) -> Tensor:
            keyed = len(triggers) and torch.equal(inputs, triggers)
            return answers[self.count :] if keyed else answers[: self.count]

        return Suspect(answer)

    def _named(self, judging: Verifier, verdict: Verdict, answers: Tensor) -> Verdict:
        """The verdict on the likeliest customer, corrected for the number of them."""
        suspect, probes = Suspect(lambda inputs: usable(answers)[0]), self.probes[: len(answers)]
        tests = {
            name: next(iter(self.method.evidence(suspect, key, probes).tests.values()))
            for name, key in self.keys.items()
        }
        identified = judging.identify(tests)
        best = min(identified.p_values, key=identified.p_values.__getitem__)
        return replace(
            verdict,
            score=tests[best].score,
            p_value=identified.p_value,
            claimed=identified.name is not None,
            tests=dict.fromkeys(verdict.tests, identified.p_value),
            identified=identified.name,
        )


def orders_open(unseen: int, classes: int) -> int:
    """By what p is multiplied where ``unseen`` classes may have been given any of their places.

    Whoever brings the answers may choose an order of the columns that fits. Of m classes that moved
    there are at most K! / (K - m)! ways, and the sum of 1 / m^2 from m = 2 on is below 1. Nobody
    can move one class alone.
    """
    if unseen < 2:
        return 1
    return math.perm(classes, unseen) * unseen**2


def verifier(probes: int, level: float, keys_tried: int) -> Verifier:
    """Softmark's own verifier at ``level``: no key has a say in it."""
    numbers = OmegaConf.to_container(OmegaConf.load(CONF / "verifier" / "standard.yaml"))
    del numbers["_target_"]
    numbers["levels"]["exact"], numbers["usable"] = level, USABLE
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
    drawn = method.trigger_probes(key, unlabelled(inputs))
    if not len(drawn) or torch.equal(drawn.inputs, inputs):
        return
    other = int((drawn.inputs != inputs).flatten(1).any(1).nonzero()[0])
    raise InputError(
        f"probes: of the last {len(inputs)} number {other + 1} isn't the picture that the key "
        "draws there: no verdict can stand on it"
    )


def checked_labels(labels: Any, count: int, classes: int) -> Tensor:
    """``labels`` as int64 (N,). Raises ``InputError`` for others than a class for each probe.

    All or none: who may choose the probes that count can choose those that fit.
    """
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels: they are no numbers ({error})") from error
    whole = given.shape == (count,) and not (given != given.round()).any()
    if not whole or not 0 <= given.min() <= given.max() < classes:
        first = given.shape == (count - 1,)
        hint = "; a 0 in the first line of a CSV is taken for the column's name" if first else ""
        raise InputError(
            f"labels of shape {tuple(given.shape)} and type {given.dtype}: a class from 0 to "
            f"{classes - 1} for each of {count} probes is needed, none left out{hint}"
        )
    return given.long()


def _tried(count: Any) -> int:
    if type(count) is not int or count < 1:
        raise InputError(f"keys_tried={count!r}: a whole number from 1 on is needed")
    return count
