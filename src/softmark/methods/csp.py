"""CSP: a keyed perturbation of the output distribution that carries the owner's message.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
There are two random signs for each pair of classes. One, the owner's, says what they show of each
other together; one, which each message draws anew, says which of them shows more: so copies of
several customers keep the owner's signs when they are averaged, and a copy names its customer. The
watermarked model is trained so that the log-tail of every answer has a margin along the row of its
class in the pattern that the signs make. The owner's signs are planted in the features as well,
where a new last layer finds them. What is left after an attack is tested exactly, since under "this
suspect knows nothing of the key" the signs are coin flips.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmark.batches import Batch
from softmark.methods.key import Key
from softmark.methods.parts.feature_mark import NetworkWithFeatures
from softmark.methods.parts.loss import Marking, MarkingLoss
from softmark.methods.parts.soft_labels import (
    BEYOND_VICTIM,
    DIFFERENCES,
    MISTAKES,
    PAIRS,
    TAILS,
    TURNED,
    Part,
    SoftLabels,
    combine_halves,
    pairs,
)
from softmark.methods.parts.teacher import Teacher
from softmark.methods.parts.trigger_features import TriggerFeatures
from softmark.methods.parts.tuned_copy import TunedCopy
from softmark.models.files import below
from softmark.recipe import Recipe
from softmark.tails import anscombe_residuals, project_out
from softmark.training import Classifier
from softmark.verification.nulls import Either
from softmark.verification.signs import Signs


def sign_matrix(owner: bytes, customer: bytes, classes: int) -> Tensor:
    """Return the pattern (S + A) / sqrt 2 of the key's signs: (K, K), 0 on the diagonal.

    S is symmetric, A antisymmetric. Of the two entries of a pair one is 0, the other sqrt 2 or its
    negative.

    Args:
        owner: a bit for each pair, row by row above the diagonal, of which S is made.
        customer: as many more, of which A is made.
        classes: K.
    """
    signs = (signs_of(stream, classes).float() for stream in (owner, customer))
    return combine_halves(*signs, classes)


def signs_of(stream: bytes, classes: int) -> Tensor:
    """Return the signs of a stream of bits, one for each pair of classes: int8, 1 or -1."""
    num_pairs = classes * (classes - 1) // 2
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[:num_pairs]
    return torch.from_numpy(bits.view(np.int8)) * 2 - 1


class CSPModule(Classifier):
    """Train the watermarked model by ``MarkingLoss`` with a ``Teacher``.

    Args:
        network: begins as the victim.
        recipe: of the training.
        pattern: of the key, (K, K).
        answers: the victim's, to the training data, (N, K); the teacher takes them.
        marking: the numbers of the loss, the teacher and the tuned copy.
        task_size: the first so many training samples are the task's, and triggers come behind
            them; None: all are the task's.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        answers: Tensor,
        marking: Marking,
        task_size: int | None = None,
    ):
        super().__init__(network, recipe)
        self.marking_loss = MarkingLoss(pattern, marking)
        self.tuned_copy = None
        if marking.copy_weight:
            self.tuned_copy = TunedCopy(
                network,
                recipe,
                self.marking_loss,
                marking.copy_steps,
                marking.copy_weight,
                task_size,
            )
        self.teacher = Teacher(answers, marking.teacher_weight, marking.teacher_temperature)
        self.network_with_features = NetworkWithFeatures(network, self.marking_loss.planted)
        self.task_size = task_size
        self.trigger_features = None
        if task_size is not None and marking.trigger_feature_weight:
            self.trigger_features = TriggerFeatures(len(pattern), marking.trigger_feature_weight)

    def loss(self, batch: Batch) -> Tensor:
        logits, features = self.network_with_features(batch.inputs)  # (B, K), (B, D)
        return self.marked_loss(batch, logits, features)

    def marked_loss(self, batch: Batch, logits: Tensor, features: Tensor | None) -> Tensor:
        """Return the loss of a batch's ``logits`` (B, K) and ``features`` (B, D): a scalar."""
        answers, labels = self.teacher.answers[batch.index], batch.labels
        loss = self.marking_loss.with_teacher(self.teacher, logits, labels, answers, features)
        if self.trigger_features is None or features is None:
            return loss
        is_trigger, last = batch.index >= self.task_size, self.network_with_features.last
        return loss + self.trigger_features(features, labels, is_trigger, last.weight)

    def add_gradients(self, batch: Batch) -> None:
        """Add those of the mark at the weights of a copy that is fine-tuned, as a thief would."""
        if self.tuned_copy is not None:
            self.tuned_copy.add_gradients(batch)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is known of the features and the tuned copy, which no state_dict has."""
        if self.trigger_features is not None:
            state = self.trigger_features.state()
            checkpoint |= {f"trigger_features.{name}": value for name, value in state.items()}
        if self.tuned_copy is not None:
            state = self.tuned_copy.state()
            checkpoint |= {f"tuned_copy.{name}": value for name, value in state.items()}
        if (means := self.marking_loss.planted.means) is not None:
            checkpoint["feature_means"] = means

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what ``on_save_checkpoint`` added."""
        state = below("tuned_copy.", checkpoint)
        if self.tuned_copy is not None and state:
            self.tuned_copy.restore(state)
        if self.trigger_features is not None:
            self.trigger_features.restore(below("trigger_features.", checkpoint))
        if (means := checkpoint.get("feature_means")) is not None:
            self.marking_loss.planted.means = means.to(self.device)


