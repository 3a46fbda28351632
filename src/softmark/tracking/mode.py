"""Where W&B's runs go, decided once, in the parent of all workers: online, offline or nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from softmark.console import report
from softmark.errors import InputError

MODES = ("online", "offline", "disabled")
PATIENCE = 15  # seconds that a server may take to accept the credentials


class Mode(Callback):
    """Decides once, before any cell runs, where W&B's runs go and what groups them.

    Workers inherit both by WANDB_MODE and WANDB_RUN_GROUP and ask no server again.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        _announce(config, config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _announce(config, config.hydra.sweep.dir)


def _announce(config: DictConfig, folder: str) -> None:
    if config.logger.name != "wandb":
        return
    try:
        mode, why = decide(config.logger.mode)
    except InputError as error:
        # An exception here would only be a warning to Hydra; this is none.
        sys.exit(f"error: {error}")
    os.environ["WANDB_MODE"] = mode
    kind = (config.get("table") or {}).get("name") or "sweep"
    group = "-".join([kind, *Path(folder).parts[-2:]])
    os.environ.setdefault("WANDB_RUN_GROUP", os.environ.get("WANDB_SWEEP_ID") or group)
    runs = Path(config.output_dir) / "wandb"
    later = f"; later: wandb sync {runs}" if mode == "offline" else ""
    report(f"W&B: {mode} ({why}){later}")


def decide(wanted: str | None) -> tuple[str, str]:
    """The mode and its reason: ``logger.mode``, WANDB_MODE, stored credentials, else offline.

    Online only if the server accepts the credentials, which takes at most ``PATIENCE`` seconds.
    """
    named = (("logger.mode", wanted), ("WANDB_MODE", os.environ.get("WANDB_MODE")))
    where, mode = next(((where, mode) for where, mode in named if mode), ("credentials", "online"))
    if mode not in MODES:
        raise InputError(f"W&B mode {mode} ({where}): {', '.join(MODES[:2])} or {MODES[2]}")
    if mode != "online":
        return mode, f"{where}={mode}"
    refused = _refusal()
    return ("offline", refused) if refused else ("online", f"{where}, accepted by the server")


def _refusal() -> str | None:
    """Why W&B's server can't be used, or None: asked in a process that can be killed."""
    code = (
        "import sys, wandb\n"
        "try: known = wandb.login(prompt=False, verify=True)\n"
        "except Exception as error: sys.exit(f'softmark: {error}')\n"
        "sys.exit(None if known else 'softmark: no credentials')\n"
    )
    try:
        asked = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "WANDB_MODE": "online"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PATIENCE} s"
    if asked.returncode == 0:
        return None
    reasons = [line for line in asked.stderr.splitlines() if line.startswith("softmark: ")]
    return reasons[0].removeprefix("softmark: ") if reasons else "wandb can't be asked"
