"""The recipe of a training. Nothing here imports torch: a wrong number answers at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from softmark.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train: SGD with Nesterov momentum, one cycle of the learning rate.

    The defaults are those of ``conf/scale/small.yaml``.

    Raises:
        InputError: a number can't be used.

    Example:
        >>> Recipe(epochs=10).scaled(epochs=0.5).epochs
        5
    """

    epochs: int = 10
    """Passes over the training samples, at least 1."""
    batch_size: int = 128
    """Samples of a step, at least 2 for BatchNorm."""
    lr: float = 0.2
    """The peak of the learning rate, above 0."""
    warmup: float = 0.2
    """The fraction of all steps that climb to the peak, from 0 to below 1."""
    momentum: float = 0.9
    """Of SGD, from 0 to below 1."""
    weight_decay: float = 5e-4
    """Of all weights but biases and those of BatchNorm, from 0 on."""
    label_smoothing: float = 0.0
    """Of the cross-entropy of a plain classifier, from 0 to below 1."""
    pad: int = 0
    """Random crops of uint8 pictures that are padded by so many pixels, from 0 on."""
    flip: bool = False
    """Whether uint8 pictures are mirrored at random."""

    def __post_init__(self) -> None:
        for name in ("epochs", "lr"):
            if not getattr(self, name) > 0:
                raise InputError(f"recipe.{name}={getattr(self, name)}: it must be above 0")
        if not self.batch_size >= 2:
            raise InputError(f"recipe.batch_size={self.batch_size}: at least 2, for BatchNorm")
        for name in ("warmup", "momentum", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"recipe.{name}={getattr(self, name)}: it must lie in 0..1")
        for name in ("weight_decay", "pad"):
            if not getattr(self, name) >= 0:
                raise InputError(f"recipe.{name}={getattr(self, name)}: it can't be negative")

    def scaled(self, *, epochs: float = 1.0, batch_size: float = 1.0, lr: float = 1.0) -> Recipe:
        """Return the recipe with epochs, batch size and learning rate times these factors.

        Epochs and samples are rounded; at least one epoch and two samples are left.

        Args:
            epochs: above 0.
            batch_size: above 0.
            lr: above 0.

        Raises:
            InputError: the learning rate would be 0 or below.

        Example:
            >>> Recipe(batch_size=128).scaled(batch_size=0.5).batch_size
            64
        """
        return replace(
            self,
            epochs=max(1, round(epochs * self.epochs)),
            batch_size=max(2, round(batch_size * self.batch_size)),
            lr=lr * self.lr,
        )


def one_cycle(progress: float, warmup: float) -> float:
    """Return the learning rate over its peak: a straight climb, then a straight fall to 0.

    Args:
        progress: from 0, the first step, to 1.
        warmup: the fraction of all steps that climb.

    Example:
        >>> one_cycle(0.0, 0.2), one_cycle(0.2, 0.2), one_cycle(1.0, 0.2)
        (0.05, 1.0, 0.0)
    """
    if progress < warmup:
        return 0.05 + 0.95 * progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup))
