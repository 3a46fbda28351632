"""What a search tries: attacks, the ranges of their numbers, and what follows them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softmark.attacks.answers import Flatten, Swap
from softmark.attacks.attack import Attack
from softmark.attacks.attention import AttentionDistillation
from softmark.attacks.distill import Distill, DistillChanged
from softmark.attacks.fine_prune import FinePrune
from softmark.attacks.finetune import FineTune, ReTrain, SelfDistill, SmoothLabels
from softmark.attacks.heads import FitDiscriminant
from softmark.attacks.neurons import PruneNeurons
from softmark.attacks.poisoned import ReverseSigmoid
from softmark.attacks.served import Serve
from softmark.attacks.unlearn import Unlearn
from softmark.attacks.weights import Regularise, ShiftWeights
from softmark.errors import InputError


@dataclass(frozen=True)
class Candidate:
    """An attack that is tried, all but for some of its numbers."""

    attack: functools.partial[Attack]
    """The attack's class, with the numbers that aren't searched for."""
    ranges: Mapping[str, Sequence[float]]
    """The lowest and the highest of each number, searched in logarithms; whole ones stay whole."""
    then: Attack | None = None
    """An attack that follows, such as a repair; None for none."""

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not 0 < low <= high:
                raise InputError(
                    f"attack.candidates: the range of {name} is {low} to {high}: "
                    "two numbers above 0, the lower one first"
                )
        if self.serves and (self.ranges or self.then):
            raise InputError(
                "attack.candidates: what is put before a model has no ranges, and nothing follows"
            )

    @property
    def serves(self) -> bool:
        """Whether the attack changes what the model answers, and not the model alone."""
        kind = getattr(self.attack, "func", self.attack)
        return getattr(kind, "serve", Attack.serve) is not Attack.serve

    def steps(self, settings: Mapping[str, Any]) -> list[Attack]:
        """Return the attack with ``settings``, and what follows it."""
        attack = self.attack(**settings)
        return [attack] if self.then is None else [attack, self.then]


def default_candidates() -> dict[str, Candidate]:
    """Return what conf/attack/adaptive_search.yaml tries."""
    tuning = {"lr_factor": [0.1, 5.0], "epochs": [5, 60]}
    heads = {"lr_factor": [0.1, 1.0], "epochs": [5, 60]}
    decays = {"lr_factor": [0.3, 1.0], "weight_decay": [0.03, 0.3]}
    part = functools.partial
    return {
        "serve_flat": Candidate(part(Serve, change=Flatten()), {}),
        "finetune": Candidate(part(FineTune), tuning),
        "retrain": Candidate(part(ReTrain), heads),
        "lda": Candidate(part(FitDiscriminant), {}),
        "smoothed": Candidate(
            part(SmoothLabels, min_steps=None), {**heads, "label_smoothing": [0.05, 0.6]}
        ),
        "self_distill": Candidate(part(SelfDistill, change=Flatten()), heads),
        "distill": Candidate(part(Distill), {}),
        "distill_flat": Candidate(part(DistillChanged, change=Flatten()), {}),
        "l2": Candidate(part(Regularise), decays, FineTune()),
        "shift": Candidate(part(ShiftWeights), {}),
        "fine_prune": Candidate(part(FinePrune), {"tolerance": [0.03, 0.3]}),
        "nad": Candidate(part(AttentionDistillation), {}),
        "anp": Candidate(part(PruneNeurons), {"tolerance": [0.02, 0.1]}),
        "unlearn": Candidate(part(Unlearn), {"lr": [0.0003, 0.003]}),
        "serve_reverse": Candidate(part(Serve, change=ReverseSigmoid()), {}),
        "serve_swapped": Candidate(part(Serve, change=Swap()), {}),
    }
