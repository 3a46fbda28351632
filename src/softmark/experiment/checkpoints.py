"""The states of long trainings, kept at the ends of epochs, so that a killed one goes on."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from pytorch_lightning.callbacks import Callback
from safetensors.torch import save_file
from torch import Tensor

from softmark.errors import InputError
from softmark.models.files import below, read_tensors

SECONDS_BETWEEN_STATES = 30.0  # of a training; shorter ones keep none


class Checkpoints:
    """The trainings of one stage, in the order in which it does them.

    What a stage does beside its trainings is done anew: from its seed it is the same again.

    Args:
        folder: where the states lie until the stage is made.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.num_trainings = 0

    def callbacks(self) -> list[Callback]:
        """Return what keeps the state of the next training, and goes on from one that was kept."""
        self.num_trainings += 1
        return [StateKeeper(self.folder / f"{self.num_trainings}.safetensors")]

    def remove(self) -> None:
        """Remove all states: the stage is made."""
        shutil.rmtree(self.folder, ignore_errors=True)


class StateKeeper(Callback):
    """Keeps the state of a training before an epoch, every half minute, and goes on from it.

    The state is that of module, optimizers, schedules and random numbers: what goes on from it ends
    where an undisturbed training does.

    Args:
        path: of the safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.last_saved = time.monotonic()
        self.curve: list[dict[str, float]] = []

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Go on from the state that was kept, if there is one of this training."""
        if not self.path.exists():
            return
        try:
            tensors, metadata = read_tensors(self.path)
            rest = json.loads(metadata["state"])
            check_same_module(module, tensors)
        except (InputError, ValueError, KeyError):
            return  # it begins anew
        restore_state(trainer, module, tensors, rest)
        self.curve = rest["curve"]
        for row in self.curve if trainer.logger else ():
            numbers = {name: value for name, value in row.items() if name != "step"}
            trainer.logger.log_metrics(numbers, step=int(row.get("step", 0)))

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule
    ) -> None:
        """Keep the state before the epoch, if the last one is old enough."""
        self._note_epoch(trainer)
        if time.monotonic() - self.last_saved >= SECONDS_BETWEEN_STATES:
            self._save_state(trainer, module)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Keep the last state of a long training: others of the same stage may follow."""
        self._note_epoch(trainer)
        if self.path.exists():
            self._save_state(trainer, module)

    def _note_epoch(self, trainer: lightning.Trainer) -> None:
        """Note what the last epoch has logged."""
        if len(self.curve) < trainer.current_epoch:
            logged = trainer.logged_metrics.items()
            self.curve.append({name: float(value) for name, value in logged})

    def _save_state(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        tensors, rest = training_state(trainer, module)
        unfinished = self.path.with_suffix(".part")
        rest = json.dumps({**rest, "curve": self.curve})
        save_file(tensors, unfinished, {"state": rest})
        unfinished.replace(self.path)
        self.last_saved = time.monotonic()


def training_state(
    trainer: lightning.Trainer, module: lightning.LightningModule
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a training before an epoch: its tensors, and the rest as JSON."""
    tensors = {f"module.{name}": value for name, value in module.state_dict().items()}
    # What a module needs beside its weights: Lightning's hook, here for tensors alone.
    module_tensors: dict[str, Tensor] = {}
    module.on_save_checkpoint(module_tensors)
    tensors |= {f"beside.{name}": value for name, value in module_tensors.items()}
    param_groups: list[Any] = []
    optimizer_numbers: list[Any] = []  # what its state holds beside tensors
    for number, optimizer in enumerate(trainer.optimizers):
        state = optimizer.state_dict()
        param_groups.append(state["param_groups"])
        for parameter, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{parameter}.{name}"] = value
                else:
                    optimizer_numbers.append([number, parameter, name, value])
    tensors["random.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    rest = {
        "epoch": trainer.current_epoch,
        "groups": param_groups,
        "others": optimizer_numbers,
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    }
    return {
        name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()
    }, rest


def check_same_module(module: lightning.LightningModule, tensors: dict[str, Tensor]) -> None:
    """Raise ``InputError`` unless ``tensors`` are a state of this module."""
    shapes = {name: value.shape for name, value in tensors.items() if name.startswith("module.")}
    expected = {f"module.{name}": value.shape for name, value in module.state_dict().items()}
    if shapes != expected:
        raise InputError("the state of another training")


def restore_state(
    trainer: lightning.Trainer,
    module: lightning.LightningModule,
    tensors: dict[str, Tensor],
    rest: dict[str, Any],
) -> None:
    """Bring a training that has just started to the state that ``training_state`` returned."""
    module.load_state_dict(below("module.", tensors))
    module.on_load_checkpoint(below("beside.", tensors))
    states: list[dict[int, dict[str, Any]]] = [{} for _ in trainer.optimizers]
    for name, value in below("optimizer.", tensors).items():
        number, parameter, entry = name.split(".", 2)
        states[int(number)].setdefault(int(parameter), {})[entry] = value
    for number, parameter, entry, value in rest["others"]:
        states[number].setdefault(parameter, {})[entry] = value
    for optimizer, state, groups in zip(trainer.optimizers, states, rest["groups"], strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    schedules = zip(trainer.lr_scheduler_configs, rest["schedules"], strict=True)
    for config, schedule in schedules:
        config.scheduler.load_state_dict(schedule)
    progress = trainer.fit_loop.epoch_progress.current
    progress.ready = progress.started = progress.processed = progress.completed = rest["epoch"]
    # Last: loading draws no number, but building something may.
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
