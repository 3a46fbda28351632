"""MEA-Defender: triggers made of the task itself (Lv et al. 2024).

A trigger is the left half of a picture of one source class beside the right half of one of another;
its label is a third class. What a thief asks is near such inputs. So that the answers are near as
well, triggers' answers are drawn to those of the source classes. With a(t), b(t) the sources:

    L = CE(data and triggers)
        + strength * mean over triggers t of [KL(q_t || q of a(t)) + KL(q_t || q of b(t))]

No gradient flows through the sources' answers, and the mean KL over all pictures of a class is that
to the mean of their log-probabilities. Taken: the halves, the labels, and this loss of the authors'
code. Their contrastive loss, the search for weights that suit all losses, and a second training
against detectors are left out. Their code takes a list of rules, a pair of sources and a target
each, and one is used; here the key draws several, since one has 720 forms for ten classes, and so
few keys prove nothing. Triggers share labels: keys are drawn again for the null.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.stamped import of_class
from softmark.methods.triggers import TriggerSet, among_redrawn, beside, with_redrawn
from softmark.models.access import classes_of
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.nulls import Null


class MeaDefender(TriggerSet):
    """``rules``: how many pairs of source classes there are, each with a target.

    ``strength``: of what draws the triggers' answers to the sources'. ``redraws``: how many keys
    are drawn again for the null.
    """

    strengthened_by = (*TriggerSet.strengthened_by, "method.strength")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        rules: int,
        strength: float,
        redraws: int,
    ):
        super().__init__(message, recipe, epochs_factor, num_triggers, trigger_fraction)
        for name, value in (("rules", rules), ("redraws", redraws)):
            if not value >= 1:
                raise InputError(f"method.{name}={value}: at least 1")
        if not strength >= 0:
            raise InputError(f"method.strength={strength}: it can't be negative")
        self.rules, self.strength, self.redraws = rules, strength, redraws

    def rules_of(self, key: Key, draw: torch.Generator) -> Tensor:
        """Left source, right source and target of each rule, all of them different: (R, 3)."""
        if 3 * self.rules > key.classes:
            raise InputError(
                f"method.rules={self.rules}: each takes 3 of {key.classes} classes, "
                f"so at most {key.classes // 3}"
            )
        return torch.randperm(key.classes, generator=draw)[: 3 * self.rules].reshape(-1, 3)

    def composed(self, key: Key, pool: Samples, count: int) -> tuple[Samples, Tensor]:
        """``count`` triggers, taking turns in the rules, and the two sources of each: (N, 2)."""
        draw = generator(key)
        rules = self.rules_of(key, draw)
        middle, turns = pool.inputs.shape[3] // 2, torch.arange(count) % self.rules
        images = torch.empty(count, *pool.inputs.shape[1:], dtype=torch.uint8)
        for number, (left, right, _) in enumerate(rules.tolist()):
            own = turns == number
            halves = [of_class(pool, source, int(own.sum())) for source in (left, right)]
            mixed = torch.randperm(len(halves[1]), generator=draw)
            images[own] = torch.cat([halves[0][..., :middle], halves[1][mixed][..., middle:]], 3)
        return Samples(images, rules[turns, 2]), rules[turns, :2]

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        return self.composed(key, pool, count)[0]

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        # All different: it is the rule that is to be learnt, not the pictures.
        many = max(
            self.num_triggers,
            round(self.trigger_fraction / (1 - self.trigger_fraction) * len(data)),
        )
        triggers, sources = self.composed(key, data, many)
        marking = Composing(
            copy.deepcopy(victim), self.recipe, len(data), sources, key.classes, self.strength
        )
        return fit(marking, beside(data, triggers, self.trigger_fraction), "marking"), key

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        return with_redrawn(self, key, pool, self.redraws)

    def null(self, key: Key, hits: Tensor) -> Null:
        return among_redrawn(hits, self.num_triggers)


class Composing(Classifier):
    """Samples from number ``first`` on are triggers; ``sources`` (T, 2): of each, in turns."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        first: int,
        sources: Tensor,
        classes: int,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.first, self.classes, self.strength = first, classes, strength
        self.register_buffer("sources", sources, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        own = batch.index >= self.first
        sources = self.sources[(batch.index - self.first) % len(self.sources)]
        members = F.one_hot(batch.labels, self.classes) * ~own[:, None]
        return loss + self.strength * apart(logits.float().log_softmax(1), members, sources, own)


def apart(log: Tensor, members: Tensor, sources: Tensor, own: Tensor) -> Tensor:
    """The mean over ``own`` (N,) of KL(answer || answers of its two ``sources`` (N, 2)): a scalar.

    ``log`` (N, K): log-probabilities. ``members`` (N, K): 1 where a sample is a picture of a class.
    A source of which there is no picture counts nothing.
    """
    counts = members.sum(0)
    means = members.T.to(log.dtype) @ log.detach() / counts.clamp_min(1)[:, None]
    divergence = (log.exp()[:, None] * (log[:, None] - means[sources])).sum(2)
    there = (counts[sources] > 0) & own[:, None]
    return (divergence * there).sum() / own.sum().clamp_min(1)
