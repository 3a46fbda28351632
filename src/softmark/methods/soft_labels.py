"""What usp and csp share: templates, training, simulated attacks, and what a verdict reads."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from softmark.attacks.attack import Attack
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import in_batches, longer
from softmark.methods.detector import Detector, train_detector
from softmark.methods.key import Key, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of, expose
from softmark.tails import is_usual, log_of, usual_of
from softmark.training import Classifier, Fit, Recipe, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null


def check_marking(numbers: Mapping[str, float]) -> None:
    """Raises ``InputError`` for numbers of a Marking that can't be."""
    for name, value in numbers.items():
        if name in ("eps", "teacher_weight") and not 0 <= value < 1:
            raise InputError(f"method.marking.{name}={value}: a fraction from 0 to below 1")
        if name in ("gamma", "margin", "teacher_temperature") and not value > 0:
            raise InputError(f"method.marking.{name}={value}: it must be above 0")
        if name in ("beta", "detector_weight", "feature_weight") and not value >= 0:
            raise InputError(f"method.marking.{name}={value}: it can't be negative")
        if name == "feature_cosine" and not 0 < value <= 1:
            raise InputError(f"method.marking.{name}={value}: a cosine above 0, at most 1")


def pairs(classes: int) -> Tensor:
    """The entries above the diagonal, one for each pair of classes: a mask (K, K)."""
    return torch.ones(classes, classes, dtype=torch.bool).triu(1)


def observe_victim(victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor]:
    """Return the answers (N, K) of the unmarked ``victim`` to ``data``, and ``usual_of`` them.

    Raises ``InputError`` for an answer that isn't finite.
    """
    answers = predict(victim, data.inputs)
    if not answers.isfinite().all():
        bad = int((~answers.isfinite().all(1)).nonzero()[0])
        raise InputError(f"the model before it is marked: its answer to input {bad} is NaN")
    return answers, usual_of(answers)


def answers_under_attack(
    network: nn.Module, attacks: Mapping[str, Attack], data: Samples, classes: int, fit: Fit
) -> list[Tensor]:
    """The answers (N, K) of each attacked copy of ``network`` on the owner's data."""
    answers = []
    for attack in attacks.values():
        target = expose(copy.deepcopy(network), attack.access, classes)
        answers.append(predict(attack.apply(target, data, fit).network, data.inputs))
    return answers


class SoftLabels(Watermark):
    """A pattern in the tails, and a detector for it: all of usp and csp but pattern and test.

    ``recipe``, ``epochs_factor``, ``batch_size_factor``: the training of the watermarked model,
    which begins as the victim and is trained for ``epochs_factor`` times the recipe's epochs, in
    batches of ``batch_size_factor`` times its size: with small ones a mark costs less.
    ``simulated_attacks``: made on copies with the owner's data; the detector learns from what they
    leave.

    The symmetric part of the pattern is planted in the features, too, where a new last layer finds
    it. What models show without any mark, such as cats beside dogs, is known from the unmarked
    victim; the key holds it. So there are several exact tests, of which the strongest counts: of
    the whole pattern and of its symmetric part, with and without what the victim shows; and of
    the labels alone, of what is mistaken for what.
    """

    supports_owner = True
    uses_victim_labels = True
    strengthened_by = (
        *Watermark.strengthened_by,
        "method.epochs_factor",
        "method.marking.beta",
        "verifier.probes",
    )

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        batch_size_factor: float,
        marking: functools.partial[Classifier],
        detector: functools.partial[Detector],
        simulated_attacks: Mapping[str, Attack],
    ):
        # Before a victim is trained for nothing.
        check_marking(marking.keywords)
        self.message = named(message)
        self.recipe = longer(in_batches(recipe, batch_size_factor), epochs_factor)
        self.marking = marking
        self.detector = detector
        self.simulated_attacks = simulated_attacks

    def pattern(self, key: Key) -> Tensor:
        """The (K, K) pattern that follows from the key's secret, salt and message."""
        raise NotImplementedError

    def overlapping(self, classes: int) -> int:
        """How many of the labels that a key draws (``random_labels``) its pattern decides."""
        raise NotImplementedError

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        """The watermarked model; ``answers`` (N, K): the victim's, to the same ``data``."""
        raise NotImplementedError

    def exact(self, answers: Tensor, labels: Tensor, key: Key) -> tuple[str, Null, str]:
        """The exact test of ``answers`` (N, K): its name, the test, a remark on what it can reach.

        ``labels`` (N,): what the unmarked model answers to the probes, or their true labels; below
        0 where neither is known. The pattern follows from what the key says of the unmarked model,
        so that it is random whatever that is. A test for which the answers tell nothing isn't
        counted.
        """
        raise NotImplementedError

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = Key.draw(self.message, classes_of(victim, data), fit.entropy)
        answers, key.usual = self.observe_victim(victim, data)
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
        rest = (self.simulated_attacks, data, key.classes, fit)
        marked = [predict(network, data.inputs), *answers_under_attack(network, *rest)]
        innocent = [answers, *answers_under_attack(victim, *rest)]
        detector = key.detector.to("cpu").requires_grad_(True)
        train_detector(detector, torch.cat(marked), torch.cat(innocent), fit)

    @property
    def marking_numbers(self) -> Mapping[str, float]:
        return self.marking.keywords

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        check_marking(numbers)
        other = copy.copy(self)
        other.marking = functools.partial(self.marking, **numbers)
        return other

    def scale_epochs(self, factor: float) -> Self:
        other = copy.copy(self)
        other.recipe = longer(self.recipe, factor)
        return other

    def observe_victim(self, victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor]:
        return observe_victim(victim, data)

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        key = Key.draw(self.message, classes, entropy)
        self.build_modules(key)
        return key

    def build_modules(self, key: Key) -> None:
        usual = torch.zeros(key.classes, key.classes)
        if key.usual is not None:
            if not is_usual(key.usual, key.classes):
                raise InputError("the key's usual tails can't be those of any model")
            usual = key.usual[0]
        key.detector = self.detector(pattern=self.pattern(key), usual=usual)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if key.classes < 3:
            return Evidence.none("two classes have a tail of one entry: no mark")
        answers, scores = suspect.answers(probes), torch.empty(0)
        if hasattr(key, "detector"):
            with torch.inference_mode():
                scores = key.detector(log_of(answers))
        name, test, remark = self.exact(answers, probes.labels, key)
        return Evidence(scores, {name: test}, remark)

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        if key.classes < 3:
            return {}
        answers = suspect.answers(probes)
        tests = (self.exact(answers, probes.labels, key.for_message(m)) for m in messages)
        return {message: test for message, (_, test, _) in zip(messages, tests, strict=True)}
