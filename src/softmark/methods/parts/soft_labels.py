"""What usp and csp share: training, detector, simulated attacks, and what a verdict reads."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, Self

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.parts.detector import Detector, train_detector
from softmark.methods.parts.loss import Marking
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of, expose
from softmark.tails import (
    compute_victim_stats,
    confusion_counts,
    is_victim_stats,
    log_of,
    tail_sums,
)
from softmark.training import Classifier, Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null

# Of a pattern: what all customers' copies have, what one customer's copy has alone, or all.
Part = Literal["all", "owner", "customer"]

MLP = functools.partial(Detector)  # of conf/method/detector/mlp.yaml
# Which part of the answers a test reads; owner/explanations.py says it to a judge.
TAILS, PAIRS, DIFFERENCES, MISTAKES = "tails", "pairs", "differences", "mistakes"
BEYOND_VICTIM = ", beyond the unmarked model"
TURNED = ", in reverse"


@dataclass(frozen=True, kw_only=True)
class SoftLabels(TrainedWatermark):
    """Plant a pattern in the tails: all of usp and csp but the pattern and its test.

    With small batches a mark costs less. The symmetric part of the pattern is planted in the
    features, too, where a new last layer finds it. What models show without any mark, such as cats
    beside dogs, is known from the unmarked victim; the key holds it. So there are several exact
    tests, of which the strongest counts: of the whole pattern and of its symmetric part, with and
    without what the victim shows; and of the labels alone, of what is mistaken for what.
    """

    supports_owner = True
    uses_victim_labels = True
    strengthened_by = (
        *TrainedWatermark.strengthened_by,
        "method.marking.beta",
        "verifier.probes",
    )

    marking: Marking = field(default_factory=Marking)
    """The numbers by which the pattern is planted."""
    detector: functools.partial[Detector] = MLP
    """What recognises single answers; it serves the watermark accuracy, and no claim needs it."""
    simulated_attacks: Mapping[str, Attack] = field(default_factory=dict)
    """Made on copies with the owner's data; the detector learns from what they leave."""

    def pattern(self, key: Key) -> Tensor:
        """Return the (K, K) pattern that follows from the key's secret, salt and message."""
        raise NotImplementedError

    def train(
        self,
        network: nn.Module,
        key: Key,
        answers: Tensor,
        data: Samples,
        fit: Fit,
        task_size: int | None = None,
    ) -> nn.Module:
        """Return the watermarked model.

        Args:
            network: the victim's copy, which is trained on.
            key: whose pattern it learns.
            answers: the victim's, to the same ``data``, (N, K).
            data: the owner's samples, behind which triggers may stand.
            fit: trains.
            task_size: how many of ``data`` are no triggers; None for all.
        """
        return fit(self.marking_module(network, key, answers, task_size), data, "marking")

    def marking_module(
        self, network: nn.Module, key: Key, answers: Tensor, task_size: int | None
    ) -> Classifier:
        """Return what ``train`` trains; arguments as there."""
        raise NotImplementedError

    def exact(
        self, answers: Tensor, labels: Tensor, key: Key, part: Part = "all"
    ) -> tuple[str, Null, str]:
        """Return an exact test of a suspect's answers.

        Whoever serves a model can turn the order of each tail round at no cost (the reverse sigmoid
        of Lee et al. 2019 does so): every test of tails is made of both orders.

        The pattern follows from what the key says of the unmarked model, so that it is random
        whatever that is. A test for which the answers tell nothing isn't counted.

        Args:
            answers: to the probes, (N, K).
            labels: what the unmarked model answers to the probes, or their true labels; below 0
                where neither is known: (N,).
            key: whose mark is looked for.
            part: of the pattern: ``owner``, the symmetric part, which all customers' copies have;
                ``customer``, the antisymmetric one, which no other customer's has; or all.

        Returns:
            The test's name, the test, and a remark on what it can reach.
        """
        return self.exact_of(tail_sums(answers), confusion_counts(answers, labels), key, part)

    def exact_of(
        self, sums: Tensor, counts: Tensor, key: Key, part: Part = "all"
    ) -> tuple[str, Null, str]:
        """Return ``exact`` of answers whose ``tail_sums`` and ``confusion_counts`` are known.

        ``sums``, ``counts``: (K, K), the same for each key that is looked for in a suspect.
        """
        raise NotImplementedError

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = Key.draw(self.message, classes_of(victim, data), fit.entropy)
        answers, key.victim_stats = self.observe_victim(victim, data)
        self.build_modules(key)
        return self.mark(victim, key, answers, data, fit), key.eval()

    def mark(
        self,
        victim: nn.Module,
        key: Key,
        answers: Tensor,
        data: Samples,
        fit: Fit,
        *,
        detector: bool = True,
    ) -> nn.Module:
        network = self.train(copy.deepcopy(victim), key, answers, data, fit)
        if detector:
            self.fit_detector(network, victim, key, answers, data, fit)
        return network

    def fit_detector(
        self,
        network: nn.Module,
        victim: nn.Module,
        key: Key,
        answers: Tensor,
        data: Samples,
        fit: Fit,
    ) -> None:
        """Train the detector of ``key`` to tell the marked ``network`` from the ``victim``.

        ``answers`` (N, K): the victim's, to the same ``data``.
        """
        attacks = (self.simulated_attacks, data, key.classes, fit)
        marked = [predict(network, data.inputs), *answers_under_attack(network, *attacks)]
        innocent = [answers, *answers_under_attack(victim, *attacks)]
        detector = key.detector.to("cpu").requires_grad_(True)
        train_detector(detector, torch.cat(marked), torch.cat(innocent), fit)

    @property
    def marking_numbers(self) -> Mapping[str, float]:
        return asdict(self.marking)

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        return replace(self, marking=replace(self.marking, **numbers))

    def observe_victim(self, victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor]:
        return observe_victim(victim, data)

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        key = Key.draw(self.message, classes, entropy)
        self.build_modules(key)
        return key

    def build_modules(self, key: Key) -> None:
        key.detector = self.new_detector(key)

    def new_detector(self, key: Key) -> Detector:
        """Return an untrained detector of the key's pattern."""
        victim_tails = torch.zeros(key.classes, key.classes)
        if key.victim_stats is not None:
            if not is_victim_stats(key.victim_stats, key.classes):
                raise InputError("the key's unmarked model: no model shows that")
            victim_tails = key.victim_stats[0]
        return self.detector(pattern=self.pattern(key), victim_tails=victim_tails)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if key.classes < 3:
            return Evidence.none("two classes have a tail of one entry: no mark")
        answers, scores = suspect.answers(probes), torch.empty(0)
        if hasattr(key, "detector"):
            with torch.inference_mode():
                scores = key.detector(log_of(answers).float())
        name, test, remark = self.exact(answers, probes.labels, key)
        return Evidence(scores, {name: test}, remark)

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        if key.classes < 3:
            return {}
        answers = suspect.answers(probes)
        keys = {message: key.for_message(message) for message in messages}
        return {
            message: self.exact(answers, probes.labels, customer_key, "customer")[1]
            for message, customer_key in keys.items()
        }

    def owner_test(self, suspect: Suspect, key: Key, probes: Samples) -> Null | None:
        if key.classes < 3:
            return None
        return self.exact(suspect.answers(probes), probes.labels, key, "owner")[1]


