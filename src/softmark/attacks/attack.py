"""The contract of an attack: what a thief may touch, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data import Samples
from softmark.training import Fit, predict

Access = Literal["weights", "probabilities", "labels"]


class Query:
    """A model behind an interface: pictures in, probabilities or labels out, every one counted.

    The weights stay inside the closure ``answer``; no attribute leads to them.
    """

    def __init__(self, answer: Callable[[Tensor], Tensor], classes: int):
        self._answer = answer
        self.classes = classes
        self.count = 0

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``images`` (N, C, H, W) to float answers (N, K): one-hot where only labels show."""
        self.count += len(images)
        return self._answer(images)


@dataclass(frozen=True)
class Suspect:
    """What the thief holds in the end, and how many queries it took."""

    network: nn.Module
    queries: int = 0
    _answers: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def answers(self, probes: Samples) -> Tensor:
        """Its probabilities (N, K); the same probes are asked once, however many keys are tried."""
        if probes.fingerprint not in self._answers:
            self._answers[probes.fingerprint] = predict(self.network, probes.images)
        return self._answers[probes.fingerprint]


class Attack:
    """A thief with data of their own, who never sees the owner's data, key, secret or detector."""

    access: ClassVar[Access]
    knows: ClassVar[Literal["nothing", "method"]] = "nothing"

    def apply(self, target: Any, data: Samples, fit: Fit) -> Suspect:
        """``target``: a network of the thief's own to change (weights), or else a ``Query``.

        A list of them, one a customer, where the attack's config names ``accomplices``.
        """
        raise NotImplementedError


def expose(network: nn.Module, access: Access, classes: int) -> nn.Module | Query:
    """``network`` as a thief with ``access`` meets it."""
    if access == "weights":
        return network

    def answer(images: Tensor) -> Tensor:
        probabilities = predict(network, images)
        if access == "labels":
            return F.one_hot(probabilities.argmax(1), classes).float()
        return probabilities

    return Query(answer, classes)
