"""USP: one keyed pattern for all customers, and a detector trained together with the model.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
We read "unified" as one mark for everybody, where CSP has one for each message: the symmetric part
is the owner's, and a message decides no more than the antisymmetric one. The pattern has a number
for each class and each other class, drawn together as a uniform direction, so that a claim rests on
an exact null in K (K - 2) dimensions; its symmetric part, K (K - 3) / 2 dimensions, is planted in
the features, too, where a new last layer finds it. The model learns to be recognised,
the detector to recognise it; then the detector is trained on copies of the model, and of the
unmarked victim, that went through simulated attacks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import special
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.methods.csp import CSPModule
from softmark.methods.key import Key
from softmark.methods.parts.detector import Detector, shuffle_tails
from softmark.methods.parts.loss import Marking
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
)
from softmark.recipe import Recipe
from softmark.tails import (
    FLOOR,
    anscombe_residuals,
    centred,
    log_of,
    project_out,
)
from softmark.verification.nulls import Direction, Either

ENOUGH = 18  # dimensions in which an attacked model can reach a claim
DETECTOR_LR = 0.1  # of the detector, which learns beside the model


@dataclass(frozen=True, kw_only=True)
class USPMarking(Marking):
    """Hold the numbers by which usp's pattern is planted."""

    eps: float = 0.15
    """Probability that the template moves to the tail. From 0 to below 1."""
    detector_weight: float = 0.1
    """Weight of being recognised by the detector. From 0 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("detector_weight", self.detector_weight >= 0, "it can't be negative")


def directions(owner: bytes, customer: bytes, classes: int) -> Tensor:
    """Return a zero-sum direction for each tail: (K, K), 0 on the diagonal, of mean square 1.

    As a whole uniform on the sphere: sums and differences of a pair's two entries are independent
    normal numbers, so that the entries are, too.

    Args:
        owner: 8 uniform bytes for each pair, row by row above the diagonal, made a normal number by
            the inverse of its distribution: the symmetric part.
        customer: as many more: the antisymmetric part.
        classes: K.
    """
    sums, differences = (
        torch.from_numpy(
            special.ndtri((np.frombuffer(stream, ">u8").astype(float) + 0.5) / 2.0**64)
        )
        for stream in (owner, customer)
    )
    off_diagonal = ~torch.eye(classes, dtype=torch.bool)
    pattern = centred(combine_halves(sums, differences, classes))
    return (pattern / pattern[off_diagonal].square().mean().sqrt().clamp_min(FLOOR)).float()


def project_out_victim(
    matrices: Tensor, victim_tails: Tensor, parity: int = 1
) -> tuple[Tensor, int]:
    """Project the (anti)symmetric part of each matrix onto what only a key decides.

    That is the space of such matrices with 0 on the diagonal whose rows sum to 0 and have no part
    along the rows of ``victim_tails``, which the unmarked model shows.

    Args:
        matrices: (..., K, K).
        victim_tails: (K, K).
        parity: 1 for the symmetric part, -1 for the antisymmetric one.

    Returns:
        The nearest matrices of this space, float64 (..., K, K), and its dimensions.
    """
    matrices, victim_tails = matrices.double(), victim_tails.double()
    classes = len(victim_tails)
    off_diagonal = 1 - torch.eye(classes, dtype=torch.float64)
    matrices, victim_tails = (
        (matrices + parity * matrices.mT) / 2 * off_diagonal,
        victim_tails * off_diagonal,
    )
    # The products of the 2 K constraints with each other, over the pairs of classes.
    of_sums = torch.eye(classes, dtype=torch.float64) * (classes - 1) + parity * off_diagonal
    mixed = torch.diag(victim_tails.sum(1)) + parity * victim_tails.T  # (K, K)
    squares = torch.diag(victim_tails.square().sum(1))
    of_parts = squares + parity * victim_tails * victim_tails.T  # (K, K)
    products = torch.cat([torch.cat([of_sums, mixed], 1), torch.cat([mixed.T, of_parts], 1)])
    values, vectors = torch.linalg.eigh(products)  # (2 K,), (2 K, 2 K)
    independent = values > 1e-10 * values.max()
    vectors, values = vectors[:, independent], values[independent]
    violations = torch.cat([matrices.sum(-1), (matrices * victim_tails).sum(-1)], -1)  # (..., 2 K)
    multipliers = (violations @ vectors / values) @ vectors.T  # (..., 2 K)
    sums, along = multipliers[..., :classes, None], multipliers[..., classes:, None]
    removed = (sums + along * victim_tails) * off_diagonal  # (..., K, K)
    return matrices - (removed + parity * removed.mT), classes * (classes - 1) // 2 - len(values)


class USPModule(CSPModule):
    """Train the watermarked model by csp's loss + w BCE(D(f(x)), 1).

    w is ``marking.detector_weight``, and D learns beside the model.

    Args:
        network, recipe, pattern, marking: as for ``CSPModule``.
        answers: the victim's, to the training data, (N, K): the teacher takes them, and D learns
            to refuse them.
        detector: D.
        task_size: as for ``CSPModule``.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        answers: Tensor,
        marking: USPMarking,
        detector: Detector,
        task_size: int | None = None,
    ):
        super().__init__(network, recipe, pattern, answers, marking, task_size)
        self.detector_weight = marking.detector_weight
        self.detector = detector.requires_grad_(False)

    def loss(self, batch: Batch) -> Tensor:
        logits, features = self.network_with_features(batch.inputs)  # (B, K), (B, D)
        answers = self.teacher.answers[batch.index]
        with torch.autocast(logits.device.type, enabled=False):
            log_p = logits.float().log_softmax(1)
            # Before the model's own loss, whose gradient needs the detector's weights unchanged.
            self._step_detector(log_p.detach(), log_of(answers))
            unrecognised = F.softplus(-self.detector(self.detector.jitter(log_p))).mean()
        marked = self.marked_loss(batch, logits, features)
        return marked + self.detector_weight * unrecognised

    def _step_detector(self, marked: Tensor, innocent: Tensor) -> None:
        """Train the detector by one step on this batch; its gradients never meet the model's.

        ``marked``, ``innocent``: log-probabilities (B, K).
        """
        weights = {
            name: weight.detach().requires_grad_(True)
            for name, weight in self.detector.named_parameters()
        }
        rows = self.detector.jitter(torch.cat([marked, innocent, shuffle_tails(marked)]))
        labels = (torch.arange(len(rows), device=rows.device) < len(marked)).float()
        logits = functional_call(self.detector, weights, (rows,))  # (3 B,)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        gradients = torch.autograd.grad(loss, weights.values())
        for weight, gradient in zip(self.detector.parameters(), gradients, strict=True):
            weight.sub_(gradient, alpha=DETECTOR_LR)


