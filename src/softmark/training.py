"""Train networks and ask them: batches, the only Trainer, predictions."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
import multiprocessing
import os
import secrets
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as lightning
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch, Batches, Chunks
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.devices import choose_device, device_of_predictions, training_threads, usual_torch
from softmark.errors import InputError
from softmark.progress import Lines, Progress
from softmark.recipe import Recipe, one_cycle

MOST_NATS = 700.0  # between two logits whose probabilities float64 still tells from 0


class DivergedError(InputError):
    """A training whose loss became infinite or no number."""


class Classifier(lightning.LightningModule):
    """A network that is trained by cross-entropy; subclasses override ``loss``.

    Args:
        network: inputs (N, ...) to logits (N, K); trained in place.
        recipe: how long and how hard.

    Example:
        >>> import copy
        >>> recipe = Recipe(epochs=2, batch_size=100, pad=0, flip=False)
        >>> module = Classifier(copy.deepcopy(model), recipe)
        >>> trained = Fit("cpu")(module, Samples(inputs, labels), "example")
        >>> bool((predict(trained, inputs).argmax(1) == labels).float().mean() > 0.5)
        True
    """

    def __init__(self, network: nn.Module, recipe: Recipe):
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.epochs = recipe.epochs
        self.losses: list[Tensor] = []
        self.steps_per_epoch = 0  # set by ``Fit``
        self.automatic_optimization = False  # see ``Chunks``

    def batches(self, samples: Samples) -> Batches:
        """Return what the Trainer iterates over, on the module's device."""
        return Batches(samples.to(self.device), self.recipe)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch: a scalar."""
        logits = self.network(batch.inputs)  # (B, K)
        return F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)

    def training_step(self, batches: Iterator[Batch], chunk: int) -> None:
        """Take one step of the optimizer for each batch, and note the losses of the epoch."""
        optimizer, schedule = self.optimizers(use_pl_optimizer=False), self.lr_schedulers()
        for batch in batches:
            loss = self.loss(batch)
            self.losses.append(loss.detach())
            optimizer.zero_grad()
            with torch.autocast(self.device.type, enabled=False):
                self.manual_backward(loss)
            self.add_gradients(batch)
            optimizer.step()
            schedule.step()
            self.after_step()

    def add_gradients(self, batch: Batch) -> None:
        """Add to the gradients of ``loss`` before the step: nothing, unless overridden."""

    def after_step(self) -> None:
        """Do what a subclass needs after each step of the optimizer: nothing, unless overridden."""

    def rate(self, progress: float) -> float:
        """Return the learning rate over the recipe's, from 0 (the first step) to 1."""
        return one_cycle(progress, self.recipe.warmup)

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return what takes the steps, for these groups of parameters: the recipe's SGD."""
        recipe = self.recipe
        return torch.optim.SGD(
            groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.momentum > 0
        )

    def on_train_epoch_end(self) -> None:
        """Log the epoch's mean loss. Raise ``DivergedError`` where it isn't finite."""
        # Read once an epoch: a GPU would wait for Python at every step. What is no number stays so.
        loss = float(torch.stack(self.losses).mean())
        self.losses.clear()
        if not math.isfinite(loss):
            raise DivergedError(
                f"{type(self).__name__}: the loss became {loss} in epoch {self.current_epoch + 1} "
                f"(recipe.lr={self.recipe.lr}): try a smaller recipe.lr"
            )
        # Lightning counts chunks, and tells the epoch only where it counts the steps.
        epoch = self.current_epoch
        step = (epoch + 1) * self.steps_per_epoch
        self.log_dict({"loss": loss, "epoch": float(epoch), "step": float(step)})

    def configure_optimizers(self):
        """Return the optimizer, and its learning rate step by step."""
        decay = self.recipe.weight_decay
        # Biases and BatchNorm have one dimension and are not decayed.
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = self.optimizer([group for group in groups if group["params"]])
        steps = max(2, self.epochs * self.steps_per_epoch)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.rate(step / steps)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Fit:
    """Train modules: the only place that makes a Trainer.

    Args:
        accelerator: auto, cpu or gpu.
        precision: ``32-true`` or ``bf16-mixed``.
        logger: ``logger(name)`` opens the logger of one training, or None, as a context manager.
        entropy: ``entropy(n)`` returns n secret bytes; those of an experiment are repeatable.
        threads: that ``compute_on`` was told; None: none, and bf16-mixed on a CPU uses one core.
        checkpoints: returns callbacks for the next training, which keep its state.

    Example:
        >>> module = Classifier(nn.Linear(16, 10), Recipe(epochs=1, pad=0, flip=False))
        >>> Fit("cpu")(module, Samples(inputs, labels), "example").training
        False
    """

    def __init__(
        self,
        accelerator: str = "auto",
        precision: str = "32-true",
        logger: Callable = lambda name: contextlib.nullcontext(),
        entropy: Callable[[int], bytes] = secrets.token_bytes,
        threads: int | None = None,
        checkpoints: Callable[[], list[Any]] = list,
    ):
        self.accelerator = accelerator
        self.precision = precision
        self.logger = logger
        self.entropy = entropy
        self.threads = threads
        self.checkpoints = checkpoints

    @usual_torch()
    def __call__(self, module: lightning.LightningModule, data: Any, name: str) -> nn.Module:
        """Train ``module`` for its ``epochs`` on ``module.batches(data)``.

        Args:
            module: a ``Classifier``, or another with ``network``, ``epochs`` and ``batches``.
            data: what ``module.batches`` takes.
            name: of the training, for progress and loggers.

        Returns:
            The module's ``network`` on the CPU, in eval mode.

        Raises:
            DivergedError: the loss became infinite or no number.
        """
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        # A launcher's RANK says which of its jobs this is: each writes the curves of its trainings.
        rank_zero_only.rank = 0
        # Lightning keeps the mode that it finds: after an eval() BatchNorm would stay frozen.
        module.train()
        module.to(choose_device(self.accelerator))
        if not any(weight.ndim == 5 for weight in module.parameters()):  # of 3-D convolutions
            module.to(memory_format=torch.channels_last)
        batches = module.batches(data)
        if isinstance(module, Classifier):
            module.steps_per_epoch = len(batches)
            batches = Chunks(batches)
        threads = training_threads(self.precision, module.device, self.threads)
        with self.logger(name) as logger, warnings.catch_warnings(), threads:
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
        """Return the Trainer of one training, which reports ``steps`` steps an epoch."""
        # Several processes would draw their bars over each other.
        on_terminal = sys.stderr.isatty() and multiprocessing.parent_process() is None
        ours = {
            "max_epochs": epochs,
            "accelerator": choose_device(self.accelerator).type,  # where ``predict`` computes, too
            "devices": 1,
            "precision": self.precision,
            "logger": logger or False,
            "callbacks": [Progress(name) if on_terminal else Lines(name), *self.checkpoints()],
            "enable_progress_bar": on_terminal,
            "enable_model_summary": False,
            "enable_checkpointing": False,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": steps,
            # Whatever launched this process, a training is one process.
            "plugins": [LightningEnvironment()],
            # Under SLURM a training would go on from a checkpoint that lies in this folder.
            "default_root_dir": os.devnull,
        }
        # What is left out, Lightning takes from PL_TRAINER_..., FAST_DEV_RUN for one.
        parameters = inspect.signature(lightning.Trainer).parameters.values()
        return lightning.Trainer(**{each.name: each.default for each in parameters} | ours)


