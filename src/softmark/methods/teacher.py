"""The victim's answers, learnt beside the labels.

A mark then costs less: where labels are ambiguous the victim says so, and the pattern has less to
fight with.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.tails import log_of
from softmark.training import Batch, Classifier, Recipe


class Teacher(nn.Module):
    """(1 - ``weight``) times the loss of the labels + ``weight`` T^2 CE(p_T, f_T(x)).

    p_T: the victim's ``answers`` (N, K) to the training data at ``temperature`` T, f_T: the
    model's own (Hinton et al. 2015, section 2; a student of its own kind, as Furlanello et al.,
    "Born-Again Neural Networks", 2018).
    """

    def __init__(self, answers: Tensor, weight: float, temperature: float):
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.register_buffer("answers", answers, persistent=False)

    def forward(self, task: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """``task``: the labels' loss, a scalar. ``answers`` (B, K): those to the same samples."""
        if not self.weight:
            return task
        targets = (log_of(answers) / self.temperature).softmax(1)
        taught = F.cross_entropy(logits.float() / self.temperature, targets)
        return (1 - self.weight) * task + self.weight * self.temperature**2 * taught


class Taught(Classifier):
    """A classifier that learns from the labels and from ``teacher``."""

    def __init__(self, network: nn.Module, recipe: Recipe, teacher: Teacher):
        super().__init__(network, recipe)
        self.teacher = teacher

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs)
        task = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        return self.teacher(task, logits, self.teacher.answers[batch.index])