@dataclass(frozen=True, kw_only=True)
class USP(SoftLabels):
    """Plant a pattern of random numbers, and train a detector together with the model.

    Source: Chien and Shen 2022 (arXiv 2208.05477); our reconstruction from its abstract.

    Example:
        >>> key = USP().draw(None, 10, lambda size: bytes(range(size)))
        >>> pattern = USP().pattern(key)
        >>> tuple(pattern.shape), bool(pattern.sum(1).abs().max() < 1e-5)
        ((10, 10), True)
    """

    marking: USPMarking = field(default_factory=USPMarking)
    """The numbers by which the pattern is planted."""

    def pattern(self, key: Key) -> Tensor:
        size = 4 * key.classes * (key.classes - 1)  # 8 bytes a pair
        return directions(key.owner_part().stream(size), key.stream(size), key.classes)

    def marking_module(
        self, network: nn.Module, key: Key, answers: Tensor, task_size: int | None
    ) -> USPModule:
        pattern, recipe = self.pattern(key), self.marking_recipe
        detector = key.detector if hasattr(key, "detector") else self.new_detector(key)
        return USPModule(network, recipe, pattern, answers, self.marking, detector, task_size)

    def exact_of(
        self, sums: Tensor, counts: Tensor, key: Key, part: Part = "all"
    ) -> tuple[str, Direction | Either, str]:
        """Return the strongest of several tests of the cosine between evidence and pattern.

        The evidence is that of all tails, or its symmetric part, which a new last layer leaves and
        copies of several customers have in common; each as it is, or without the part along what
        the unmarked model shows; each of these in both orders of the tails. Or it is that of the
        labels alone: which mistakes are more or fewer than expected.

        The pattern is uniform in each of these spaces: of K (K - 2) dimensions, since rows sum to
        0, or K (K - 3), with one direction less a row; that of ``project_out_victim`` for the
        (anti)symmetric parts.
        """
        pattern = self.pattern(key)  # (K, K)
        residuals = centred(anscombe_residuals(counts, key.victim_stats))  # (K, K)
        most, none = key.classes * (key.classes - 2), torch.zeros_like(sums)
        parity, of_half = (-1, DIFFERENCES) if part == "customer" else (1, PAIRS)
        removed_tails = {"": none}
        if key.victim_stats is not None:
            removed_tails[BEYOND_VICTIM] = key.victim_stats[0]
        tests = []
        for suffix, tails in removed_tails.items():
            found = []
            if part == "all":
                free_pattern = pattern - (pattern * tails).sum(1, keepdim=True) * tails  # (K, K)
                dimensions = most - int((tails != 0).any(1).sum())
                near = cosine(project_out(sums, tails), free_pattern)
                found.append(Direction(near, dimensions, TAILS + suffix))
            halves, fewer = project_out_victim(torch.stack([sums, pattern]), tails, parity)
            found.append(Direction(cosine(*halves), fewer, of_half + suffix))
            tests += found
        tests += [Direction(-test.cosine, test.dimensions, test.about + TURNED) for test in tests]
        if part != "all":
            halves, most = project_out_victim(torch.stack([residuals, pattern]), none, parity)
            residuals, pattern = halves
        tests.append(Direction(cosine(residuals, pattern), most, MISTAKES))
        # In few dimensions a test can hardly reach a claim, and costs the others a factor. With few
        # classes those of the most dimensions are left: of all tails, and of the labels alone.
        enough = [test for test in tests if test.dimensions >= min(ENOUGH, most)]
        few = f"{key.classes} classes leave {most} dimensions: hardly enough for a claim"
        return "direction", Either.of(enough), few if most < ENOUGH else ""


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine between two matrices of one shape, each read as one vector."""
    # In float32 a cosine next to 1 rounds to it, and p to 0.
    return float(F.cosine_similarity(first.double().flatten(), second.double().flatten(), dim=0))
