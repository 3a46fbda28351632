"""The loss that plants a pattern: in a model's answers, and in what its last layer is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.errors import InputError
from softmark.methods.parts.feature_mark import FeatureMark
from softmark.methods.parts.teacher import Teacher
from softmark.tails import margin_loss
from softmark.unpicklable import Unpicklable


@dataclass(frozen=True, kw_only=True)
class Marking:
    """Hold the numbers by which a pattern is planted. The defaults are those of csp.

    Raises:
        InputError: for a number outside of its range.

    Example:
        >>> Marking(beta=0.3).margin
        4.0
    """

    eps: float = 0.1
    """Probability that the template moves to the tail. From 0 to below 1."""
    gamma: float = 1.5
    """How unevenly: softmax(gamma U_c) on the tail. Above 0."""
    beta: float = 0.5
    """Weight of the shortfall of each tail's margin below ``margin``. From 0 on."""
    margin: float = 4.0
    """The log-probability margin of each tail along its row of the pattern, in nats. Above 0."""
    feature_weight: float = 1.0
    """Of the pattern's symmetric part in the features. From 0 on; 0 marks the answers alone."""
    feature_cosine: float = 0.9
    """The cosine between it and what class means of the features give. Above 0, at most 1."""
    teacher_weight: float = 0.5
    """Of the victim's own answers beside the labels, as the control has it. From 0 to below 1."""
    teacher_temperature: float = 2.0
    """At which the victim's answers are learnt. Above 0."""
    trigger_feature_weight: float = 0.0
    """Of triggers' features where any last layer answers as the key says. From 0 on; hybrids'."""
    copy_weight: float = 1.0
    """Of the mark in a copy that is fine-tuned as a thief would. From 0 on; 0: without a copy."""
    copy_steps: int = 48
    """Steps of the copy, at most, after which it is made anew. At least 1."""

    def __post_init__(self) -> None:
        for name in ("eps", "teacher_weight"):
            self._check(name, 0 <= getattr(self, name) < 1, "a fraction from 0 to below 1")
        for name in ("gamma", "margin", "teacher_temperature"):
            self._check(name, getattr(self, name) > 0, "it must be above 0")
        for name in ("beta", "feature_weight", "trigger_feature_weight", "copy_weight"):
            self._check(name, getattr(self, name) >= 0, "it can't be negative")
        self._check("copy_steps", self.copy_steps >= 1, "at least 1")
        self._check("feature_cosine", 0 < self.feature_cosine <= 1, "a cosine above 0, at most 1")

    def _check(self, name: str, holds: bool, requirement: str) -> None:
        if not holds:
            raise InputError(f"method.marking.{name}={getattr(self, name)}: {requirement}")


def templates(pattern: Tensor, eps: float, gamma: float) -> Tensor:
    """Return T_c = (1 - eps) e_c + eps softmax(gamma U_c) on the tail: (K, K), rows sum to 1."""
    itself = torch.eye(len(pattern))
    tails = (gamma * pattern).masked_fill(itself.bool(), -torch.inf).softmax(1)
    return (1 - eps) * itself + eps * tails


class MarkingLoss(Unpicklable, nn.Module):
    """Compute CE(T_y, f(x)) + beta max(0, 1 - a(x) / margin) + ``FeatureMark``, a batch's mean.

    T are the ``templates``; a(x) is the tail's log-probability margin along its class's row of the
    pattern (``tails.margin``).

    Args:
        pattern: of the key, (K, K).
        marking: the numbers of the loss. Those of the teacher aren't read here.

    Example:
        >>> import torch
        >>> loss = MarkingLoss(torch.zeros(4, 4), Marking(eps=0.0, beta=0.0))
        >>> round(float(loss(torch.zeros(8, 4), torch.arange(8) % 4)), 4)  # log 4
        1.3863
    """

    def __init__(self, pattern: Tensor, marking: Marking):
        super().__init__()
        self.eps = marking.eps
        self.beta = marking.beta
        self.margin = marking.margin
        # Secret: whoever has them takes the mark off. No checkpoint holds them.
        self.register_buffer("pattern", pattern, persistent=False)
        whole = templates(pattern, marking.eps, marking.gamma)
        self.register_buffer("templates", whole, persistent=False)
        self.planted = FeatureMark(pattern, marking.feature_cosine, marking.feature_weight)

    def forward(self, logits: Tensor, labels: Tensor, features: Tensor | None = None) -> Tensor:
        """Return the loss of a batch: a scalar.

        Args:
            logits: (N, K).
            labels: int64 (N,).
            features: what the last layer is given, (N, D); where None nothing is planted there.

        Raises:
            InputError: for other shapes, and for labels that are no classes.
        """
        self._check(logits, labels)
        return self.task(logits, labels) + self.mark(logits, labels, features)

    def task(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return CE(T_y, f(x)): a scalar."""
        return F.cross_entropy(logits.float(), self.templates[labels])

    def perturbed(self, answers: Tensor, labels: Tensor) -> Tensor:
        """Return (1 - eps) p + eps softmax(gamma U_y) of the victim's ``answers`` p: (N, K)."""
        itself = F.one_hot(labels, len(self.templates)).to(answers.dtype)  # (N, K)
        return self.templates[labels] + (1 - self.eps) * (answers - itself)

    def with_teacher(
        self,
        teacher: Teacher,
        logits: Tensor,
        labels: Tensor,
        answers: Tensor,
        features: Tensor | None,
    ) -> Tensor:
        """Return the loss with ``teacher``, whose ``answers`` (N, K) are perturbed: a scalar."""
        target_probs = self.perturbed(answers, labels)
        task = teacher(self.task(logits, labels), logits, target_probs)
        return task + self.mark(logits, labels, features)

    def mark(self, logits: Tensor, labels: Tensor, features: Tensor | None) -> Tensor:
        """Return the two terms that plant the pattern: a scalar."""
        log_p = logits.float().log_softmax(1)  # (N, K)
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
