"""Forgery: an attacker claims the stolen model with a key of their own, chosen to fit it.

Adi et al. 2018 call the defence against it unforgeability. The model isn't touched: what changes
is who claims it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from softmark.attacks.attack import Attack, AttackResult, check
from softmark.data.roles import Samples
from softmark.models.access import Suspect
from softmark.training import Fit

SEARCHED = 1000  # pictures on which each key is tried


@dataclass(kw_only=True, eq=False)
class Forge(Attack):
    """Draw many keys, and claim the model with the one that shows most on the attacker's pictures.

    Adi et al., "Turning Your Weakness Into a Strength" (2018), section 3: unforgeability.
    """

    access = "weights"
    knows = "method"

    method: Any = None
    """A watermark of the attacker's own, which holds no key; None in a call: csp."""
    keys: int = 1000
    """Keys that are drawn; at least 1."""

    def __post_init__(self) -> None:
        check(self.keys >= 1, "keys", self.keys, "at least one key")

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        pictures = data[:SEARCHED]
        suspect = Suspect.of(target).seen_by(self.method.needs)
        classes = suspect.answers(pictures).shape[1]
        best, most = None, (float("-inf"), 0.0)
        for _ in range(self.keys):
            key = self.method.draw(pictures, classes, fit.entropy)
            if key is None:
                break
            probes = self.method.probes(key, pictures, None)
            for test in self.method.evidence(suspect, key, probes).tests.values():
                strength = (-test.p_value(), test.score)
                if best is None or strength > most:
                    best, most = key, strength
        return AttackResult(target, key=best)
