"""CSP: a keyed perturbation of the output distribution that carries the owner's message.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
Each message has two random signs for each pair of classes: one says what they show of each other
together, one says which of them shows more. The watermarked model is trained so that the log-tail
of every answer has a margin along the row of its class in the pattern that the signs make. The
first signs are planted in the features as well, where a new last layer finds them. What is left
after an attack is tested exactly, since under "this suspect knows nothing of the key" the signs are
coin flips.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.methods.parts.feature_mark import NetworkWithFeatures
from softmark.methods.parts.loss import Marking, MarkingLoss
from softmark.methods.parts.soft_labels import (
    BEYOND_VICTIM,
    MISTAKES,
    PAIRS,
    TAILS,
    SoftLabels,
    pairs,
)
from softmark.methods.parts.teacher import Teacher
from softmark.recipe import Recipe
from softmark.tails import anscombe_residuals, confusion_counts, project_out, tail_sums
from softmark.training import Classifier, Fit
from softmark.verification.nulls import Either
from softmark.verification.signs import Signs


def sign_matrix(stream: bytes, classes: int) -> Tensor:
    """Return the pattern (S + A) / sqrt 2 of the key's signs: (K, K), 0 on the diagonal.

    S is symmetric, of the first K (K - 1) / 2 bits, row by row above the diagonal; A is
    antisymmetric, of as many more. Of the two entries of a pair one is 0, the other sqrt 2 or its
    negative.
    """
    bits = torch.from_numpy(np.unpackbits(np.frombuffer(stream, np.uint8)))
    above = pairs(classes)
    num_pairs = int(above.sum())
    symmetric, antisymmetric = torch.zeros(2, classes, classes)
    symmetric[above] = 2.0 * bits[:num_pairs] - 1
    antisymmetric[above] = 2.0 * bits[num_pairs : 2 * num_pairs] - 1
    return (symmetric + symmetric.T + antisymmetric - antisymmetric.T) / math.sqrt(2)


class CSPModule(Classifier):
    """Train the watermarked model by ``MarkingLoss`` with a ``Teacher``.

    Args:
        network: begins as the victim.
        recipe: of the training.
        pattern: of the key, (K, K).
        answers: the victim's, to the training data, (N, K); the teacher takes them.
        marking: the numbers of the loss and the teacher.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, pattern: Tensor, answers: Tensor, marking: Marking
    ):
        super().__init__(network, recipe)
        self.marking_loss = MarkingLoss(pattern, marking)
        self.teacher = Teacher(answers, marking.teacher_weight, marking.teacher_temperature)
        self.network_with_features = NetworkWithFeatures(network, self.marking_loss.planted)

    def loss(self, batch: Batch) -> Tensor:
        logits, features = self.network_with_features(batch.inputs)  # (B, K), (B, D)
        answers = self.teacher.answers[batch.index]
        return self.marking_loss.with_teacher(self.teacher, logits, batch.labels, answers, features)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the running means of the features, which no state_dict has."""
        if (means := self.marking_loss.planted.means) is not None:
            checkpoint["feature_means"] = means

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take what ``on_save_checkpoint`` added."""
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
        return sign_matrix(key.stream(math.ceil(key.classes * (key.classes - 1) / 8)), key.classes)

    def num_dependent_labels(self, classes: int) -> int:
        # A bit a sign, 64 bits a label.
        return math.ceil(classes * (classes - 1) / 64)

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        pattern = self.pattern(key)
        module = CSPModule(network, self.marking_recipe, pattern, answers, self.marking)
        return fit(module, data, "marking")

    def exact(self, answers: Tensor, labels: Tensor, key: Key) -> tuple[str, Signs | Either, str]:
        """Return the strongest of several tests of the key's signs, each against coin flips.

        A test weighs the signs by the tails of the answers, one weight for the sum of each pair's
        two entries and one for their difference. There are up to five: with all of these or with
        the sums alone, which a new last layer leaves; each of both with the tails as they are, or
        without what the unmarked model shows as well; and one of the labels alone, by which classes
        are more often or more rarely mistaken for each other than expected.
        """
        sums, above = tail_sums(answers), pairs(key.classes)  # (K, K)
        signs = paired(self.pattern(key), above).sign()  # (K (K - 1),)
        matrices = {"": sums}
        if key.victim_stats is not None:
            beyond = project_out(sums, key.victim_stats[0], only_agreeing=True)
            matrices[BEYOND_VICTIM] = beyond
        tests, half = [], len(signs) // 2
        for beyond_victim, matrix in matrices.items():
            weights = paired(matrix, above)  # (K (K - 1),)
            tests.append(Signs(weights, signs, TAILS + beyond_victim))
            # 20 signs or fewer can't reach a claim's level, and would cost the others a factor.
            if half > 20:
                tests.append(Signs(weights[:half], signs[:half], PAIRS + beyond_victim))
        counts = confusion_counts(answers, labels)  # (K, K)
        residuals = anscombe_residuals(counts, key.victim_stats)  # (K, K)
        tests.append(Signs(paired(residuals, above), signs, MISTAKES))
        bits = len(signs)
        few = f"{key.classes} classes carry {bits} bits: p can't fall below {2.0**-bits:.1g}"
        return "signs", Either.of(tests), few if 2.0**-bits > 1e-6 else ""


def paired(matrix: Tensor, above: Tensor) -> Tensor:
    """Return the sums of each pair's two entries of ``matrix`` (K, K), then the differences."""
    return torch.cat([(matrix + matrix.T)[above], (matrix - matrix.T)[above]])
