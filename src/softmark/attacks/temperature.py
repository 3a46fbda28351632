"""Answers at another temperature: as confident as the attacker likes, in the same order."""

from __future__ import annotations

from torch import Tensor, nn

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Answer
from softmark.training import Fit


class Temperature(Attack):
    """``temperature`` T: the interface tells p^(1/T), normalised; the model stays as it is."""

    access = "weights"

    def __init__(self, temperature: float):
        if not temperature > 0:
            raise InputError(f"attack.temperature={temperature}: it must be above 0")
        self.temperature = temperature

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        return Stolen(target)

    def serve(self, answer: Answer) -> Answer:
        def tempered(images: Tensor) -> Tensor:
            log_p = answer(images).clamp_min(1e-30).log()
            return (log_p / self.temperature).softmax(1)

        return tempered
