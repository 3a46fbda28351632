"""What a model's answers are worth."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Return the fraction of samples whose likeliest class is the label.

    Args:
        probabilities: (N, K).
        labels: int64 (N,).

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        0.5
    """
    classes = probabilities.shape[1]
    return float(multiclass_accuracy(probabilities, labels, classes, average="micro"))


def utility(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what a model's answers are worth.

    Args:
        probabilities: (N, K).
        labels: int64 (N,).

    Returns:
        ``accuracy``, a fraction; ``nll``, the mean negative log-likelihood in nats;
        ``calibration_error``, the expected one of 15 bins.

    Example:
        >>> sorted(utility(torch.eye(3), torch.arange(3)))
        ['accuracy', 'calibration_error', 'nll']
    """
    classes = probabilities.shape[1]
    log = probabilities.clamp_min(1e-12).log()  # (N, K)
    return {
        "accuracy": accuracy(probabilities, labels),
        "nll": float(F.nll_loss(log, labels)),
        "calibration_error": float(multiclass_calibration_error(probabilities, labels, classes)),
    }
