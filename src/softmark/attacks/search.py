"""An attacker who searches among attacks and their settings for what removes the mark cheapest.

They can't ask the judge, but they know the method: they mark a model of their own with a key of
their own, try attacks on that, and do to the stolen model what did best. Optuna (Akiba et al. 2019)
proposes what to try.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from softmark.accuracy import accuracy
from softmark.attacks.attack import (
    RECIPE,
    Attack,
    AttackResult,
    check,
    check_between,
    check_count,
)
from softmark.attacks.candidates import Candidate, default_candidates
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import Answer, Suspect, answers_of, classes_of, expose
from softmark.recipe import Recipe
from softmark.training import Fit, predict
from softmark.verification.evidence import usable
from softmark.verification.nulls import Null

HELD_OUT = 0.3  # of the attacker's pictures: what they measure on, and train nothing on
LEVELS = {"exact": 1e-6, "sampled": 1e-3, "innocents": 0.05}


@dataclass(frozen=True)
class Tried:
    """What an attack did to the attacker's own marked model."""

    text: str
    """The attack with its settings, for a reader."""
    name: str
    """The candidate's."""
    steps: Sequence[Attack]
    """The attack, and what follows it."""
    lost: float
    """Accuracy that it cost, as a fraction."""
    left: float
    """What is left of the attacker's own mark: the logarithm of p over that of the level, of the
    test that it is least for. From 1 on the mark is claimed."""

    @property
    def price(self) -> float:
        """A number, less is better: first whether the mark is gone, then what that cost."""
        return max(self.lost, 0.0) + (0.0 if self.left < 1 else 1 + self.left / 10)


class Served(nn.Module):
    """Which candidate stands before the stolen model, and what each of them has learnt."""

    def __init__(self, attacks: Mapping[str, Attack]):
        super().__init__()
        self.names = list(attacks)
        learnt = {name: attack.transform for name, attack in attacks.items()}
        self.learnt = nn.ModuleDict({name: each for name, each in learnt.items() if each})
        self.register_buffer("chosen", torch.tensor(-1))

    def choose(self, name: str) -> None:
        """Let the candidate ``name`` stand before the model, if it changes answers at all."""
        self.chosen.fill_(self.names.index(name) if name in self.names else -1)


@dataclass(kw_only=True, eq=False)
class Search(Attack):
    """Search among attacks and their settings for what removes a mark at the least loss.

    The attacker can't ask the judge: they mark a model of their own, try attacks on that, and do to
    the stolen model what did best, or what came closest. Each candidate is tried once at the upper
    end of its ranges; then Optuna (Akiba et al. 2019) proposes what to try. The attacker takes
    their own mark for gone where it wouldn't be claimed. They have fewer probes than the judge may
    have, and take an exact level so much less strictly: a p-value that half of the probes give is
    about the square root of the whole's.
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
    levels: Mapping[str, float] = field(default_factory=lambda: dict(LEVELS))
    """The p-value that a claim must reach, by what a test's null rests on; between 0 and 1."""
    probes: int = 1000
    """How many inputs the judge asks; at least 1."""
    candidates: Mapping[str, Candidate] = field(default_factory=default_candidates)
    """What is tried, each with the ranges of its numbers."""

    def __post_init__(self) -> None:
        check_count("trials", self.trials)
        check_count("probes", self.probes)
        if self.seconds is not None and not self.seconds > 0:
            needed = "it must be above 0 (or null for no limit)"
            raise InputError(f"attack.seconds={self.seconds}: {needed}")
        check(set(self.levels) == set(LEVELS), "levels", self.levels, f"names {', '.join(LEVELS)}")
        for name, level in self.levels.items():
            check_between(f"levels.{name}", level)
        if not self.candidates:
            raise InputError("attack.candidates is empty: there is nothing to try")
        self.serving = {
            name: candidate.steps({})[-1]
            for name, candidate in self.candidates.items()
            if candidate.serves
        }
        self.transform = Served(self.serving)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        count = round(HELD_OUT * len(data))
        stand_in = StandIn(self, target, data[count:], data[:count], fit)
        best = self.best(stand_in)
        steps = [self.serving[best.name]] if best.name in self.serving else best.steps
        result = apply_steps(steps, target, data, fit, stand_in.classes)
        self.transform.choose(best.name)
        found = "found" if best.left < 1 else "nothing removed the mark; closest"
        return replace(result, note=f"{found}: {best.text}")

    def serve(self, answer: Answer) -> Answer:
        chosen = int(self.transform.chosen)
        if chosen < 0:
            return answer
        return self.serving[self.transform.names[chosen]].serve(answer)

    def best(self, stand_in: StandIn) -> Tried:
        """Try attacks on ``stand_in``; return the one of the least price."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=int(torch.randint(2**31, ())))
        study = optuna.create_study(sampler=sampler)
        for name, candidate in self.candidates.items():
            highest = {f"{name}.{key}": high for key, (_, high) in candidate.ranges.items()}
            study.enqueue_trial({"attack": name, **highest})
        tried, start = [], time.monotonic()
        while len(tried) < self.trials:
            if tried and self.seconds is not None and time.monotonic() - start > self.seconds:
                break
            trial = study.ask()
            tried.append(stand_in.tries(*self.proposed(trial)))
            study.tell(trial, tried[-1].price)
        return min(tried, key=lambda each: each.price)

    def proposed(self, trial: Any) -> tuple[str, str, Sequence[Attack]]:
        """Return an attack and its settings as text, the candidate's name, and the attack."""
        name = trial.suggest_categorical("attack", list(self.candidates))
        candidate, settings = self.candidates[name], {}
        for setting, (low, high) in candidate.ranges.items():
            is_whole = isinstance(low, int) and isinstance(high, int)
            suggest = trial.suggest_int if is_whole else trial.suggest_float
            settings[setting] = suggest(f"{name}.{setting}", low, high, log=True)
        values = (f"{setting} {value:.3g}" for setting, value in settings.items())
        return ", ".join([name, *values]), name, candidate.steps(settings)


