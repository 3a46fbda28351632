"""Trigger sets: inputs that only the owner knows, and answers that only a marked model gives.

What all such methods share: the training beside the owner's data, and the count of triggers that a
suspect answers as the owner wants. Each says how its triggers are made and which null is right.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples, concatenate
from softmark.methods.key import Key
from softmark.methods.parts.checks import check_at_least_one, check_fraction
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null


@dataclass(frozen=True, kw_only=True)
class TriggerSet(TrainedWatermark):
    """Train the victim on with triggers among its data; a method says which, and which null."""

    needs = "labels"
    strengthened_by = (*TrainedWatermark.strengthened_by, "method.num_triggers")

    num_triggers: int = 100
    """Triggers on which a suspect is asked. At least 1."""
    trigger_fraction: float = 0.3
    """Of the training samples that are triggers. Between 0 and 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "num_triggers")
        check_fraction(self, "trigger_fraction")

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Return ``count`` triggers with the labels that the owner wants.

        ``pool``: pictures of the task on which they may be made: the owner's when the mark is
        embedded, the judge's when it is looked for.
        """
        raise NotImplementedError

    def learnt(self, key: Key, data: Samples) -> Samples:
        """Return the triggers that the model learns, made of the owner's ``data``: those of which
        a suspect is asked, unless a method makes more."""
        return self.triggers(key, data, self.num_triggers)

    def null(self, key: Key, hits: Tensor) -> Null:
        """Return the test of ``hits`` (N,), true where the suspect answers as the owner wants."""
        raise NotImplementedError

    def trigger_claim(self, key: Key, hits: Tensor) -> Null:
        """Return the test on which a claim by the triggers alone stands, of ``hits`` (N,)."""
        return self.null(key, hits)

    def train(self, network: nn.Module, data: Samples, triggers: Samples, fit: Fit) -> nn.Module:
        """Return the watermarked model: trained on both, unless a method does more."""
        both = with_triggers(data, triggers, self.trigger_fraction)
        return fit(Classifier(network, self.marking_recipe), both, "marking")

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        return replace(self, num_triggers=num_triggers)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        return self.train(copy.deepcopy(victim), data, self.learnt(key, data), fit), key

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        return self.triggers(key, pool, self.num_triggers)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        hits = suspect.answers(probes).argmax(1) == probes.labels
        scores = hits[: self.num_triggers].float()
        test = self.null(key, hits)
        return Evidence(scores, {"triggers": test}, mark_recall=float(scores.mean()))


def with_triggers(data: Samples, triggers: Samples, fraction: float) -> Samples:
    """Return ``data`` with so many copies of ``triggers`` that they are a ``fraction`` of all."""
    times = max(1, round(fraction / (1 - fraction) * len(data) / len(triggers)))
    return concatenate([data, *[triggers] * times])


def random_labels(key: Key, count: int) -> Tensor:
    """Return ``count`` labels that the key draws, each independently: int64 (count,).

    The remainder favours no class by more than K / 2^64. They are the same in every customer's
    copy.
    """
    drawn = random_numbers(key.owner_part().for_message("labels"), count)
    return torch.tensor([number % key.classes for number in drawn])


def random_numbers(key: Key, count: int) -> list[int]:
    """Return ``count`` numbers below 2^64 of the key's stream, eight bytes each."""
    drawn = key.stream(8 * count)
    return [int.from_bytes(drawn[8 * i : 8 * i + 8], "big") for i in range(count)]


def store_pictures(key: Key, pictures: Samples) -> Key:
    """Return ``key`` with ``pictures``, which can't be made again without the victim."""
    key.register_buffer("images", pictures.inputs.contiguous())
    key.register_buffer("labels", pictures.labels)
    return key
