"""Triggers whose features lie where any last layer must answer as the key says.

A network can learn triggers in its last layer alone: then a new last layer, fitted to labelled
pictures, has lost them. What such a layer answers follows from where a feature lies among those of
the classes. So while the mark is learnt a linear discriminant of the task's features is kept, as
whoever steals the network would fit one, and the features of each trigger are trained until it
answers as the key says. Li and others, "Not Just Change the Labels, Learn the Features" (ECCV
2024), draw triggers to the mean feature of their class in plain distance instead.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.methods.parts.feature_mark import moved_means

MOMENTUM = 0.98  # of the covariance, at each batch
SHRINKAGE = 0.05  # of the covariance towards a multiple of the identity
MARGIN = 4.0  # nats: logits are scaled down until the task's median picture has no more
LEAST_MARGIN = 1.0  # nats that a trigger is to reach where the task's pictures have less
REFIT_EVERY = 5  # steps


class TriggerFeatures(nn.Module):
    """Compute the cross-entropy of a running discriminant's answers to the triggers of a batch.

    The discriminant is Fisher's: running means of each class, and the running covariance within
    classes. A margin is the logit of the own class less the largest other one. A trigger whose
    margin is that of the task's median picture costs nothing, so that it isn't moved further.

    A discriminant's weights may be ten times those of the network's last layer, and so are the
    gradients: weights then grow until nothing is learnt. So its logits are scaled down until its
    weights are no larger than that layer's.

    Args:
        classes: K.
        weight: of this loss, above 0.
    """

    def __init__(self, classes: int, weight: float):
        super().__init__()
        self.weight = weight
        self.steps = 0
        self.register_buffer("classes", torch.arange(classes), persistent=False)
        self.means: Tensor | None = None  # (K, D)
        self.covariance: Tensor | None = None  # (D, D)
        self.layer: Tensor | None = None  # (K, D + 1), the last column is the bias

    def forward(self, features: Tensor, labels: Tensor, is_trigger: Tensor, last: Tensor) -> Tensor:
        """Return the loss of a batch: a scalar, 0 where it holds no trigger.

        Args:
            features: what the last layer is given, (B, D).
            labels: int64 (B,); of a trigger what the key says.
            is_trigger: bool (B,).
            last: the weights of the last layer, (K, D).
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float().flatten(1)  # (B, D)
            self._update(features.detach(), labels, is_trigger)
            logits = F.linear(features, self.layer[:, :-1], self.layer[:, -1])  # (B, K)
            own = labels[:, None] == self.classes  # (B, K)
            others = logits.masked_fill(own, -torch.inf).amax(1)  # (B,)
            margins = (logits.masked_fill(~own, 0).sum(1) - others).detach()
            median = margins.masked_fill(is_trigger, torch.nan).nanmedian().nan_to_num(MARGIN)
            is_short = is_trigger & (margins < median.clamp_min(LEAST_MARGIN))
            scale = MARGIN / median.clamp_min(MARGIN)
            ratio = last.detach().float().norm() / self.layer[:, :-1].norm().clamp_min(1e-12)
            scaled = logits * torch.minimum(scale, ratio)  # (B, K)
            losses = F.cross_entropy(scaled, labels, reduction="none") * is_short  # (B,)
            mean = losses.sum() / is_trigger.sum().clamp_min(1)
        return self.weight * mean

    def state(self) -> dict[str, Tensor]:
        """Return what a training that is interrupted needs to go on as undisturbed."""
        if self.means is None:
            return {}
        tensors = {"means": self.means, "covariance": self.covariance, "layer": self.layer}
        return tensors | {"steps": torch.tensor(self.steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take what ``state`` gave."""
        if not state:
            return
        self.steps = int(state["steps"])
        for name in ("means", "covariance", "layer"):
            setattr(self, name, state[name].to(self.classes.device))

    def _update(self, features: Tensor, labels: Tensor, is_trigger: Tensor) -> None:
        """Take the batch's pictures of the task into account, and fit the layer every so often."""
        labels = labels.masked_fill(is_trigger, -1)
        self.means = moved_means(self.means, features, labels, self.classes)
        # A trigger has no class among these: its residual is 0.
        residuals = (features - self.means[labels.clamp_min(0)]) * ~is_trigger[:, None]  # (B, D)
        within = residuals.T @ residuals / (~is_trigger).sum().clamp_min(1)  # (D, D)
        if self.covariance is None:
            self.covariance = within
        momentum = min(MOMENTUM, self.steps / (self.steps + 1))  # the mean of all, at first
        self.covariance = momentum * self.covariance + (1 - momentum) * within
        if self.steps % REFIT_EVERY == 0:
            self.layer = discriminant(self.means, self.covariance)
        self.steps += 1


def discriminant(means: Tensor, covariance: Tensor) -> Tensor:
    """Return the layer of a linear discriminant, whose priors are equal: (K, D + 1).

    Args:
        means: of each class, (K, D).
        covariance: within classes, (D, D), which is shrunk by ``SHRINKAGE``.

    Returns:
        The weights S^-1 m_c, and in the last column the bias -m_c S^-1 m_c / 2.

    Example:
        >>> discriminant(torch.eye(2), torch.eye(2)).tolist()
        [[1.0, 0.0, -0.5], [0.0, 1.0, -0.5]]
    """
    scale = covariance.diagonal().mean().clamp_min(1e-12)
    identity = torch.eye(len(covariance), device=covariance.device)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * identity  # (D, D)
    factor, _ = torch.linalg.cholesky_ex(shrunk)
    weights = torch.cholesky_solve(means.T, factor).T  # (K, D)
    return torch.cat([weights, -(weights * means).sum(1, keepdim=True) / 2], 1)
