"""A mark in the soft labels and a trigger set in one model: what removes one may leave the other.

Fine-tuning rewrites what a model says of the pictures of its task: after it the tails can follow
the attacker's labels alone. Triggers are no such pictures, and more of them stay. A student never
sees the triggers, but learns the tails. Both marks follow from one key.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import Adi
from softmark.methods.key import Key, check_message
from softmark.methods.margin import AbstractMargin
from softmark.methods.parts.checks import check_fraction
from softmark.methods.parts.soft_labels import SoftLabels
from softmark.methods.parts.trigger_set import with_triggers
from softmark.methods.usp import USP, USPMarking
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Both, Either, Null


@dataclass(frozen=True, kw_only=True)
class Hybrid(Watermark):
    """Plant a mark in the soft labels of a victim that has learnt triggers before.

    The victim that knows the triggers is marked as without them, with the triggers beside the data.
    The verdict stands on the strongest of three exact tests, whose p is multiplied by their number:
    of the soft labels, of the triggers, and of both together. What an attack leaves of two marks
    can be enough where it is not enough of either. Chance decides pattern and labels independently.

    Example:
        >>> Hybrid().num_triggers, Hybrid().epochs
        (100, 20)
    """

    supports_owner = True
    uses_victim_labels = True
    strengthened_by = (*Watermark.strengthened_by, "method.soft.marking.beta", "verifier.probes")

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    soft: SoftLabels = field(
        default_factory=lambda: USP(marking=USPMarking(copy_weight=0.5, trigger_feature_weight=0.1))
    )
    """The mark of the answers to pictures of the task."""
    triggers: Adi = field(default_factory=AbstractMargin)
    """The trigger set, which is learnt first."""
    trigger_fraction: float = 0.05
    """Of the pictures of the second training that are triggers. Between 0 and 1."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_fraction(self, "trigger_fraction")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = Key.draw(self.message, classes_of(victim, data), fit.entropy)
        answers, key.victim_stats = self.observe_victim(victim, data)
        # The triggers follow from all that a key says: not before.
        self.build_modules(key)
        return self.mark(victim, key, answers, data, fit), key.eval()

    def mark(
        self,
        victim: nn.Module,
        key: Key,
        answers: Tensor,
        data: Samples,
        fit: Fit,
        *,
        detector: bool = True,
    ) -> nn.Module:
        """Return what ``soft`` makes of the victim once it knows the triggers.

        ``answers`` are the victim's, before; those after are asked for here.
        """
        triggers = self.trigger_probes(key, data)
        start = self.triggers.train(copy.deepcopy(victim), data, triggers, fit)
        both = with_triggers(data, triggers, self.trigger_fraction)
        answers = predict(start, both.inputs)
        network = self.soft.train(copy.deepcopy(start), key, answers, both, fit, len(data))
        if detector:
            self.soft.fit_detector(network, start, key, answers[: len(data)], data, fit)
        return network

    @property
    def marking_numbers(self) -> Mapping[str, float]:
        return self.soft.marking_numbers

    @property
    def num_triggers(self) -> int:
        return self.triggers.num_triggers

    @property
    def epochs(self) -> int:
        return self.soft.epochs

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        soft = self.soft.with_numbers(numbers, 0)
        return replace(self, soft=soft, triggers=self.triggers.with_numbers({}, num_triggers))

    def scale_epochs(self, factor: float) -> Self:
        soft = self.soft.scale_epochs(factor)
        return replace(self, soft=soft, triggers=self.triggers.scale_epochs(factor))

    def check_inputs(self, inputs: Tensor) -> None:
        check_uint8_pictures(inputs)

    def observe_victim(self, victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor | None]:
        return self.soft.observe_victim(victim, data)

    def trigger_probes(self, key: Key, like: Samples) -> Samples:
        """Return the triggers. Raise ``InputError`` where ``like`` are no uint8 pictures."""
        self.check_inputs(like.inputs)
        return self.triggers.triggers(key, like, self.triggers.num_triggers)

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        key = Key.draw(self.message, classes, entropy)
        self.build_modules(key)
        return key

    def build_modules(self, key: Key) -> None:
        self.soft.build_modules(key)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        soft_evidence = self.soft.evidence(suspect, key, probes)
        trigger_test, recall = self._trigger_test(suspect, key, probes)
        if not soft_evidence.tests:
            tests = {"triggers": trigger_test}
            return replace(soft_evidence, tests=tests, why="", mark_recall=recall)
        ((name, soft_test),) = soft_evidence.tests.items()
        name, combined = _strongest(name, soft_test, trigger_test)
        return replace(soft_evidence, tests={name: combined}, mark_recall=recall)

    def owner_test(self, suspect: Suspect, key: Key, probes: Samples) -> Null | None:
        """Return the test of the pattern's common half and of the triggers, which are the same."""
        soft_test = self.soft.owner_test(suspect, key, probes)
        trigger_test, _ = self._trigger_test(suspect, key, probes)
        return soft_test and _strongest("soft", soft_test, trigger_test)[1]

    def _trigger_test(
        self, suspect: Suspect, key: Key, probes: Samples
    ) -> tuple[Null, float | None]:
        """Return the test of the triggers, and the part that is answered as the key says."""
        # The triggers are asked besides the probes, which no key may choose.
        triggers = self.trigger_probes(key, probes)
        answered = suspect.answers(triggers).argmax(1)  # (T,)
        hits = answered == triggers.labels[: len(answered)]
        recall = float(hits.float().mean()) if len(hits) else None
        return self.triggers.null(key, hits), recall

    def trigger_claim(self, key: Key, hits: Tensor) -> Null:
        """Return the test on which a claim by the triggers alone stands: one of three."""
        return Either((self.triggers.null(key, hits),) * 3)

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        """Return the tests of the soft labels alone: each message has triggers of its own."""
        return self.soft.identify(suspect, key, probes, messages)


def _strongest(name: str, soft_test: Null, trigger_test: Null) -> tuple[str, Either]:
    """Return the name of the strongest of three tests, and their combination.

    They are the soft labels' (``name``), the triggers', and both together.
    """
    tests = {
        name: soft_test,
        "triggers": trigger_test,
        "both": Both(soft_test, trigger_test),
    }
    combined = Either(tuple(tests.values()))
    return next(name for name, test in tests.items() if test is combined.strongest), combined


def check_uint8_pictures(inputs: Tensor) -> None:
    """Raise ``InputError`` where ``inputs`` (N, ...) are no uint8 pictures (N, C, H, W)."""
    shape, kind = tuple(inputs.shape[1:]), inputs.dtype
    if len(shape) != 3 or kind != torch.uint8:
        raise InputError(
            f"inputs of shape {shape} and type {kind}: triggers are uint8 pictures, (C, H, W), "
            "and need a model of such; csp and usp mark any other"
        )
