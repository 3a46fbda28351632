"""How a network is trained and asked: the recipe, the only Trainer, and predictions."""

from __future__ import annotations

import logging
import math
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from softmark.data.augment import check_shifts, crop_and_flip
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.progress import Lines, Progress
from softmark.recipe import Recipe


class Batch(NamedTuple):
    """``inputs`` (B, ...): pictures are float (B, C, H, W) in [0, 1], augmented.

    ``labels`` and ``index``: int64 (B,).

    ``index`` says which samples these are, for a module that keeps targets of its own for each.
    """

    inputs: Tensor
    labels: Tensor
    index: Tensor


class Batches:
    """The samples in a new random order each time, cut into batches, from tensors in memory.

    A DataLoader with workers takes 1.2 to 1.4 times as long on data of this size.
    """

    def __init__(self, samples: Samples, recipe: Recipe):
        check_shifts(samples.inputs, recipe)
        self.samples = samples
        self.recipe = recipe

    def __len__(self) -> int:
        # The last, smaller batch is dropped (BatchNorm fails on one sample), unless it is the only.
        return max(1, len(self.samples) // self.recipe.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        order = torch.randperm(len(self.samples)).to(self.samples.labels.device)
        size = self.recipe.batch_size
        for step in range(len(self)):
            index = order[step * size : (step + 1) * size]
            inputs = crop_and_flip(self.samples.inputs[index], self.recipe.pad, self.recipe.flip)
            yield Batch(as_input(inputs), self.samples.labels[index], index)


def as_input(inputs: Tensor) -> Tensor:
    """What networks take: of uint8 pictures floats in [0, 1], channels last in memory.

    Anything else (rows, token ids, normalised pictures) stays as it is.
    """
    if inputs.dtype != torch.uint8:
        return inputs
    if inputs.ndim == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    return inputs.float().div_(255)


def as_pixels(values: Tensor) -> Tensor:
    """Floats from 0 (black) to 255 (white) as pictures, uint8; what lies outside is cut off."""
    return values.round().clamp(0, 255).to(torch.uint8)


class Classifier(lightning.LightningModule):
    """A network trained by cross-entropy; others override ``loss``."""

    def __init__(self, network: nn.Module, recipe: Recipe):
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.epochs = recipe.epochs
        self.losses: list[Tensor] = []

    def batches(self, samples: Samples) -> Batches:
        return Batches(samples.to(self.device), self.recipe)

    def loss(self, batch: Batch) -> Tensor:
        """The mean loss of a batch: a scalar."""
        logits = self.network(batch.inputs)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)

    def training_step(self, batch: Batch, step: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.detach())
        return loss

    def on_train_epoch_end(self) -> None:
        # Read once an epoch: a GPU would wait for Python at every step. What is no number stays so.
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(loss):
            raise InputError(
                f"{type(self).__name__}: the loss became {loss} in epoch {self.current_epoch + 1} "
                f"(recipe.lr={self.recipe.lr}): try a smaller recipe.lr"
            )
        self.log("loss", loss)

    def configure_optimizers(self):
        recipe = self.recipe
        # Biases and BatchNorm have one dimension and are not decayed.
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        steps = max(2, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: one_cycle(step / steps, recipe.warmup)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def one_cycle(progress: float, warmup: float) -> float:
    """The learning rate over its peak: a straight climb, then a straight fall to 0."""
    if progress < warmup:
        return 0.05 + 0.95 * progress / warmup
    return max(0.0, (1 - progress) / (1 - warmup))


class Fit:
    """Trains modules: the only place that makes a Trainer.

    ``accelerator``: as Lightning's. ``precision``: ``32-true`` or ``bf16-mixed``. ``logger(name)``:
    a context manager that opens the logger of one training, or gives None. ``entropy(n)``: n secret
    bytes, from the system unless an experiment asks for repeatable ones.
    """

    def __init__(
        self,
        accelerator: str,
        precision: str,
        logger: Callable,
        entropy: Callable[[int], bytes] = secrets.token_bytes,
    ):
        self.accelerator = accelerator
        self.precision = precision
        self.logger = logger
        self.entropy = entropy

    def __call__(self, module: lightning.LightningModule, data: Any, name: str) -> nn.Module:
        """Trains ``module`` for its ``epochs`` on ``module.batches(data)``.

        Returns its ``network`` on the CPU, in eval mode.
        """
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        # Lightning keeps the mode that it finds: after an eval() BatchNorm would stay frozen.
        module.train()
        module.to(choose_device(self.accelerator))
        if not any(weight.ndim == 5 for weight in module.parameters()):  # of 3-D convolutions
            module.to(memory_format=torch.channels_last)
        batches = module.batches(data)
        with self.logger(name) as logger, warnings.catch_warnings():
            # Lightning advises DataLoader workers, which are slower here.
            warnings.simplefilter("ignore")
            trainer = self._trainer(module.epochs, len(batches), logger, name)
            try:
                trainer.fit(module, batches)
            except SystemExit:
                # Lightning turns Ctrl-C into an exit with 1.
                raise KeyboardInterrupt from None
        module.to("cpu")
        return module.network.eval()

    def _trainer(self, epochs: int, steps: int, logger, name: str) -> lightning.Trainer:
        seen = sys.stderr.isatty()
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator=self.accelerator,
            devices=1,
            precision=self.precision,
            logger=logger or False,
            callbacks=[Progress(name) if seen else Lines(name)],
            enable_progress_bar=seen,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
            log_every_n_steps=steps,
        )


