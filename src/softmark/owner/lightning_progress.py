"""How far a mark has come, beside the loss of a Lightning training."""

from __future__ import annotations

import math
import warnings

import pytorch_lightning as lightning

from softmark.errors import InputError
from softmark.owner.training_loss import KeyLoss


class MarkProgress(lightning.Callback):
    """Log the estimated p of the mark after each epoch, and warn at the end of one too weak.

    The metric ``mark_log10_p`` is the logarithm of p to the base of ten: -12 is 1e-12.

    Args:
        loss: of ``softmark.marking_loss``; None: the one that is a part of the module.

    Raises:
        InputError: at the start of the training, where there is no such loss.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> trainer = Trainer(callbacks=[softmark.MarkProgress()], accelerator="cpu", logger=False)
    """

    def __init__(self, loss: KeyLoss | None = None):
        self._given = loss

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule):
        """Find the loss."""
        self._loss = self._given or next(
            (module for module in pl_module.modules() if isinstance(module, KeyLoss)), None
        )
        if self._loss is None:
            raise InputError(
                f"MarkProgress: {type(pl_module).__name__} has no loss of softmark.marking_loss; "
                "MarkProgress(loss) names it"
            )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule):
        """Log the estimate."""
        p = self._loss.p_value()
        if p is not None:
            pl_module.log("mark_log10_p", math.log10(p), prog_bar=True)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule):
        """Warn where the mark would not be claimed."""
        if reason := self._loss.shortfall():
            warnings.warn(reason, stacklevel=2)
