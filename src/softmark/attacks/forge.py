"""Forgery: an attacker claims the stolen model with a key of their own, chosen to fit it.

Adi et al. 2018 call the defence against it unforgeability. The model isn't touched: what changes
is who claims it.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect
from softmark.training import Fit

SEARCHED = 1000  # pictures on which each key is tried


class Forge(Attack):
    """The best of many keys.

    ``method``: an instance of the watermark of the attacker's own, which holds no key. ``keys``:
    how many are drawn; the one that shows most on the attacker's own pictures is kept.
    """

    access = "weights"
    knows = "method"

    def __init__(self, method: Any, keys: int):
        if not keys >= 1:
            raise InputError(f"attack.keys={keys}: at least one key")
        self.method = method
        self.keys = keys

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        own = data[:SEARCHED]
        suspect = Suspect.of(target).seen_by(self.method.needs)
        classes = suspect.answers(own).shape[1]
        best, most = None, (float("-inf"), 0.0)
        for _ in range(self.keys):
            key = self.method.draw(own, classes, fit.entropy)
            if key is None:
                break
            asked = self.method.probes(key, own, None)
            for test in self.method.evidence(suspect, key, asked).tests.values():
                strength = (-test.p_value(), test.score)
                if best is None or strength > most:
                    best, most = key, strength
        return Stolen(target, key=best)
