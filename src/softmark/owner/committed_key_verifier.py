"""Judge suspects by a committed key: with its probes, labels and customers."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from softmark.console import report
from softmark.data.roles import Samples
from softmark.methods.key_verifier import KeyVerifier
from softmark.methods.parts.soft_labels import Part
from softmark.models.access import Suspect
from softmark.owner.checks import check_keys_tried, check_probes, check_triggers, checked_labels
from softmark.owner.key import Key
from softmark.owner.pattern_key import PatternKey
from softmark.owner.watermarks import watermark_of_statement
from softmark.settings import CONF
from softmark.tails import confusion_counts, is_clear, tail_sums
from softmark.verification.evidence import Evidence, usable
from softmark.verification.judge import Verifier, corrected
from softmark.verification.nulls import Null
from softmark.verification.verdict import Verdict

# The fraction of answers to the probes that must tell something: who may leave some out can
# choose them.
MIN_USABLE = 0.95
# What p of a customer's part must reach to name them, where the claim itself is proven.
NAMING_LEVEL = 1e-6
# So many probes of a class must be answered as labelled, and be most of it, to show its column.
MIN_PROBES_OF_CLASS = 5


class CommittedKeyVerifier:
    """Judge any number of suspects by one committed key.

    ``KeyVerifier`` asks for the evidence, and ``Verifier`` judges it. This adds what only an
    owner's key has: probes and triggers that were committed to, labels that count where whoever
    verifies gives the same, customers, and orders of the classes that the labels leave open.

    Args:
        key: the committed key.
        inputs: (N + T, ...): the probes, and behind them the triggers.
        level: the p that a claim must reach.
        keys_tried: keys that were tried on the same suspect; p is multiplied by it.
        labels: of whoever verifies, a class for each probe (N,); None for none.

    Attributes:
        checked_labels: ``labels`` as int64 (N,), or None.
        num_probes: N.
        terms: the verifier, with ``level`` and ``keys_tried``.

    Raises:
        InputError: where the inputs aren't those that the key was committed to and draws, and for
            labels or ``keys_tried`` that can't be used.

    Example:
        >>> key_verifier = CommittedKeyVerifier(marked.key, marked.probes, 1e-12, 1, None)
        >>> answers = marked.model(marked.probes).softmax(1).detach()
        >>> key_verifier.p_value(answers) < 1e-12
        True
    """

    def __init__(self, key: Key, inputs: Tensor, level: float, keys_tried: int, labels: Any):
        self.key, self.inputs = key, inputs
        self.num_probes = key.statement.probes.count
        check_probes(key.statement, inputs)
        self._method = watermark_of_statement(key.statement)
        self._pattern_key = key.pattern_key(key.messages[0])
        check_triggers(self._method, self._pattern_key, inputs[self.num_probes :])
        self.checked_labels = None
        if labels is not None:
            self.checked_labels = checked_labels(labels, self.num_probes, key.classes)
        self._probes = Samples(inputs[: self.num_probes], self._agreed_labels())
        self._last: tuple[Tensor, tuple[Tensor, Tensor]] | None = None  # answers that were read
        check_keys_tried(keys_tried)
        self.terms = terms_of_a_claim(len(inputs), level, keys_tried)

    def evidence(self, answers: Tensor) -> Evidence:
        """Return what ``answers`` show of the key: (N + T, K), or to the first of the inputs."""
        evidence = self._key_verifier(answers).evidence(self._suspect(answers))
        probs = self.probs(answers)
        num_tied = int((probs == probs[:, :1]).all(1).sum())
        if evidence.tests and num_tied > (1 - MIN_USABLE) * len(probs):
            return Evidence.none(f"{num_tied} of {len(probs)} answers tell nothing")
        return evidence

    def judge(self, evidence: Evidence, answers: Tensor, open_orders: int) -> Verdict:
        """Return the verdict on ``answers`` (N + T, K) that show ``evidence``.

        ``open_orders``: how many orders of classes are left open; p is multiplied by it.
        """
        keys_tried = self.terms.keys_tried * open_orders
        verdict = self._judge_first(evidence, keys_tried)
        if not evidence.tests:
            return verdict
        name, naming_p = self._likeliest_customer(answers, keys_tried)
        verdict = replace(verdict, customer_p_value=naming_p)
        if len(self.key.messages) == 1:
            return verdict
        name = name if naming_p <= NAMING_LEVEL else None
        p = self._p_of_customers(answers, name, keys_tried)
        claimed = p <= min(verdict.levels.values())
        if name is not None and not claimed:
            # Nobody is named without a claim: p stands on what may be disclosed, the owner's part.
            name, p = None, self._p_of_customers(answers, None, keys_tried)
        tests = dict.fromkeys(verdict.tests, p)
        return replace(verdict, p_value=p, claimed=claimed, tests=tests, identified=name)

    def _judge_first(self, evidence: Evidence, keys_tried: int) -> Verdict:
        """Return the verdict of the first customer's key, as if there were no other."""
        return replace(self.terms, keys_tried=keys_tried).judge(evidence, (), ())

    def tests_of_customers(self, answers: Tensor, name: str | None) -> list[Null]:
        """Return the tests on which the claim of a key of several customers stands.

        That of the owner's part alone, which copies of several customers have in common; and that
        of the whole pattern of the customer ``name``, if one is named.

        Args:
            answers: (N + T, K).
            name: of the customer; None for none.
        """
        tests = [self._exact(answers, self._pattern_key, "owner")]
        if name is not None:
            tests.append(self._exact(answers, self.key.pattern_key(name), "all"))
        return tests

    def _p_of_customers(self, answers: Tensor, name: str | None, keys_tried: int) -> float:
        """Return p of a key of several customers, corrected for both of its tests."""
        owner, *named = self.tests_of_customers(answers, name)
        # The named customer is one of as many as there are.
        tried = 2 * len(self.key.messages) * keys_tried
        return min(corrected(owner, 2 * keys_tried), *(corrected(test, tried) for test in named), 1)

    def _likeliest_customer(self, answers: Tensor, keys_tried: int) -> tuple[str, float]:
        """Return the likeliest customer, and p of their part alone, corrected for all of them."""
        keys = self.key.pattern_keys()
        tests = {name: self._exact(answers, key, "customer") for name, key in keys.items()}
        likeliest = min(tests, key=lambda name: tests[name].p_value())
        return likeliest, corrected(tests[likeliest], len(tests) * keys_tried)

    def _exact(self, answers: Tensor, pattern_key: PatternKey, part: Part) -> Null:
        """Return the test of a ``part`` of the pattern, by the answers to the probes alone."""
        soft = getattr(self._method, "soft", self._method)  # of a hybrid without its triggers
        return soft.exact_of(*self._shown(answers), pattern_key, part)[1]

    def probs(self, answers: Tensor) -> Tensor:
        """Return ``answers`` (N + T, K) to the probes as probabilities, (N, K)."""
        return usable(answers[: self.num_probes])[0]

    def _shown(self, answers: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the tests of every key read: sums of tails and counts of mistakes, (K, K)."""
        if self._last is None or self._last[0] is not answers:
            probs = self.probs(answers)
            labels = self._probes.labels[: len(probs)]
            self._last = answers, (tail_sums(probs), confusion_counts(probs, labels))
        return self._last[1]

    def p_value(self, answers: Tensor) -> float:
        """Return p of ``answers`` (n, K) to the first n inputs; 1 where nothing can be tested."""
        evidence, open_orders = self.evidence(answers), self.open_orders(answers)
        if len(self.key.messages) == 1:  # nobody need be named
            p = self._judge_first(evidence, self.terms.keys_tried * open_orders).p_value
        else:
            p = self.judge(evidence, answers, open_orders).p_value
        return 1.0 if p is None else p

    def open_orders(self, answers: Tensor) -> int:
        """Return how many orders of classes the committed labels leave open: of p a factor."""
        return num_open_orders(len(self.open_classes(answers)), self.key.classes)

    def open_classes(self, answers: Tensor) -> list[int]:
        """Return the classes whose column in ``answers`` (N + T, K) the labels leave open.

        Whoever brings the answers may have exchanged the columns of these.
        """
        labels = self.key.labels
        if labels is None:
            return list(range(self.key.classes))
        probs = self.probs(answers)
        labels, clear = labels[: len(answers)], is_clear(probs)  # (N,)
        is_right = clear & (probs.argmax(1) == labels)
        num_asked, num_right = (
            labels[some].bincount(minlength=self.key.classes) for some in (clear, is_right)
        )
        is_open = (num_right < MIN_PROBES_OF_CLASS) | (2 * num_right <= num_asked)
        return is_open.nonzero().flatten().tolist()

    def _key_verifier(self, answers: Tensor) -> KeyVerifier:
        """Return the verifier of the key on the probes to which there are ``answers``."""
        probes = self._probes[: min(len(answers), self.num_probes)]
        return KeyVerifier(self._method, self.terms, self._pattern_key, probes)

    def _suspect(self, answers: Tensor) -> Suspect:
        """Return a suspect that gives the ``answers`` (N + T, K) to probes and triggers."""
        triggers = self.inputs[self.num_probes :]

        def answer(inputs: Tensor) -> Tensor:
            are_triggers = len(triggers) and torch.equal(inputs, triggers)
            return answers[self.num_probes :] if are_triggers else answers[: self.num_probes]

        return Suspect(answer)

    def _agreed_labels(self) -> Tensor:
        """Return the committed labels that whoever verifies gives, too; else -1: (N,)."""
        unknown = torch.full((self.num_probes,), -1)
        if self.key.labels is None or self.checked_labels is None:
            return unknown
        return torch.where(self.key.labels == self.checked_labels, self.key.labels, unknown)


def num_open_orders(num_open_classes: int, classes: int) -> int:
    """Return by what p is multiplied if ``num_open_classes`` may have any of their columns.

    Whoever brings the answers may choose an order of the columns that fits. Of m classes that moved
    there are at most K! / (K - m)! orders, and the sum of 1 / m^2 from m = 2 on is below 1. Nobody
    can move one class alone.
    """
    if num_open_classes < 2:
        return 1
    return math.perm(classes, num_open_classes) * num_open_classes**2


def in_words(count: int) -> str:
    """Return a number that may be beyond floats, in two digits or as a power of ten.

    Example:
        >>> in_words(120), in_words(10**5000)
        ('1.2e+02', '10^5000')
    """
    return f"{float(count):.2g}" if count < 10**300 else f"10^{math.log10(count):.0f}"


def warn_of_few_probes(labels: Tensor | None, classes: int) -> None:
    """Say before the training what p will be multiplied by for want of probes of each class.

    ``labels``: of the probes, (N,); None where nobody knows them.
    """
    counts = torch.zeros(classes) if labels is None else labels.bincount(minlength=classes)
    num_open = int((counts < MIN_PROBES_OF_CLASS).sum())
    if (orders := num_open_orders(num_open, classes)) > 1:
        report(
            f"probes: {num_open} of {classes} classes have fewer than {MIN_PROBES_OF_CLASS}, so "
            f"that p will be multiplied by {in_words(orders)}: give ten of each class, with labels"
        )


def terms_of_a_claim(num_inputs: int, level: float, keys_tried: int) -> Verifier:
    """Return softmark's own verifier at ``level``: no key has a say in it."""
    standard = _standard_verifier()
    config = {**standard, "levels": {**standard["levels"], "exact": level}, "usable": MIN_USABLE}
    config |= {"probes": num_inputs, "keys_tried": keys_tried}
    return Verifier(**config)


@functools.cache
def _standard_verifier() -> dict[str, Any]:
    """Return the arguments of softmark's own verifier, as its YAML has them."""
    config = OmegaConf.to_container(OmegaConf.load(CONF / "verifier" / "standard.yaml"))
    del config["_target_"]
    return config
