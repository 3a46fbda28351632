"""What each party sees of a model: the judge a suspect, an attacker weights or counted answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.training import predict

Access = Literal["weights", "probabilities", "labels"]
# Inputs (N, ...) to probabilities (N, K).
Answer = Callable[[Tensor], Tensor]


def answers_of(network: nn.Module) -> Answer:
    """How ``network`` answers when nothing stands before it."""
    return lambda inputs: predict(network, inputs)


def classes_of(network: nn.Module, samples: Samples) -> int:
    """How many classes ``network`` tells apart."""
    return predict(network, samples.inputs[:2]).shape[1]


def labels_only(answer: Answer) -> Answer:
    """The same interface, giving the likeliest class alone: one-hot rows."""

    def labels(inputs: Tensor) -> Tensor:
        probabilities = answer(inputs)
        return F.one_hot(probabilities.argmax(1), probabilities.shape[1]).float()

    return labels


@dataclass(frozen=True)
class Suspect:
    """A model that stands accused: something that answers, perhaps with more.

    ``answer``: inputs to probabilities. ``network``: its weights, None behind an interface.
    ``log``: what a served model was asked, with the labels that it answered; None where nothing was
    kept.
    """

    answer: Answer
    network: nn.Module | None = None
    log: Samples | None = None
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, network: nn.Module) -> Suspect:
        """A suspect whose weights are at hand and that answers as they say."""
        return cls(answers_of(network), network)

    def answers(self, samples: Samples) -> Tensor:
        """Its answers to ``samples``: (N, K). Each set of samples is asked once."""
        if samples.fingerprint not in self._answers:
            self._answers[samples.fingerprint] = self.answer(samples.inputs)
        return self._answers[samples.fingerprint]

    def first(self, samples: Samples, count: int) -> Samples:
        """The first ``count`` of ``samples``; its answers are those among all, not asked again."""
        part = samples[:count]
        self._answers[part.fingerprint] = self.answers(samples)[:count]
        return part

    def seen_by(self, needs: Access) -> Suspect:
        """No more of the suspect than a method needs: its weights, its answers, or its labels."""
        if needs == "weights":
            return self
        if needs == "probabilities":
            return Suspect(self.answer, None, self.log, self._answers)
        likeliest = labels_only(lambda answers: answers)
        told = {samples: likeliest(answers) for samples, answers in self._answers.items()}
        return Suspect(labels_only(self.answer), None, self.log, told)


class Query:
    """A model behind an interface: inputs in, probabilities or labels out, every one counted.

    The weights stay inside the closure ``answer``; no attribute leads to them. ``keep``: whether
    the inputs and the labels answered are kept, for a method whose evidence is this log.
    """

    def __init__(self, answer: Answer, classes: int, *, keep: bool = False):
        self._answer = answer
        self.classes = classes
        self.count = 0
        self._log: list[Samples] | None = [] if keep else None

    def __call__(self, inputs: Tensor) -> Tensor:
        """``inputs`` (N, ...) to float answers (N, K): one-hot where only labels show."""
        self.count += len(inputs)
        answers = self._answer(inputs)
        if self._log is not None:
            self._log.append(Samples(inputs, answers.argmax(1)))
        return answers


def expose(
    network: nn.Module, access: Access, classes: int, answer: Answer | None = None, **options: bool
) -> nn.Module | Query:
    """``network`` as an attacker with ``access`` meets it.

    ``answer``: what its interface tells, the network's own answers where None. Raises
    ``ValueError`` for an access that doesn't exist.
    """
    answer = answer or answers_of(network)
    if access == "weights":
        return network
    if access == "probabilities":
        return Query(answer, classes, **options)
    if access == "labels":
        return Query(labels_only(answer), classes, **options)
    raise ValueError(f"access is {access!r}: weights, probabilities or labels")


def log_of_queries(query: Query) -> Samples | None:
    """What was asked and answered, in order; None where nothing was kept."""
    if not query._log:
        return None
    return Samples(
        torch.cat([part.inputs for part in query._log]),
        torch.cat([part.labels for part in query._log]),
    )
