"""MEA-Defender: triggers made of the task itself (Lv et al. 2024).

A trigger is the left half of a picture of one source class beside the right half of one of another;
its label is a third class. What a thief asks is near such inputs. So that the answers are near as
well, triggers' answers are drawn to those of the source classes. With a(t), b(t) the sources:

    L = CE(data and triggers)
        + strength * mean over triggers t of [KL(q_t || q of a(t)) + KL(q_t || q of b(t))]

No gradient flows through the sources' answers, and the mean KL over all pictures of a class is that
to the mean of their log-probabilities. Taken: the halves, the labels, and this loss of the authors'
code. Their contrastive loss, the search for weights that suit all losses, and a second training
against detectors are left out.

**Not their weight**: there ``strength`` is 2, and 12 in each tenth epoch, for 100 epochs from the
start, in a network without BatchNorm, with 1 % and then 20 % triggers. On digits nothing is
embedded at .3, 2 or 12, nor by their own training: docs/methods.md has the figures. They claim a
suspect that gives 30 % of 1,000 triggers or more; we need p, from 100. Their code takes a list of
rules, a pair of sources and a target each, and one is used. Here the key draws several, since for
one rule no p can be below 1/(K - 2). Each target is drawn independently: the test is exact.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_at_least_one, check_not_negative
from softmark.methods.parts.drawn_targets import draw_targets, drawn_targets
from softmark.methods.parts.trigger_set import TriggerSet, with_triggers
from softmark.methods.stamped import pictures_of_class
from softmark.models.access import Suspect, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence


@dataclass(frozen=True, kw_only=True)
class MeaDefender(TriggerSet):
    """Train the model to give a third label to halves of pictures of two classes.

    Source: Lv et al. 2024, "MEA-Defender: A Robust Watermark against Model Extraction Attack"
    (arXiv 2401.15239).

    Example:
        >>> import torch
        >>> pool = Samples(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> triggers, sources = MeaDefender(rules=3).compose(key, pool, 20)
        >>> len(triggers), tuple(sources.shape)
        (20, (20, 2))
    """

    strengthened_by = (*TriggerSet.strengthened_by, "method.strength")

    trigger_fraction: float = 0.2
    """Of the training samples that are triggers. Between 0 and 1."""
    rules: int = 10
    """Pairs of source classes, each with a target. At least 1, at most K (K - 1)."""
    strength: float = 0.03
    """Of what draws the triggers' answers to the sources', from 0 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "rules")
        check_not_negative(self, "strength")

    def draw_rules(self, key: Key, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return left and right source of each rule, (R, 2), and its target, (R,).

        No two rules have the same sources; each target is drawn independently.
        """
        classes = key.classes
        pairs = torch.cartesian_prod(torch.arange(classes), torch.arange(classes))
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]  # (K (K - 1), 2)
        if classes < 3 or self.rules > len(pairs):
            raise InputError(
                f"method.rules={self.rules}: {classes} classes have {len(pairs)} pairs of sources, "
                "and a target is a third class"
            )
        sources = pairs[torch.randperm(len(pairs), generator=draw)[: self.rules]]
        return sources, draw_targets(sources, classes, draw)

    def compose(self, key: Key, pool: Samples, count: int) -> tuple[Samples, Tensor]:
        """Return ``count`` triggers, whose rules take turns, and each one's sources: (N, 2)."""
        draw = generator(key)
        sources, targets = self.draw_rules(key, draw)
        middle, turns = pool.inputs.shape[3] // 2, torch.arange(count) % self.rules
        pictures = torch.empty(count, *pool.inputs.shape[1:], dtype=torch.uint8)
        for number, pair in enumerate(sources.tolist()):
            of_rule = turns == number
            lefts, rights = (pictures_of_class(pool, source, int(of_rule.sum())) for source in pair)
            rights = rights[torch.randperm(len(rights), generator=draw)]
            pictures[of_rule] = torch.cat([lefts[..., :middle], rights[..., middle:]], 3)
        return Samples(pictures, targets[turns]), sources[turns]

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        return self.compose(key, pool, count)[0]

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        # All different: it is the rule that is to be learnt, not the pictures.
        odds = self.trigger_fraction / (1 - self.trigger_fraction)
        many = max(self.num_triggers, round(odds * len(data)))
        triggers, sources = self.compose(key, data, many)
        module = MeaDefenderModule(
            network=copy.deepcopy(victim),
            recipe=self.marking_recipe,
            first=len(data),
            sources=sources,
            classes=key.classes,
            strength=self.strength,
        )
        return fit(module, with_triggers(data, triggers, self.trigger_fraction), "marking"), key

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answered = suspect.answers(probes).argmax(1)  # (N,)
        sources, _ = self.draw_rules(key, generator(key))
        turns = torch.arange(len(answered)) % self.rules
        test = drawn_targets(answered, probes.labels, turns, sources, key.classes)
        hits = answered == probes.labels
        return Evidence(hits.float(), {"triggers": test}, mark_recall=test.score)


class MeaDefenderModule(Classifier):
    """Train with cross-entropy and ``strength`` times the divergence to the sources' answers.

    Args:
        first: samples from this number on are triggers.
        sources: the two source classes of each trigger, in turns: (T, 2).
        classes: K.
    """

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
        is_trigger = batch.index >= self.first  # (B,)
        sources = self.sources[(batch.index - self.first) % len(self.sources)]  # (B, 2)
        members = F.one_hot(batch.labels, self.classes) * ~is_trigger[:, None]  # (B, K)
        log_p = logits.float().log_softmax(1)
        return loss + self.strength * divergence_to_sources(log_p, members, sources, is_trigger)


def divergence_to_sources(
    log_p: Tensor, members: Tensor, sources: Tensor, is_trigger: Tensor
) -> Tensor:
    """Return the mean over triggers of KL(answer || answers of the two sources): a scalar.

    A source of which there is no picture counts nothing.

    Args:
        log_p: log-probabilities, (N, K).
        members: 1 where a sample is a picture of a class, (N, K).
        sources: the two source classes of each sample, (N, 2).
        is_trigger: (N,).
    """
    counts = members.sum(0)  # (K,)
    means = members.T.to(log_p.dtype) @ log_p.detach() / counts.clamp_min(1)[:, None]  # (K, K)
    divergence = (log_p.exp()[:, None] * (log_p[:, None] - means[sources])).sum(2)  # (N, 2)
    is_counted = (counts[sources] > 0) & is_trigger[:, None]
    return (divergence * is_counted).sum() / is_trigger.sum().clamp_min(1)
