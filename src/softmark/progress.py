"""The progress of a training: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning.callbacks import Callback, RichProgressBar

from softmark.console import report


class Progress(RichProgressBar):
    """A bar on a terminal, with the name of the training and its epoch."""

    def __init__(self, name: str):
        super().__init__(leave=False)
        self.training = name

    def get_metrics(self, trainer, module) -> dict[str, Any]:
        """Return no metrics: the bar has no room for them."""
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.training}, epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class Lines(Callback):
    """A line of progress a minute, for a file or a notebook."""

    EVERY = 60  # seconds

    def __init__(self, name: str):
        self.training, self.last_line = name, time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, step: int) -> None:
        """Report the epoch and how much of it is done, if the last line is a minute old."""
        now = time.monotonic()
        if now - self.last_line >= self.EVERY:
            self.last_line = now
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            done = 100 * (step + 1) // trainer.num_training_batches
            report(f"{self.training}, {epoch}, {done} % of it")