def pairs(classes: int) -> Tensor:
    """Return the entries above the diagonal, one for each pair of classes: a mask (K, K)."""
    return torch.ones(classes, classes, dtype=torch.bool).triu(1)


def combine_halves(sums: Tensor, differences: Tensor, classes: int) -> Tensor:
    """Return the matrix whose pairs of entries have these sums and differences, over sqrt 2.

    Args:
        sums: s, one for each pair of classes, row by row above the diagonal: (K (K - 1) / 2,).
        differences: d, as many.
        classes: K.

    Returns:
        (K, K): (s + d) / sqrt 2 above the diagonal, (s - d) / sqrt 2 below it, and 0 on it.
    """
    above = pairs(classes)
    matrix, below = torch.zeros(2, classes, classes, dtype=sums.dtype)
    matrix[above] = (sums + differences) / 2**0.5
    below[above] = (sums - differences) / 2**0.5
    return matrix + below.T


def observe_victim(victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor]:
    """Return the answers (N, K) of the unmarked ``victim`` to ``data``, and its statistics.

    Raises:
        InputError: for an answer that isn't finite.
    """
    answers = predict(victim, data.inputs)
    if not answers.isfinite().all():
        bad = int((~answers.isfinite().all(1)).nonzero()[0])
        raise InputError(f"the model before it is marked: its answer to input {bad} is NaN")
    return answers, compute_victim_stats(answers)


def answers_under_attack(
    network: nn.Module, attacks: Mapping[str, Attack], data: Samples, classes: int, fit: Fit
) -> list[Tensor]:
    """Return the answers (N, K) of each attacked copy of ``network`` to the owner's data."""
    answers = []
    for attack in attacks.values():
        target = expose(copy.deepcopy(network), attack.access, classes)
        answers.append(predict(attack.apply(target, data, fit).network, data.inputs))
    return answers
