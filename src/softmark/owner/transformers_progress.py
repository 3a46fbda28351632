"""How far a mark has come, beside the loss of transformers' ``Trainer``."""

from __future__ import annotations

import math
import warnings
from typing import Any

from softmark.errors import InputError
from softmark.owner.training_loss import KeyLoss

try:
    from transformers import TrainerCallback
except ImportError:  # said where one is made
    TrainerCallback = object


class MarkProgressCallback(TrainerCallback):
    """Log the estimated p of the mark beside the loss, and warn at the end of one too weak.

    ``Trainer(compute_loss_func=loss.compute_loss_func, callbacks=[MarkProgressCallback(loss)])``.
    The metric ``mark_log10_p`` is the logarithm of p to the base of ten: -12 is 1e-12.

    Args:
        loss: of ``softmark.marking_loss``.

    Raises:
        InputError: where transformers isn't installed.
    """

    def __init__(self, loss: KeyLoss):
        if TrainerCallback is object:
            raise InputError("MarkProgressCallback: transformers isn't installed")
        self._loss = loss

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Warn of a label smoothing that the Trainer leaves out where it is given a loss."""
        factor = args.label_smoothing_factor
        if factor and self._loss.label_smoothing != factor:
            warnings.warn(
                f"label_smoothing_factor={factor} has no effect on a loss that the Trainer is "
                f"given: softmark.marking_loss(key, label_smoothing={factor}) has",
                stacklevel=2,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Add the estimate to what is logged of the training."""
        p = self._loss.p_value()
        if p is not None and logs is not None and "loss" in logs:
            logs["mark_log10_p"] = math.log10(p)
            state.log_history[-1]["mark_log10_p"] = math.log10(p)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Warn where the mark would not be claimed."""
        if reason := self._loss.shortfall():
            warnings.warn(reason, stacklevel=2)
