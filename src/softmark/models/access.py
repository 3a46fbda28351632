"""What each party sees of a model: the judge a suspect, an attacker weights or counted answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples, concatenate
from softmark.training import predict

Access = Literal["weights", "probabilities", "labels"]
# Inputs (N, ...) to probabilities (N, K).
Answer = Callable[[Tensor], Tensor]


def answers_of(network: nn.Module, dtype: torch.dtype = torch.float32) -> Answer:
    """Return how ``network`` answers when nothing stands before it, in ``dtype``."""
    return lambda inputs: predict(network, inputs, dtype)


def classes_of(network: nn.Module, samples: Samples) -> int:
    """Return how many classes ``network`` tells apart."""
    return predict(network, samples.inputs[:2]).shape[1]


def labels_only(answer: Answer) -> Answer:
    """Return the same interface, giving the likeliest class alone: one-hot rows (N, K)."""

    def labels(inputs: Tensor) -> Tensor:
        """Return one-hot rows (N, K) for ``inputs`` (N, ...)."""
        probabilities = answer(inputs)  # (N, K)
        return F.one_hot(probabilities.argmax(1), probabilities.shape[1]).float()

    return labels


@dataclass(frozen=True)
class Suspect:
    """A model that stands accused: something that answers, perhaps with more.

    Where nothing stands before the network, its logits count: the judge asks for float64, in which
    no order of a tail is lost. What an interface answers is read as it is.

    Args:
        answer: inputs (N, ...) to probabilities (N, K).
        network: the model with its weights; None behind an interface.
        log: what a served model was asked, with the labels that it answered; None where nothing was
            recorded.
        reads_logits: whether the answers are those of the network's logits.

    Example:
        >>> suspect = Suspect.of(model)
        >>> suspect.answers(Samples(inputs, labels)).shape
        torch.Size([600, 10])
        >>> suspect.seen_by("labels").network is None
        True
    """

    answer: Answer
    network: nn.Module | None = None
    log: Samples | None = None
    reads_logits: bool = False
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, network: nn.Module) -> Suspect:
        """Return a suspect whose weights are at hand and that answers as they say, in float64."""
        return cls(answers_of(network, torch.float64), network, reads_logits=True)

    def answers(self, samples: Samples) -> Tensor:
        """Return its answers to ``samples``, (N, K); each set of samples is asked once."""
        if samples.fingerprint not in self._answers:
            self._answers[samples.fingerprint] = self.answer(samples.inputs)
        return self._answers[samples.fingerprint]

    def first(self, samples: Samples, count: int) -> Samples:
        """Return the first ``count`` of ``samples``, whose answers aren't asked again."""
        part = samples[:count]
        self._answers[part.fingerprint] = self.answers(samples)[:count]
        return part

    def seen_by(self, needs: Access) -> Suspect:
        """Return no more of the suspect than a method needs.

        Args:
            needs: its weights, its probabilities, or its labels alone.
        """
        if needs == "weights":
            return self
        if needs == "probabilities":
            return replace(self, network=None)
        likeliest = labels_only(lambda answers: answers)
        labels = {samples: likeliest(answers) for samples, answers in self._answers.items()}
        return Suspect(labels_only(self.answer), None, self.log, _answers=labels)


class Query:
    """A model behind an interface: inputs in, probabilities or labels out, every one counted.

    The weights stay inside the closure ``answer``; no attribute leads to them. ``count`` is the
    number of inputs so far.

    Args:
        answer: inputs (N, ...) to answers (N, K).
        classes: K.
        keep_log: record the inputs and the labels answered, for a method whose evidence they are.

    Example:
        >>> query = expose(model, "labels", 10)
        >>> query(inputs[:5]).sum(1), query.count
        (tensor([1., 1., 1., 1., 1.]), 5)
    """

    def __init__(self, answer: Answer, classes: int, *, keep_log: bool = False):
        self._answer = answer
        self.classes = classes
        self.count = 0
        self._log: list[Samples] | None = [] if keep_log else None

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return float answers (N, K) to ``inputs`` (N, ...): one-hot where only labels show."""
        self.count += len(inputs)
        answers = self._answer(inputs)
        if self._log is not None:
            self._log.append(Samples(inputs, answers.argmax(1)))
        return answers


def expose(
    network: nn.Module, access: Access, classes: int, answer: Answer | None = None, **options: bool
) -> nn.Module | Query:
    """Return ``network`` as an attacker with ``access`` meets it.

    Args:
        network: the model.
        access: weights, probabilities or labels.
        classes: K.
        answer: what its interface tells; None: what the network answers.
        options: of ``Query``.

    Returns:
        The network itself, or a ``Query`` that counts.

    Raises:
        ValueError: there is no such access.

    Example:
        >>> expose(model, "weights", 10) is model
        True
        >>> type(expose(model, "probabilities", 10)).__name__
        'Query'
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
    """Return what was asked and answered, in order; None where nothing was recorded."""
    if not query._log:
        return None
    return concatenate(query._log)
