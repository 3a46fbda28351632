"""Where training curves go: a CSV file beside the artefact, W&B, or nowhere."""

from __future__ import annotations

import contextlib
import netrc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from softmark.errors import InputError


def open_logger(config: dict[str, Any], folder: Path, run: dict[str, Any]) -> Callable:
    """``logger(name)`` for ``Fit``: a context manager around the logger of one training.

    ``config``: the group ``logger``. ``folder``: the stage's, for CSV. ``run``: what W&B is told
    (``job_type``, ``tags``, ``config``, ``dir``); it never holds a secret.
    """
    kinds = {"csv": _csv, "wandb": _wandb, "none": _nothing}
    if config["name"] not in kinds:
        raise InputError(f"logger={config['name']}: csv, wandb or none")
    return lambda name: kinds[config["name"]](name, config, folder, run)


@contextlib.contextmanager
def _nothing(name: str, config: dict, folder: Path, run: dict) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def _csv(name: str, config: dict, folder: Path, run: dict) -> Iterator[Any]:
    from pytorch_lightning.loggers import CSVLogger

    number = len(list(folder.glob("curves/*")))
    logger = CSVLogger(folder, name="curves", version=f"{number:02d}-{name}")
    yield logger
    logger.save()


@contextlib.contextmanager
def _wandb(name: str, config: dict, folder: Path, run: dict) -> Iterator[Any]:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    directory = Path(run["dir"])
    directory.mkdir(parents=True, exist_ok=True)
    opened = wandb.init(
        project=config["project"],
        group=config["group"],
        name=name,
        job_type=run["job_type"],
        tags=run["tags"],
        config=run["config"],
        dir=directory,
        mode=wandb_mode(config),
        # Any other setting makes loggers of one process share a run.
        reinit="create_new",
        settings=wandb.Settings(init_timeout=15, silent=True),
    )
    failed = True
    try:
        yield WandbLogger(experiment=opened, save_dir=directory)
        failed = False
    finally:
        opened.finish(exit_code=int(failed))


def wandb_mode(config: dict[str, Any]) -> str:
    """``online`` only with credentials: an explicit setting, WANDB_MODE, a stored key, offline."""
    chosen = config["mode"] or os.environ.get("WANDB_MODE")
    if chosen:
        if chosen not in ("online", "offline", "disabled"):
            raise InputError(f"W&B mode {chosen}: online, offline or disabled")
        return chosen
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    with contextlib.suppress(OSError, netrc.NetrcParseError):
        if "api.wandb.ai" in netrc.netrc().hosts:
            return "online"
    return "offline"
