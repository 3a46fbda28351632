"""Whether a suspect derives from a marked model: its answers to the probes, the key, a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, method_of
from softmark.models.access import Suspect
from softmark.nodes import make
from softmark.owner.asked import ask
from softmark.owner.commitment import check_same, customers_of, unlabelled
from softmark.owner.samples import as_inputs
from softmark.owner.told import remarks
from softmark.settings import composed
from softmark.verification.evidence import Evidence, usable
from softmark.verification.judge import Innocent, Verdict, Verifier
from softmark.verification.metrics import flag_rate, threshold


@dataclass(frozen=True)
class Examination:
    """A verdict and what it stands on.

    ``answers`` (N, K): the suspect's, as probabilities. ``evidence``: what they show of the key.
    ``flagged``: the part of the probes on which the key's detector recognises the marked model, at
    a threshold that 1 % of the innocents' answers exceed; None without innocents.
    """

    verdict: Verdict
    court: Court
    answers: Tensor
    evidence: Evidence
    flagged: float | None

    def curve(self) -> dict[int, float]:
        """p by the number of probes: 1, 2, 5, 10, 20, 50, ... and all."""
        probes = len(self.court.probes)
        steps = [factor * 10**power for power in range(10) for factor in (1, 2, 5)]
        counts = [*(step for step in steps if step < probes), probes]
        return {count: self.court.p_value(self.answers[:count]) for count in counts}


def verify(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
) -> Verdict:
    """The verdict on ``suspect``: whether it derives from the model that ``key`` has marked.

    ``suspect``: a module that gives logits (asked in eval mode), a function from inputs to
    probabilities (N, K), an array of probabilities, one row for each probe in order, labels (N,),
    or an ``Endpoint``. ``probes``: those of the commitment, in their order. ``keys_tried``: keys
    that were tried on this suspect; p is multiplied by it. ``logits``: the function or the array
    gives logits.

    The exact tests alone decide: csp's ``signs``, usp's ``direction``, ``triggers``, ``both``. A
    key of many customers names which of them leaked (``Verdict.identified``). Raises ``InputError``
    for answers or probes that can't be used, and for a key that isn't what was committed to.
    """
    return examine(suspect, key, probes, keys_tried, logits).verdict


def examine(
    suspect: Any,
    key: Key,
    probes: Any,
    keys_tried: int = 1,
    logits: bool = False,
    innocents: Sequence[Any] = (),
) -> Examination:
    """``verify``, with what the verdict stands on.

    ``innocents``: models that can't derive from yours, of the same kinds as ``suspect``, for
    ``flagged`` alone: p needs none.
    """
    samples = unlabelled(as_inputs(probes))
    court = Court(key, verifier_of(key, keys_tried), samples)
    answers, said = ask(suspect, samples, key.classes, logits)
    others = [
        ask(each, samples, key.classes, False, f"innocents[{place}]")[0]
        for place, each in enumerate(innocents)
    ]
    found = court.evidence(answers)
    given = [court.evidence(each) for each in others]
    verdict = court.judge(found, given, answers)
    flagged = None
    if given and len(found.scores):
        above = threshold([each.scores for each in given], court.verifier.false_flags, 1)
        flagged = flag_rate(found.scores, above, 1)
    said += remarks(answers[: court.own], len(court.added) > 0)
    why = "; ".join(filter(None, [verdict.why, *said]))
    return Examination(replace(verdict, why=why), court, answers, found, flagged)


class Court:
    """One key, its method, the probes: what stays the same for suspect and innocents.

    ``added``: the last of the probes, those that the method draws by the key. Raises ``InputError``
    where ``probes`` aren't those that the key was committed to.
    """

    def __init__(self, key: Key, verifier: Verifier, probes: Samples):
        self.key, self.verifier = key, verifier
        self.method = method_of(key)
        self.customers = customers_of(key)
        self.added = self.method.added(key, probes).inputs
        check_probes(key, probes, len(self.added))
        self.own = len(probes) - len(self.added)
        if key.expected is not None:
            rest = torch.full((len(self.added),), -1)
            probes = Samples(probes.inputs, torch.cat([key.expected, rest]))
        self.probes = probes

    def evidence(self, answers: Tensor) -> Evidence:
        """Of ``answers`` (N, K) to the first N probes."""

        def answer(inputs: Tensor) -> Tensor:
            keyed = torch.equal(inputs, self.added)
            return answers[self.own :] if keyed else answers[: self.own]

        probes = self.probes[: min(len(answers), self.own)]
        return self.verifier.ask(self.method, Suspect(answer), self.key, probes, probes)

    def judge(self, found: Evidence, innocents: Sequence[Evidence], answers: Tensor) -> Verdict:
        given = [Innocent("given", each) for each in innocents]
        verdict = self.verifier.judge(found, given, ())
        return self._named(verdict, answers) if self.customers and found.tests else verdict

    def p_value(self, answers: Tensor) -> float:
        p = self.judge(self.evidence(answers), (), answers).p_value
        return 1.0 if p is None else p

    def _named(self, verdict: Verdict, answers: Tensor) -> Verdict:
        """The verdict on the likeliest customer, corrected for the number of them."""
        suspect = Suspect(lambda inputs: usable(answers)[0])
        probes = self.probes[: len(answers)]
        tests = self.method.identify(suspect, self.key, probes, self.customers)
        found = self.verifier.identify(tests)
        best = min(found.p_values, key=found.p_values.__getitem__)
        return replace(
            verdict,
            score=tests[best].score,
            p_value=found.p_value,
            claimed=found.name is not None,
            tests=dict.fromkeys(verdict.tests, found.p_value),
            identified=found.name,
        )


def verifier_of(key: Key, keys_tried: int) -> Verifier:
    """The verifier by whose terms ``key`` was committed to."""
    node = {**composed("owner", [])["verifier"], **key.terms, "keys_tried": keys_tried}
    return make(node, "verifier")


def check_probes(key: Key, samples: Samples, added: int) -> None:
    """Raises ``InputError`` where ``samples`` aren't the probes that ``key`` was committed to.

    ``added``: how many of them the method draws by the key.
    """
    wanted = key.terms.get("probes")
    if key.commitment and wanted != len(samples):
        raise InputError(f"probes: there are {len(samples)}, and the key was committed to {wanted}")
    if key.commitment:
        check_same(samples, key.probes, "probes")
    if key.expected is not None and len(key.expected) + added != len(samples):
        raise InputError(
            f"the key expects {len(key.expected) + added} answers, and there are {len(samples)} "
            "probes"
        )
    key.check(key.method, key.terms, samples)
