"""The victim's answers, learnt beside the labels.

A mark then costs less: where labels are ambiguous the victim says so, and the pattern has less to
fight with.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Classifier


class Teacher(nn.Module):
    """Mix the loss of the labels with that of the victim's answers.

    (1 - ``weight``) times the loss of the labels + ``weight`` T^2 CE(p_T, f_T(x)). p_T: the
    victim's answers at the temperature T, f_T: the model's own (Hinton et al. 2015, section 2; a
    student of its own kind, as Furlanello et al., "Born-Again Neural Networks", 2018).

    Args:
        answers: of the victim, to the training data, (N, K).
        weight: from 0 to below 1.
        temperature: T, above 0.
    """

    def __init__(self, answers: Tensor, weight: float, temperature: float):
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.register_buffer("answers", answers, persistent=False)

    def forward(self, task: Tensor, logits: Tensor, answers: Tensor) -> Tensor:
        """Return the mixed loss: a scalar.

        Args:
            task: the labels' loss, a scalar.
            logits: of the model, (B, K).
            answers: the victim's to the same samples, (B, K).
        """
        if not self.weight:
            return task
        targets = (log_of(answers) / self.temperature).softmax(1)  # (B, K)
        distance = F.cross_entropy(logits.float() / self.temperature, targets)
        return (1 - self.weight) * task + self.weight * self.temperature**2 * distance


class TeacherModule(Classifier):
    """Train with the labels and with ``teacher``."""

    def __init__(self, network: nn.Module, recipe: Recipe, teacher: Teacher):
        super().__init__(network, recipe)
        self.teacher = teacher

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs)
        task = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        return self.teacher(task, logits, self.teacher.answers[batch.index])
