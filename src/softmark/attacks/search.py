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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from softmark.attacks.attack import Attack, Stolen
from softmark.attacks.own import own_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Suspect, classes_of, expose
from softmark.training import Fit, Recipe, accuracy, predict

HELD_OUT = 0.3  # of the attacker's pictures: what they measure on, and train nothing on


@dataclass(frozen=True)
class Candidate:
    """An attack, all but for the numbers in ``ranges``: (lowest, highest) of each, searched in
    logarithms. A number whose range is of whole numbers is a whole one."""

    attack: functools.partial[Attack]
    ranges: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            if not 0 < low <= high:
                raise InputError(
                    f"attack.candidates: the range of {name} is {low} to {high}: "
                    "two numbers above 0, the lower one first"
                )


@dataclass(frozen=True)
class Tried:
    """``lost``: accuracy. ``p``: of the attacker's own key, 1 where nothing is left of it."""

    text: str
    attack: Attack
    lost: float
    p: float

    def price(self, level: float) -> float:
        """First whether the mark is gone, then what it cost."""
        return max(self.lost, 0.0) + (0.0 if self.p > level else 1 - math.log10(self.p) / 300)


class Search(Attack):
    """``trials``: how many attacks are tried, ``seconds``: for how long at most; None for no limit.

    ``level``: the p-value below which the attacker takes the mark for present. What an attack puts
    before a model is no candidate: these change weights.
    """

    access = "weights"
    knows = "method"

    def __init__(
        self,
        recipe: Recipe,
        network: functools.partial[nn.Module],
        method: Any,
        trials: int,
        seconds: float | None,
        level: float,
        candidates: Mapping[str, Candidate],
    ):
        if not trials >= 1:
            raise InputError(f"attack.trials={trials}: at least 1")
        if seconds is not None and not seconds > 0:
            raise InputError(f"attack.seconds={seconds}: it must be above 0 (or null for no limit)")
        if not 0 < level < 1:
            raise InputError(f"attack.level={level}: a fraction between 0 and 1")
        if not candidates:
            raise InputError("attack.candidates is empty: there is nothing to try")
        self.recipe, self.network, self.method = recipe, network, method
        self.trials, self.seconds, self.level = trials, seconds, level
        self.candidates = candidates

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        count = round(HELD_OUT * len(data))
        stand_in = StandIn(self, target, data[count:], data[:count], fit)
        best = self.best(stand_in)
        if best.p <= self.level:
            return Stolen(target, note=f"nothing removed the mark; closest: {best.text}")
        seen = expose(target, best.attack.access, stand_in.classes)
        return replace(best.attack.apply(seen, data, fit), note=f"found: {best.text}")

    def best(self, stand_in: StandIn) -> Tried:
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
        return min(tried, key=lambda each: each.price(self.level))

    def proposed(self, trial: Any) -> tuple[str, Attack]:
        """An attack with its settings, and both as text."""
        name = trial.suggest_categorical("attack", list(self.candidates))
        candidate, settings = self.candidates[name], {}
        for key, (low, high) in candidate.ranges.items():
            whole = isinstance(low, int) and isinstance(high, int)
            suggest = trial.suggest_int if whole else trial.suggest_float
            settings[key] = suggest(f"{name}.{key}", low, high, log=True)
        text = ", ".join([name, *(f"{key} {value:.3g}" for key, value in settings.items())])
        return text, candidate.attack(**settings)


class StandIn:
    """A model of the attacker's own, marked with a key of their own, on which attacks are tried."""

    def __init__(self, search: Search, like: nn.Module, data: Samples, held: Samples, fit: Fit):
        self.classes = classes_of(like, data)
        own = own_model(search.network, search.recipe, data, self.classes, fit)
        self.marked, self.key = search.method.embed(copy.deepcopy(own), data, fit)
        self.method, self.data, self.held, self.fit = search.method, data, held, fit
        self.probes = held if self.key is None else search.method.probes(self.key, held, None)
        self.worth = accuracy(predict(self.marked, held.inputs), held.labels)

    def tries(self, text: str, attack: Attack) -> Tried:
        target = expose(copy.deepcopy(self.marked), attack.access, self.classes)
        stolen = attack.apply(target, self.data, self.fit).network
        lost = self.worth - accuracy(predict(stolen, self.held.inputs), self.held.labels)
        if self.key is None:
            return Tried(text, attack, lost, 1.0)
        suspect = Suspect.of(stolen).seen_by(self.method.needs)
        tests = self.method.evidence(suspect, self.key, self.probes).tests.values()
        p = max((test.p_value() for test in tests), default=1.0)
        return Tried(f"{text} (own mark p {p:.1g}, {100 * lost:.1f} points)", attack, lost, p)
