"""An attacker who searches among attacks and their settings for what removes the mark cheapest.

They can't ask the judge, but they know the method: they mark a model of their own with a key of
their own, try attacks on that, and do to the stolen model what did best. Optuna (Akiba et al. 2019)
proposes what to try.
"""

from __future__ import annotations

import copy
import functools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from softmark.accuracy import accuracy
from softmark.attacks.answers import Flatten
from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check_between,
    check_count,
)
from softmark.attacks.distill import Distill, DistillChanged
from softmark.attacks.finetune import FineTune, ReTrain, SelfDistill, SmoothLabels
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect, classes_of, expose
from softmark.recipe import Recipe
from softmark.training import Fit, predict

HELD_OUT = 0.3  # of the attacker's pictures: what they measure on, and train nothing on


@dataclass(frozen=True)
class Candidate:
    """An attack that is tried, all but for some of its numbers."""

    attack: functools.partial[Attack]
    """The attack's class, with the numbers that aren't searched for."""
    ranges: Mapping[str, Sequence[float]]
    """The lowest and the highest of each number, searched in logarithms; whole ones stay whole."""

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not 0 < low <= high:
                raise InputError(
                    f"attack.candidates: the range of {name} is {low} to {high}: "
                    "two numbers above 0, the lower one first"
                )


@dataclass(frozen=True)
class Tried:
    """What an attack did to the attacker's own marked model."""

    text: str
    """The attack with its settings, for a reader."""
    attack: Attack
    """The attack."""
    lost: float
    """Accuracy that it cost, as a fraction."""
    p: float
    """p-value of the attacker's own key afterwards, 1 where nothing is left of it."""

    def price(self, level: float) -> float:
        """Return a number, less is better: first whether the mark is gone, then what that cost."""
        return max(self.lost, 0.0) + (0.0 if self.p > level else 1 - math.log10(self.p) / 300)


def default_candidates() -> dict[str, Candidate]:
    """Return what conf/attack/adaptive_search.yaml tries: six attacks that change weights."""
    tuning = {"lr_factor": [0.01, 1.0], "epochs": [1, 20]}
    flat = functools.partial(SelfDistill, change=Flatten())
    smoothed = {**tuning, "label_smoothing": [0.05, 0.6]}
    return {
        "finetune": Candidate(functools.partial(FineTune), tuning),
        "retrain": Candidate(functools.partial(ReTrain), tuning),
        "smoothed": Candidate(functools.partial(SmoothLabels), smoothed),
        "self_distill": Candidate(flat, tuning),
        "distill": Candidate(functools.partial(Distill), {}),
        "distill_flat": Candidate(functools.partial(DistillChanged, change=Flatten()), {}),
    }


@dataclass(kw_only=True, eq=False)
class Search(Attack):
    """Search among attacks and their settings for what removes a mark at the least loss.

    The attacker can't ask the judge: they mark a model of their own, try attacks on that, and do to
    the stolen model what did best. Optuna (Akiba et al. 2019) proposes what to try. What an attack
    puts before a model is no candidate: these change weights.
    """

    access = "weights"
    knows = "method"

    recipe: Recipe = RECIPE
    """How the attacker's own model is trained."""
    network: NetworkFactory | None = None
    """The architecture of the attacker's own model; None in a call: the target's."""
    method: Any = None
    """A watermark of the attacker's own, which holds no key; None in a call: csp."""
    trials: int = 30
    """Attacks that are tried; at least 1."""
    seconds: float | None = None
    """Seconds of the search at most, above 0; None: only the trials count."""
    level: float = 1e-3
    """The p-value below which the attacker takes their own mark for present; between 0 and 1."""
    candidates: Mapping[str, Candidate] = field(default_factory=default_candidates)
    """What is tried, each with the ranges of its numbers."""

    def __post_init__(self) -> None:
        check_count("trials", self.trials)
        if self.seconds is not None and not self.seconds > 0:
            needed = "it must be above 0 (or null for no limit)"
            raise InputError(f"attack.seconds={self.seconds}: {needed}")
        check_between("level", self.level)
        if not self.candidates:
            raise InputError("attack.candidates is empty: there is nothing to try")

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        count = round(HELD_OUT * len(data))
        stand_in = StandIn(self, target, data[count:], data[:count], fit)
        best = self.best(stand_in)
        if best.p <= self.level:
            return AttackResult(target, note=f"nothing removed the mark; closest: {best.text}")
        seen = expose(target, best.attack.access, stand_in.classes)
        return replace(best.attack.apply(seen, data, fit), note=f"found: {best.text}")

    def best(self, stand_in: StandIn) -> Tried:
        """Try attacks on ``stand_in``; return the one of the least price."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=int(torch.randint(2**31, ())))
        study = optuna.create_study(sampler=sampler)
        tried, start = [], time.monotonic()
        while len(tried) < self.trials:
            if tried and self.seconds is not None and time.monotonic() - start > self.seconds:
                break
            trial = study.ask()
            tried.append(stand_in.tries(*self.proposed(trial)))
            study.tell(trial, tried[-1].price(self.level))
        return min(tried, key=lambda trial: trial.price(self.level))

    def proposed(self, trial: Any) -> tuple[str, Attack]:
        """Return an attack and its settings as text, and the attack."""
        name = trial.suggest_categorical("attack", list(self.candidates))
        candidate, settings = self.candidates[name], {}
        for setting, (low, high) in candidate.ranges.items():
            is_whole = isinstance(low, int) and isinstance(high, int)
            suggest = trial.suggest_int if is_whole else trial.suggest_float
            settings[setting] = suggest(f"{name}.{setting}", low, high, log=True)
        values = (f"{setting} {value:.3g}" for setting, value in settings.items())
        text = ", ".join([name, *values])
        return text, candidate.attack(**settings)


class StandIn:
    """A model of the attacker's own, marked with a key of their own, on which attacks are tried."""

    def __init__(self, search: Search, like: nn.Module, data: Samples, held_out: Samples, fit: Fit):
        self.classes = classes_of(like, data)
        shadow = train_shadow_model(search.network, search.recipe, data, self.classes, fit)
        self.marked, self.key = search.method.embed(copy.deepcopy(shadow), data, fit)
        self.method, self.data, self.fit = search.method, data, fit
        self.held_out = held_out
        self.probes = (
            held_out if self.key is None else search.method.probes(self.key, held_out, None)
        )
        self.accuracy = accuracy(predict(self.marked, held_out.inputs), held_out.labels)

    def tries(self, text: str, attack: Attack) -> Tried:
        """Attack the marked model; return what is left of its accuracy and of the mark."""
        target = expose(copy.deepcopy(self.marked), attack.access, self.classes)
        stolen = attack.apply(target, self.data, self.fit).network
        lost = self.accuracy - accuracy(predict(stolen, self.held_out.inputs), self.held_out.labels)
        if self.key is None:
            return Tried(text, attack, lost, 1.0)
        suspect = Suspect.of(stolen).seen_by(self.method.needs)
        tests = self.method.evidence(suspect, self.key, self.probes).tests.values()
        p = max((test.p_value() for test in tests), default=1.0)
        return Tried(f"{text} (own mark p {p:.1g}, {100 * lost:.1f} points)", attack, lost, p)