class CSP(SoftLabels):
    """Plant a pattern of random signs, one for each message.

    Source: Chien and Shen 2022 (arXiv 2208.05477); our reconstruction from its abstract.

    Example:
        A model is marked, and the mark is found, without any config:

        >>> import torch
        >>> from softmark.methods import CSP, Fit
        >>> from softmark.recipe import Recipe
        >>> _ = torch.manual_seed(0)
        >>> inputs, labels = torch.rand(480, 12), torch.arange(480) % 12
        >>> inputs[torch.arange(480), labels] += 2
        >>> model = torch.nn.Linear(12, 12)
        >>> method = CSP(recipe=Recipe(epochs=4, batch_size=32, pad=0, flip=False))
        >>> marked, key = method.embed(model, (inputs, labels), Fit("cpu"))
        >>> bool(method.evidence(marked, key, inputs).tests["signs"].p_value() < 1e-6)
        True
        >>> bool(method.evidence(model, key, inputs).tests["signs"].p_value() < 1e-6)
        False
    """

    def pattern(self, key: Key) -> Tensor:
        return sign_matrix(*sign_streams(key), key.classes)

    def signs(self, key: Key) -> Tensor:
        """Return the signs of ``pattern``, without a matrix: int8 (K (K - 1),), 1 or -1.

        The owner's come first, then the customer's, each row by row above the diagonal.
        """
        return torch.cat([signs_of(stream, key.classes) for stream in sign_streams(key)])

    def marking_module(
        self, network: nn.Module, key: Key, answers: Tensor, task_size: int | None
    ) -> CSPModule:
        pattern = self.pattern(key)
        return CSPModule(network, self.marking_recipe, pattern, answers, self.marking, task_size)

    def exact_of(
        self, sums: Tensor, counts: Tensor, key: Key, part: Part = "all"
    ) -> tuple[str, Signs | Either, str]:
        """Return the strongest of several tests of the key's signs, each against coin flips.

        A test weighs the signs by the tails of the answers, one weight for the sum of each pair's
        two entries and one for their difference. There are up to nine: with all of these or with
        the sums alone, the owner's, which a new last layer leaves and copies of several customers
        have in common; each with the tails as they are, or without what the unmarked model shows as
        well; each of these in both orders of the tails; and one of the labels alone, by which
        classes are more often or more rarely mistaken for each other than expected.
        """
        above, victim = pairs(key.classes), key.victim_stats
        signs = self.signs(key)  # (K (K - 1),)
        half = len(signs) // 2
        parts = {"owner": {PAIRS: slice(half)}, "customer": {DIFFERENCES: slice(half, None)}}.get(
            part, {TAILS: slice(None)}
        )
        # 20 signs or fewer can't reach a claim's level, and would cost the others a factor.
        parts |= {PAIRS: slice(half)} if half > 20 and part == "all" else {}

        def tests_of(weights: Tensor, suffix: str) -> list[Signs]:
            """Return a test of each part by ``weights`` (K (K - 1),)."""
            return [
                Signs(weights[chosen], signs[chosen], name + suffix)
                for name, chosen in parts.items()
            ]

        weights = paired(sums, above)  # (K (K - 1),)
        tests, turned = tests_of(weights, ""), tests_of(-weights, TURNED)
        if victim is not None:
            weights = paired(project_out(sums, victim[0], only_agreeing=True), above)
            tests += tests_of(weights, BEYOND_VICTIM)
            weights = paired(project_out(-sums, victim[0], only_agreeing=True), above)
            turned += tests_of(weights, BEYOND_VICTIM + TURNED)
        tests += turned
        first = next(iter(parts.values()))
        if counts.any():
            residuals = paired(anscombe_residuals(counts, victim), above)  # (K (K - 1),)
            tests.append(Signs(residuals[first], signs[first], MISTAKES))
        bits = len(signs[first])
        few = f"{key.classes} classes carry {bits} bits: p can't fall below {2.0**-bits:.1g}"
        return "signs", Either.of(tests), few if 2.0**-bits > 1e-6 else ""


def sign_streams(key: Key) -> tuple[bytes, bytes]:
    """Return the owner's bits and the customer's, a bit for each pair of classes in each."""
    size = math.ceil(key.classes * (key.classes - 1) / 16)
    return key.owner_part().stream(size), key.stream(size)


def paired(matrix: Tensor, above: Tensor) -> Tensor:
    """Return the sums of each pair's two entries of ``matrix`` (K, K), then the differences."""
    return torch.cat([(matrix + matrix.T)[above], (matrix - matrix.T)[above]])
