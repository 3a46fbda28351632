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

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.methods.features import Observed
from softmark.methods.key import Key
from softmark.methods.marking import MarkingLoss
from softmark.methods.soft_labels import SoftLabels, pairs
from softmark.methods.teacher import Teacher
from softmark.tails import mistakes, surprises, tail_sums, without
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.nulls import Either, Signs


def sign_matrix(stream: bytes, classes: int) -> Tensor:
    """The pattern (S + A) / sqrt 2 of the key's signs: (K, K), 0 on the diagonal.

    S is symmetric, of the first K (K - 1) / 2 bits, row by row above the diagonal; A is
    antisymmetric, of as many more. Of the two entries of a pair one is 0, the other sqrt 2 or its
    negative.
    """
    bits = torch.tensor([byte >> shift & 1 for byte in stream for shift in range(7, -1, -1)])
    above = pairs(classes)
    count = int(above.sum())
    both, difference = torch.zeros(2, classes, classes)
    both[above] = 2.0 * bits[:count] - 1
    difference[above] = 2.0 * bits[count : 2 * count] - 1
    return (both + both.T + difference - difference.T) / math.sqrt(2)


class Marking(Classifier):
    """The watermarked model, trained by ``MarkingLoss``.

    ``answers`` (N, K): the victim's, to the training data; its ``Teacher`` takes them.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        answers: Tensor,
        teacher_weight: float,
        teacher_temperature: float,
        eps: float,
        gamma: float,
        beta: float,
        margin: float,
        feature_weight: float,
        feature_cosine: float,
    ):
        super().__init__(network, recipe)
        self.marked = MarkingLoss(pattern, eps, gamma, beta, margin, feature_weight, feature_cosine)
        self.teacher = Teacher(answers, teacher_weight, teacher_temperature)
        self.observed = Observed(network, self.marked.planted)

    def loss(self, batch: Batch) -> Tensor:
        logits, features = self.observed(batch.inputs)
        answers = self.teacher.answers[batch.index]
        return self.marked.taught(self.teacher, logits, batch.labels, answers, features)


class CSP(SoftLabels):
    def pattern(self, key: Key) -> Tensor:
        return sign_matrix(key.stream(math.ceil(key.classes * (key.classes - 1) / 8)), key.classes)

    def overlapping(self, classes: int) -> int:
        # A bit a sign, 64 bits a label.
        return math.ceil(classes * (classes - 1) / 64)

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        marking = self.marking(
            network=network, recipe=self.recipe, pattern=self.pattern(key), answers=answers
        )
        return fit(marking, data, "marking")

    def exact(self, answers: Tensor, labels: Tensor, key: Key) -> tuple[str, Signs | Either, str]:
        """Evidence and signs of a pair are those of the sum of its entries and of their difference.

        All count, or the sums alone, which a new last layer leaves; and either the evidence as it
        is, or without the part of each row that points along what the unmarked model shows. Or the
        labels alone, of which mistakes are more or fewer than expected.
        """
        sums, above = tail_sums(answers), pairs(key.classes)
        wanted = paired(self.pattern(key), above).sign()
        seen = [sums]
        if key.usual is not None:
            seen.append(without(sums, key.usual[0], towards=True))
        tests, half = [], len(wanted) // 2
        for rest in seen:
            weights = paired(rest, above)
            tests.append(Signs(weights, wanted))
            # 20 signs or fewer can't reach a claim's level, and would cost the others a factor.
            tests += [Signs(weights[:half], wanted[:half])] if half > 20 else []
        tests.append(Signs(paired(surprises(mistakes(answers, labels), key.usual), above), wanted))
        bits = len(wanted)
        few = f"{key.classes} classes carry {bits} bits: p can't fall below {2.0**-bits:.1g}"
        return "signs", Either.of(tests), few if 2.0**-bits > 1e-6 else ""


def paired(matrix: Tensor, above: Tensor) -> Tensor:
    """The sums of each pair's two entries of ``matrix`` (K, K), and behind them the differences."""
    return torch.cat([(matrix + matrix.T)[above], (matrix - matrix.T)[above]])
