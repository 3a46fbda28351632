"""The loss that plants a pattern: in a model's answers, and in what its last layer is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.errors import InputError
from softmark.methods.features import FeatureMark
from softmark.methods.teacher import Teacher
from softmark.tails import margin_loss


def templates(pattern: Tensor, eps: float, gamma: float) -> Tensor:
    """T_c = (1 - eps) e_c + eps softmax(gamma U_c) on the tail: (K, K), rows sum to 1."""
    itself = torch.eye(len(pattern))
    tails = (gamma * pattern).masked_fill(itself.bool(), -torch.inf).softmax(1)
    return (1 - eps) * itself + eps * tails


class MarkingLoss(nn.Module):
    """CE(T_y, f(x)) + beta max(0, 1 - a(x) / margin), the mean of a batch, + ``FeatureMark``.

    a(x) is the tail's log-probability margin along its class's row of ``pattern`` (K, K)
    (``tails.margin``). ``eps``, ``gamma``: of the templates T.
    """

    def __init__(
        self,
        pattern: Tensor,
        eps: float,
        gamma: float,
        beta: float,
        margin: float,
        feature_weight: float,
        feature_cosine: float,
    ):
        super().__init__()
        self.eps = eps
        self.beta = beta
        self.margin = margin
        self.register_buffer("pattern", pattern)
        self.register_buffer("templates", templates(pattern, eps, gamma))
        self.planted = FeatureMark(pattern, feature_cosine, feature_weight)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        """``logits`` (N, K), ``labels`` int64 (N,): a scalar.

        ``features`` (N, D): what the last layer is given; where None nothing is planted there.
        Raises ``InputError`` for other shapes, and for labels that are no classes.
        """
        self._check(logits, labels)
        return self.task(logits, labels) + self.mark(logits, labels, features)

    def task(self, logits: Tensor, labels: Tensor) -> Tensor:
        """CE(T_y, f(x)): a scalar."""
        return F.cross_entropy(logits.float(), self.templates[labels])

    def perturbed(self, answers: Tensor, labels: Tensor) -> Tensor:
        """(1 - eps) p + eps softmax(gamma U_y) of the victim's ``answers`` p (N, K): (N, K)."""
        itself = F.one_hot(labels, len(self.templates)).to(answers.dtype)
        return self.templates[labels] + (1 - self.eps) * (answers - itself)

    def taught(
        self,
        teacher: Teacher,
        logits: Tensor,
        labels: Tensor,
        answers: Tensor,
        features: Tensor | None,
    ) -> Tensor:
        """The loss with ``teacher``, whose ``answers`` (N, K) are perturbed: a scalar."""
        told = self.perturbed(answers, labels)
        task = teacher(self.task(logits, labels), logits, told)
        return task + self.mark(logits, labels, features)

    def mark(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """The two terms that plant the pattern: a scalar."""
        log_p = logits.float().log_softmax(1)
        loss = self.beta * margin_loss(log_p, self.pattern, self.margin)
        return loss if features is None else loss + self.planted(features, labels)

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        classes = len(self.pattern)
        if logits.ndim != 2 or logits.shape[1] != classes:
            raise InputError(
                f"logits of shape {tuple(logits.shape)}: the key is for {classes} classes, so that "
                f"(N, {classes}) is needed"
            )
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise InputError(
                f"labels of shape {tuple(labels.shape)} and type {labels.dtype}: a class for each "
                f"of {len(logits)} inputs is needed, not its probabilities"
            )
        # On a GPU this would wait for the device at every step; there torch says it itself.
        if not labels.is_cuda and len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            raise InputError(
                f"labels from {int(labels.min())} to {int(labels.max())}: the key's classes are "
                f"0 to {classes - 1}"
            )
