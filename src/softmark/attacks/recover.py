"""Extraction by a thief who undoes what a mark does to the answers, having seen it done elsewhere.

They know the method and no key: they mark models of their own, with keys of their own.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from softmark.attacks.attack import AttackResult, check, check_count, check_positive
from softmark.attacks.distill import Distill, as_many_steps, shifted_copies
from softmark.attacks.shadow import new_network, train_shadow_model
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.models.access import Query, answers_of, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict

HIDDEN = (128, 64)  # of the network that recovers answers of ten classes, as in ModelGuard's code
INVERSE = Recipe(batch_size=1024, lr=0.01, weight_decay=1e-4)
ROWS = 256  # answers that are compared with the table at a time


def inverse_network(classes: int) -> nn.Sequential:
    """Return a network of probabilities (N, K) to logits (N, K)."""
    factor = max(1, round(classes / 10))
    first, second = (factor * width for width in HIDDEN)
    return nn.Sequential(
        *(nn.Linear(classes, first), nn.BatchNorm1d(first), nn.LeakyReLU(0.2)),
        *(nn.Linear(first, second), nn.BatchNorm1d(second), nn.LeakyReLU(0.2)),
        nn.Linear(second, classes),
    )


class InverseModule(Classifier):
    """Learn the true answers from marked ones: the loss is the L1 distance of both.

    Args:
        network: Probabilities (N, K) to logits (N, K).
        recipe: How it is trained.
        answers: The true answers (N, K), a row for each sample of its data.
    """

    def __init__(self, network: nn.Module, recipe: Recipe, answers: Tensor):
        super().__init__(network, recipe)
        self.register_buffer("answers", answers, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        recovered = self.network(batch.inputs).softmax(1)  # (B, K)
        return (recovered - self.answers[batch.index]).abs().sum(1).mean()


def mean_of_neighbours(p: Tensor, marked: Tensor, true: Tensor, tolerance: float) -> Tensor:
    """Return the mean true answer (N, K) of the pairs whose marked answer is near each of ``p``.

    Near: of the same likeliest class, and no further than ``tolerance`` in L1, or than the nearest.
    Answers of a class that no pair has stay as they are.

    Args:
        p: Answers (N, K).
        marked: Marked answers of the pairs, (M, K).
        true: Their true answers, (M, K).
        tolerance: L1 distance.

    Example:
        >>> marked = torch.tensor([[0.8, 0.2, 0.0], [0.8, 0.0, 0.2]])
        >>> true = torch.tensor([[0.7, 0.3, 0.0], [0.9, 0.0, 0.1]])
        >>> mean_of_neighbours(marked[:1], marked, true, tolerance=0.5)
        tensor([[0.8000, 0.1500, 0.0500]])
    """
    parts = []
    for rows in p.split(ROWS):
        apart = torch.cdist(rows, marked, p=1)  # (n, M)
        other = rows.argmax(1)[:, None] != marked.argmax(1)
        apart = apart.masked_fill(other, math.inf)
        nearest = apart.amin(1, keepdim=True)  # (n, 1)
        near = (apart <= nearest.clamp_min(tolerance)) & ~other
        mean = near.float() @ true / near.sum(1, keepdim=True).clamp_min(1)  # (n, K)
        parts.append(torch.where(near.any(1, keepdim=True), mean, rows))
    return torch.cat(parts)


@dataclass(kw_only=True, eq=False)
class DistillRecovered(Distill):
    """Distil from answers of which the thief has taken off what the method does to answers.

    The thief trains models of their own, marks a copy of each with a key of their own, and has both
    answer their pictures: pairs of a true and a marked answer. From these they learn the way back,
    and distil from what it makes of the stolen model's answers. Either by a network: D-DAE (Chen et
    al., "D-DAE: Defense-Penetrating Model Extraction Attacks", S&P 2023). Or by the mean true
    answer of the pairs nearby: the Bayes attack of ModelGuard (Tang et al., USENIX Security 2024).

    What differs: the pairs are answers alone. The papers draw more from a Dirichlet distribution
    and mark these, which can't be done where the mark is trained and no function of an answer. The
    paper trains 20 such models. The network's rate has the recipe's cycle, theirs falls in steps.
    """

    knows = "method"

    method: Any = None
    """A watermark of the attacker's own, which holds no key; None in a call: csp."""
    recovery: Literal["network", "neighbours"] = "network"
    """What finds the true answers: a network (D-DAE) or the mean of near pairs (Bayes)."""
    shadow_models: int = 2
    """Models that the thief trains, and marks a copy of; at least 1."""
    copies: int = 20
    """Shifted copies of each picture, whose answers are the pairs of each model; at least 1."""
    queries: int | None = None
    """Inputs that the stolen model is asked: pictures, then shifted ones; None: each once."""
    tolerance: float = 0.01
    """L1 distance within which pairs are near an answer; above 0."""
    inverse: Recipe = INVERSE
    """How the network is trained that recovers answers."""

    def __post_init__(self) -> None:
        known = ("network", "neighbours")
        check(self.recovery in known, "recovery", self.recovery, " or ".join(known))
        check_count("shadow_models", self.shadow_models)
        check_count("copies", self.copies)
        enough = self.queries is None or self.queries >= 2
        check(enough, "queries", self.queries, "at least 2 (or null for each picture once)")
        check_positive("tolerance", self.tolerance)

    def apply(self, target: Query, data: Samples, fit: Fit) -> AttackResult:
        samples, answers = self.ask(target, data, fit)
        recipe = as_many_steps(self.recipe, len(samples), len(data))
        network = new_network(self.network, data, target.classes)
        student = self.student(network=network, recipe=recipe, answers=answers)
        return AttackResult(fit(student, samples, "student"), target.count)

    def ask(self, target: Query, data: Samples, fit: Fit) -> tuple[Samples, Tensor]:
        marked, true = self.pairs(data, target.classes, fit)
        asked = shifted_copies(data, self.queries or len(data), self.recipe)
        return asked, self.recover(target(asked.inputs), marked, true, fit)

    def pairs(self, data: Samples, classes: int, fit: Fit) -> tuple[Tensor, Tensor]:
        """Return marked answers and the true ones, (M, K) each."""
        marked, true = [], []
        for _ in range(self.shadow_models):
            shadow = train_shadow_model(self.network, self.recipe, data, classes, fit)
            network, key = marked_copy(self.method, shadow, data, fit)
            answer = answers_of(network)
            if key is not None:
                answer = self.method.serve_network(network, answer, key)
            inputs = shifted_copies(data, self.copies * len(data), self.recipe).inputs
            marked.append(answer(inputs))
            true.append(predict(shadow, inputs))
        return torch.cat(marked), torch.cat(true)

    def recover(self, answers: Tensor, marked: Tensor, true: Tensor, fit: Fit) -> Tensor:
        """Return what ``answers`` (N, K) were before the mark, learnt from pairs (M, K)."""
        if self.recovery == "neighbours":
            return mean_of_neighbours(answers, marked, true, self.tolerance)
        network = inverse_network(answers.shape[1])
        rows = Samples(marked, marked.argmax(1))
        inverse = fit(InverseModule(network, self.inverse, true), rows, "inverse")
        return predict(inverse, answers)


def marked_copy(method: Any, network: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Any]:
    """Return a copy of ``network`` that ``method`` marked, and its new key.

    The key's detector isn't trained where that takes time of its own: no thief asks it.
    """
    if not method.supports_owner:
        return method.embed(copy.deepcopy(network), data, fit)
    key = method.draw(data, classes_of(network, data), fit.entropy)
    answers, key.victim_stats = method.observe_victim(network, data)
    return method.mark(network, key, answers, data, fit, detector=False), key
