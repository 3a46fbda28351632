"""How far a training is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from pytorch_lightning.callbacks import Callback, RichProgressBar

from softmark.console import report


class Progress(RichProgressBar):
    """For a person at a terminal: which training this is, and how far."""

    def __init__(self, name: str):
        super().__init__(leave=False)
        self.training = name

    def get_metrics(self, trainer, module) -> dict[str, Any]:
        return {}

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{self.training}, epoch {current_epoch + 1} of {self.trainer.max_epochs}"


class Lines(Callback):
    """For a file or a notebook: a line of progress a minute."""

    EVERY = 60  # seconds

    def __init__(self, name: str):
        self.training, self.told = name, time.monotonic()

    def on_train_batch_end(self, trainer, module, outputs, batch, step: int) -> None:
        now = time.monotonic()
        if now - self.told >= self.EVERY:
            self.told = now
            epoch = f"epoch {trainer.current_epoch + 1} of {trainer.max_epochs}"
            report(f"{self.training}, {epoch}, step {step + 1} of {trainer.num_training_batches}")