@usual_torch()
def predict(network: nn.Module, inputs: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the probabilities that ``network`` gives to ``inputs``.

    The network computes in float32 whatever the training's precision was: tails are small numbers.
    It keeps its device and its mode.

    Args:
        network: inputs to logits (N, K).
        inputs: (N, ...); pictures as uint8 (N, C, H, W).
        dtype: of the probabilities. Float32 takes those below 1e-45 for 0, as any interface would;
            in float64 the order of a row's logits is never lost.

    Returns:
        (N, K) of ``dtype``, on the CPU; each row's sum is 1.

    Example:
        >>> predict(model, inputs[:3]).shape
        torch.Size([3, 10])
    """
    device = device_of_predictions()
    home = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in network.modules()]
    network = network.to(device).eval()
    # Not inference_mode: what a module keeps of its first batch couldn't be trained with.
    with torch.no_grad():
        answers, done = None, 0
        for part in split_to_ask(inputs):
            probs = _probabilities(network(as_input(part.to(device))), dtype)  # (n, K)
            if answers is None:
                answers = probs.new_empty(len(inputs), *probs.shape[1:])
            answers[done : done + len(part)] = probs
            done += len(part)
    network.to(home)
    for module, mode in modes:
        module.training = mode
    return answers


def split_to_ask(inputs: Tensor) -> tuple[Tensor, ...]:
    """Return ``inputs`` (N, ...) in the batches in which a network is asked, (n, ...) each.

    Large pictures in small batches: the layers of a network hold many times as much.
    """
    return inputs.split(max(1, min(1000, 2**22 // max(1, inputs[:1].numel()))))


def _probabilities(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the softmax of ``logits`` (N, K) in ``dtype``, on the CPU."""
    if dtype != torch.float64:
        return logits.float().softmax(1).to(dtype).cpu()
    logits = logits.float().cpu().double()  # not every device has float64
    # Even float64 takes what is 745 nats below the likeliest class for 0: such rows are cooled.
    spread = logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)  # (N, 1)
    return (logits / (spread / MOST_NATS).clamp_min(1)).softmax(1)
