"""USP: one keyed pattern for all customers, and a detector trained together with the model.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
We read "unified" as one mark for everybody, where CSP has one for each message. The pattern has a
number for each class and each other class, drawn together as a uniform direction, so that a claim
rests on an exact null in K (K - 2) dimensions; its symmetric part, K (K - 3) / 2 dimensions, is
planted in the features, too, where a new last layer finds it. The model learns to be recognised,
the detector to recognise it; then the detector is trained on copies of the model, and of the
unmarked victim, that went through simulated attacks.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.methods.detector import Detector, shuffle_tails
from softmark.methods.features import Observed
from softmark.methods.key import Key
from softmark.methods.marking import MarkingLoss
from softmark.methods.soft_labels import SoftLabels
from softmark.methods.teacher import Teacher
from softmark.tails import centred, log_of, mistakes, surprises, tail_sums, without
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.nulls import Direction, Either

ENOUGH = 18  # dimensions in which an attacked model can reach a claim


def directions(stream: bytes, classes: int) -> Tensor:
    """A zero-sum direction for each tail: (K, K), 0 on the diagonal, entries of mean square 1.

    As a whole uniform on the sphere. ``stream``: 8 uniform bytes an entry, K (K - 1) entries row by
    row, made normal by the inverse of the normal's distribution.
    """
    uniform = (np.frombuffer(stream, ">u8").astype(float) + 0.5) / 2.0**64
    there = ~torch.eye(classes, dtype=torch.bool)
    pattern = torch.zeros(classes, classes, dtype=torch.float64)
    pattern[there] = torch.from_numpy(special.ndtri(uniform))
    pattern = centred(pattern)
    return (pattern / pattern[there].square().mean().sqrt().clamp_min(1e-12)).float()


def levelled(matrices: Tensor, usual: Tensor) -> tuple[Tensor, int]:
    """The symmetric part of each of ``matrices`` (..., K, K) without what no key decides.

    Nearest to it of all symmetric matrices with 0 on the diagonal, whose rows sum to 0 and have no
    part along the rows of ``usual`` (K, K); and the dimensions of these.
    """
    matrices, usual = matrices.double(), usual.double()
    classes = len(usual)
    there = 1 - torch.eye(classes, dtype=torch.float64)
    matrices, usual = (matrices + matrices.mT) / 2 * there, usual * there
    # The products of the 2 K constraints with each other, over the pairs of classes.
    ones = torch.eye(classes, dtype=torch.float64) * (classes - 1) + there
    mixed = torch.diag(usual.sum(1)) + usual.T
    own = torch.diag(usual.square().sum(1)) + usual * usual.T
    products = torch.cat([torch.cat([ones, mixed], 1), torch.cat([mixed.T, own], 1)])
    values, vectors = torch.linalg.eigh(products)
    free = values > 1e-10 * values.max()
    vectors, values = vectors[:, free], values[free]
    broken = torch.cat([matrices.sum(-1), (matrices * usual).sum(-1)], -1)
    weights = (broken @ vectors / values) @ vectors.T
    sums, along = weights[..., :classes, None], weights[..., classes:, None]
    taken = (sums + along * usual) * there
    return matrices - (taken + taken.mT), classes * (classes - 1) // 2 - len(values)


class Marking(Classifier):
    """The watermarked model: ``MarkingLoss`` + w BCE(D(f(x)), 1).

    w is ``detector_weight``, and D learns beside the model. ``answers`` (N, K): the victim's, to
    the training data, which D learns to refuse and its ``Teacher`` takes.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        answers: Tensor,
        detector: Detector,
        detector_weight: float,
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
        self.detector_weight = detector_weight
        self.detector = detector.requires_grad_(False)

    def loss(self, batch: Batch) -> Tensor:
        logits, features = self.observed(batch.inputs)
        answers = self.teacher.answers[batch.index]
        with torch.autocast(logits.device.type, enabled=False):
            log_p = logits.float().log_softmax(1)
            # Before the model's own loss, whose gradient needs the detector's weights unchanged.
            self._teach(log_p.detach(), log_of(answers))
            seen = F.softplus(-self.detector(self.detector.jitter(log_p))).mean()
        marked = self.marked.taught(self.teacher, logits, batch.labels, answers, features)
        return marked + self.detector_weight * seen

    def _teach(self, marked: Tensor, innocent: Tensor) -> None:
        """One step of the detector on this batch; its gradients never meet the model's."""
        weights = {
            name: weight.detach().requires_grad_(True)
            for name, weight in self.detector.named_parameters()
        }
        rows = self.detector.jitter(torch.cat([marked, innocent, shuffle_tails(marked)]))
        labels = (torch.arange(len(rows), device=rows.device) < len(marked)).float()
        logits = functional_call(self.detector, weights, (rows,))
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        for weight, slope in zip(
            self.detector.parameters(), torch.autograd.grad(loss, weights.values()), strict=True
        ):
            weight.sub_(slope, alpha=0.1)


class USP(SoftLabels):
    def pattern(self, key: Key) -> Tensor:
        stream = key.stream(8 * key.classes * (key.classes - 1))
        return directions(stream, key.classes)

    def overlapping(self, classes: int) -> int:
        # Given all labels, the remainders by K, each number is still uniform, in steps of K / 2^64.
        return 0

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        marking = self.marking(
            network=network,
            recipe=self.recipe,
            pattern=self.pattern(key),
            answers=answers,
            detector=key.detector,
        )
        return fit(marking, data, "marking")

    def exact(
        self, answers: Tensor, labels: Tensor, key: Key
    ) -> tuple[str, Direction | Either, str]:
        """The cosine of evidence and pattern, or of their symmetric parts, which a new last layer
        leaves; as they are, or both without the part along what the unmarked model shows. Or of
        the labels alone, of which mistakes are more or fewer than expected.

        The pattern is uniform in each of these spaces: of K (K - 2) dimensions, since rows sum to
        0, or K (K - 3), with one direction less a row; of ``levelled`` for the symmetric parts.
        """
        sums, pattern = tail_sums(answers), self.pattern(key)
        most = key.classes * (key.classes - 2)
        plain, tests = torch.zeros_like(sums), []
        for usual in [plain] if key.usual is None else [plain, key.usual[0]]:
            wanted = pattern - (pattern * usual).sum(1, keepdim=True) * usual
            dimensions = most - int((usual != 0).any(1).sum())
            tests.append(Direction(cosine(without(sums, usual), wanted), dimensions))
            both, fewer = levelled(torch.stack([sums, pattern]), usual)
            tests.append(Direction(cosine(*both), fewer))
        found = centred(surprises(mistakes(answers, labels), key.usual))
        tests.append(Direction(cosine(found, pattern), most))
        # In few dimensions a test can hardly reach a claim, and costs the others a factor. With few
        # classes those of the most dimensions are left: of all tails, and of the labels alone.
        enough = [test for test in tests if test.dimensions >= min(ENOUGH, most)]
        few = f"{key.classes} classes leave {most} dimensions: hardly enough for a claim"
        return "direction", Either.of(enough), few if most < ENOUGH else ""


def cosine(first: Tensor, second: Tensor) -> float:
    # In float32 a cosine next to 1 rounds to it, and p to 0.
    return float(F.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))