def apply_steps(
    steps: Sequence[Attack], target: nn.Module, data: Samples, fit: Fit, classes: int
) -> AttackResult:
    """Return what one attack after the other leaves of ``target``, with all their queries."""
    queries, result = 0, AttackResult(target)
    for step in steps:
        result = step.apply(expose(result.network, step.access, classes), data, fit)
        queries += result.queries
    return replace(result, queries=queries)


class StandIn:
    """A model of the attacker's own, marked with a key of their own, on which attacks are tried."""

    def __init__(self, search: Search, like: nn.Module, data: Samples, held_out: Samples, fit: Fit):
        self.classes = classes_of(like, data)
        shadow = train_shadow_model(search.network, search.recipe, data, self.classes, fit)
        self.marked, self.key = search.method.embed(copy.deepcopy(shadow), data, fit)
        self.method, self.data, self.fit = search.method, data, fit
        self.held_out, self.levels = held_out, search.levels
        self.part = min(1.0, len(held_out) / search.probes)
        self.probes = (
            held_out if self.key is None else search.method.probes(self.key, held_out, None)
        )
        self.accuracy = accuracy(predict(self.marked, held_out.inputs), held_out.labels)

    def tries(self, text: str, name: str, steps: Sequence[Attack]) -> Tried:
        """Attack the marked model; return what is left of its accuracy and of the mark.

        What can't be done to this model, or ends in no number, is worth nothing.
        """
        try:
            target = copy.deepcopy(self.marked)
            stolen = apply_steps(steps, target, self.data, self.fit, self.classes).network
        except InputError as error:
            return Tried(f"{text} ({error})", name, steps, 1.0, math.inf)
        suspect = served_by(steps, stolen)
        answers = suspect.answer(self.held_out.inputs)
        lost = self.accuracy - accuracy(answers, self.held_out.labels)
        if self.key is None:
            return Tried(text, name, steps, lost, 0.0)
        visible = suspect.seen_by(self.method.needs)
        tests = self.method.evidence(visible, self.key, self.probes).tests.values()
        p = max((test.p_value() for test in tests), default=1.0)
        left = min((self.left(test) for test in tests), default=0.0)
        text = f"{text} (own mark p {p:.1g}, {100 * lost:.1f} points)"
        return Tried(text, name, steps, lost, left)

    def left(self, test: Null) -> float:
        """Return the logarithm of the p-value of ``test`` over that of its level."""
        part = self.part if test.kind == "exact" else 1.0
        return math.log(max(test.p_value(), 1e-300)) / (part * math.log(self.levels[test.kind]))


def served_by(steps: Sequence[Attack], network: nn.Module) -> Suspect:
    """Return ``network`` behind what ``steps`` put before it."""
    plain = answers_of(network)
    answer = plain
    for step in steps:
        answer = step.serve(answer)
    if answer is plain:
        return Suspect.of(network)
    return Suspect(lambda inputs: usable(answer(inputs))[0], network)
