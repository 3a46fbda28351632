"""Trigger sets: inputs that only the owner knows, and answers that only a marked model gives.

What all such methods share: the training beside the owner's data, and the count of triggers that a
suspect answers as the owner wants. Each says how its triggers are made and which null is right.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import longer
from softmark.methods.key import Key, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Classifier, Fit, Recipe
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null, Sampled


class TriggerSet(Watermark):
    """``num_triggers``: how many there are. ``trigger_fraction``: their part of the samples.

    ``recipe``, ``epochs_factor``: the training of the watermarked model, which begins as the
    victim and lasts ``epochs_factor`` times the recipe's epochs.
    """

    needs = "labels"
    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor", "method.num_triggers")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
    ):
        if not num_triggers >= 1:
            raise InputError(f"method.num_triggers={num_triggers}: at least one trigger")
        if not 0 < trigger_fraction < 1:
            raise InputError(
                f"method.trigger_fraction={trigger_fraction}: a fraction between 0 and 1"
            )
        self.message = named(message)
        self.recipe = longer(recipe, epochs_factor)
        self.num_triggers = num_triggers
        self.trigger_fraction = trigger_fraction

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """``count`` triggers with the labels that the owner wants.

        ``pool``: pictures of the task on which they may be made: the owner's when the mark is
        embedded, the judge's when it is looked for.
        """
        raise NotImplementedError

    def null(self, key: Key, hits: Tensor) -> Null:
        """The test of ``hits`` (N,), true where the suspect answers as the owner wants."""
        raise NotImplementedError

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        """The watermarked model: trained on both, unless a method does more."""
        return fit(
            Classifier(network, self.recipe),
            beside(data, triggers, self.trigger_fraction),
            "marking",
        )

    @property
    def epochs(self) -> int:
        return self.recipe.epochs

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        if not num_triggers >= 1:
            raise InputError(f"method.num_triggers={num_triggers}: at least one trigger")
        other = copy.copy(self)
        other.num_triggers = num_triggers
        return other

    def scale_epochs(self, factor: float) -> Self:
        other = copy.copy(self)
        other.recipe = longer(self.recipe, factor)
        return other

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        triggers = self.triggers(key, data, self.num_triggers)
        return self.train(copy.deepcopy(victim), data, triggers, fit), key

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        return self.triggers(key, pool, self.num_triggers)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        hits = suspect.answers(probes).argmax(1) == probes.labels
        test, own = self.null(key, hits), hits[: self.num_triggers].float()
        return Evidence(own, {"triggers": test}, mark_recall=float(own.mean()))


def beside(data: Samples, triggers: Samples, fraction: float) -> Samples:
    """``data`` with so many copies of ``triggers`` that they are a ``fraction`` of the whole."""
    times = max(1, round(fraction / (1 - fraction) * len(data) / len(triggers)))
    return Samples(
        torch.cat([data.inputs, *[triggers.inputs] * times]),
        torch.cat([data.labels, *[triggers.labels] * times]),
    )


def random_labels(key: Key, count: int) -> Tensor:
    """``count`` labels that the key draws, each independently: int64 (count,).

    Eight bytes a label: the remainder favours no class by more than K / 2^64.
    """
    drawn = key.stream(8 * count)
    return torch.tensor(
        [int.from_bytes(drawn[8 * i : 8 * i + 8], "big") % key.classes for i in range(count)]
    )


def with_redrawn(method: TriggerSet, key: Key, pool: Samples, redraws: int) -> Samples:
    """Return the triggers of ``key``, and after them those of ``redraws`` keys drawn again.

    For triggers that share a label: a model that always answered it would match all of them, and
    not binomially. All sets are made alike, from the same ``pool``, and for any ``key`` the same
    ones are drawn.
    """
    redrawn = _redrawn(method, _Pool(pool.fingerprint, pool), key.classes, redraws)
    return joined([method.triggers(key, pool, method.num_triggers), redrawn])


@dataclass(frozen=True)
class _Pool:
    """Samples that are equal where their fingerprints are."""

    fingerprint: str
    samples: Samples = field(compare=False)


@functools.lru_cache(maxsize=2)
def _redrawn(method: TriggerSet, pool: _Pool, classes: int, redraws: int) -> Samples:
    """Return the triggers of ``redraws`` keys, the same ones each time; making them is slow."""
    draw = torch.Generator().manual_seed(0)

    def entropy(count: int) -> bytes:
        return bytes(torch.randint(256, (count,), dtype=torch.uint8, generator=draw).tolist())

    keys = [method.draw(pool.samples, classes, entropy) for _ in range(redraws)]
    return joined([method.triggers(key, pool.samples, method.num_triggers) for key in keys])


def joined(sets: Sequence[Samples]) -> Samples:
    return Samples(torch.cat([s.inputs for s in sets]), torch.cat([s.labels for s in sets]))


def among_redrawn(hits: Tensor, count: int) -> Sampled:
    """The part of the first ``count`` ``hits`` (N,) that is true, among that of each other set."""
    sets = hits[: len(hits) // count * count].reshape(-1, count).float().mean(1)
    return Sampled(float(sets[0]) if len(sets) else 0.0, sets[1:])