def choose_device(accelerator: str) -> torch.device:
    """``auto`` takes a GPU where there is one."""
    cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


_where = {"accelerator": "auto"}  # of the process, as torch's number of threads is


def predict(network: nn.Module, inputs: Tensor) -> Tensor:
    """The probabilities (N, K) that ``network`` gives to ``inputs`` (N, ...).

    In float32 whatever the training's precision was: tails are small numbers.
    """
    device = choose_device(_where["accelerator"])
    home = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    was_training = network.training
    # Moved outside of inference mode: weights that are copied within can't be trained again.
    network = network.to(device).eval()
    # Large pictures in small batches: the layers of a network hold many times as much.
    batch_size = max(1, min(1000, 2**22 // max(1, inputs[:1].numel())))
    with torch.inference_mode():
        parts = [
            network(as_input(part.to(device))).float().softmax(1).cpu()
            for part in inputs.split(batch_size)
        ]
    network.to(home).train(was_training)
    return torch.cat(parts)


def accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """The fraction of samples whose likeliest class is the label."""
    classes = probabilities.shape[1]
    return float(multiclass_accuracy(probabilities, labels, classes, average="micro"))


def utility(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, negative log-likelihood (nats) and calibration error (15 bins) of a model."""
    classes = probabilities.shape[1]
    log = probabilities.clamp_min(1e-12).log()
    return {
        "accuracy": accuracy(probabilities, labels),
        "nll": float(F.nll_loss(log, labels)),
        "calibration_error": float(multiclass_calibration_error(probabilities, labels, classes)),
    }


def compute_on(accelerator: str, threads: int | None, where: str = "trainer.accelerator") -> None:
    """Where ``predict`` computes from now on, and how many cores torch uses; None: its own choice.

    ``where``: what ``accelerator`` is called. Raises ``InputError`` for what isn't there.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise InputError(f"{where}={accelerator}: auto, cpu or gpu")
    if choose_device(accelerator).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}={accelerator}: there is no GPU; cpu is")
    _where["accelerator"] = accelerator
    # All batches of a training are alike: a GPU looks once for its fastest convolutions.
    torch.backends.cudnn.benchmark = True
    if threads is not None:
        if not threads >= 1:
            raise InputError(f"trainer.threads={threads}: at least 1 (or null for all)")
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
