"""The recipe of a training. Nothing here imports torch: a wrong number answers at once."""

from __future__ import annotations

from dataclasses import dataclass

from softmark.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How long and how hard to train: SGD with Nesterov momentum, one cycle of the learning rate.

    ``lr``: the peak. ``warmup``: the fraction of all steps that climb to it. ``pad``: random crops
    of a picture padded by so many pixels; ``flip``: mirrored at random. ``label_smoothing``: of the
    cross-entropy of a plain classifier.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup: float
    momentum: float
    weight_decay: float
    label_smoothing: float
    pad: int
    flip: bool

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
