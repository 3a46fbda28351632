"""The mode of W&B, decided once, in the parent of all workers: online, offline or disabled."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from softmark.console import report
from softmark.errors import InputError

MODES = ("online", "offline", "disabled")
LOGIN_TIMEOUT = 15  # seconds that a server may take to accept the credentials


class WandbMode(Callback):
    """A callback of Hydra's: decides W&B's mode and group of runs before any cell runs.

    Workers inherit both by WANDB_MODE and WANDB_RUN_GROUP, and ask no server again.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Decide for one cell."""
        _set_mode(config, config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Decide for a sweep."""
        _set_mode(config, config.hydra.sweep.dir)


def _set_mode(config: DictConfig, folder: str) -> None:
    """Set the environment variables of W&B, and report the mode."""
    if config.logger.name != "wandb":
        return
    try:
        mode, reason = decide_mode(config.logger.mode)
        if mode != "disabled":
            check_settings(config.logger)
    except InputError as error:
        # An exception here would only be a warning to Hydra; this is none.
        sys.exit(f"error: {error}")
    runs = Path(config.output_dir) / "wandb"
    _leave_home(runs.absolute())
    os.environ["WANDB_MODE"] = mode
    kind = (config.get("table") or {}).get("name") or "sweep"
    group = "-".join([kind, *Path(folder).parts[-2:]])
    os.environ.setdefault("WANDB_RUN_GROUP", os.environ.get("WANDB_SWEEP_ID") or group)
    later = f"; later: wandb sync {runs}" if mode == "offline" else ""
    report(f"W&B: {mode} ({reason}){later}")


def check_settings(logger: Any) -> None:
    """Raise ``InputError`` for a setting that W&B refuses: one of ours, or of the environment.

    Args:
        logger: The config node, with ``project`` and ``group``.
    """
    import wandb

    settings = wandb.Settings()
    ours = (("logger.project", "project"), ("logger.group", "run_group"))
    variables = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    for name, value in variables.items():
        with _refused(name if "KEY" in name or "TOKEN" in name else f"{name}={value}"):
            settings.update_from_env_vars({name: value})
    for name, field in ours:
        value = logger[name.removeprefix("logger.")]
        with _refused(f"{name}={value}"):
            setattr(settings, field, value)


@contextlib.contextmanager
def _refused(what: str) -> Iterator[None]:
    """Turn what W&B says of a setting into one line about ``what``."""
    try:
        yield
    except Exception as error:  # its own, and pydantic's
        messages = [one["msg"] for one in error.errors()] if hasattr(error, "errors") else [error]
        reason = " ".join(str(messages[0]).split())[:160]
        raise InputError(f"{what}: W&B refuses it ({reason})") from error


def _leave_home(folder: Path) -> None:
    """Have wandb write to ``folder`` what it would write to a home folder that nobody can write.

    Its process would print its log instead, dozens of lines for each run.
    """
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        (cache / "wandb").mkdir(parents=True, exist_ok=True)
        writable = os.access(cache / "wandb", os.W_OK)
    except (OSError, RuntimeError):  # RuntimeError: nobody has a home
        writable = False
    if not writable:
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        for name in ("CACHE", "DATA"):
            os.environ.setdefault(f"WANDB_{name}_DIR", str(folder / name.lower()))


def decide_mode(configured: str | None) -> tuple[str, str]:
    """Return the mode of W&B and its reason.

    It is ``logger.mode``, else WANDB_MODE, else what ``wandb offline`` or ``wandb disabled`` has
    left in this folder, else online. Online becomes offline where the server doesn't accept the
    stored credentials within ``LOGIN_TIMEOUT`` seconds.

    Args:
        configured: The value of ``logger.mode``; None where there is none.

    Raises:
        InputError: There is no such mode.
    """
    sources = (("logger.mode", configured), ("WANDB_MODE", os.environ.get("WANDB_MODE")))
    configured_modes = [(source, mode) for source, mode in sources if mode]
    source, mode = configured_modes[0] if configured_modes else ("credentials", None)
    if mode not in (None, *MODES):
        raise InputError(f"W&B mode {mode} ({source}): {', '.join(MODES[:2])} or {MODES[2]}")
    if mode in ("offline", "disabled"):
        return mode, f"{source}={mode}"
    answer, reason = _ask(mode)
    return answer, f"{source}, accepted by the server" if answer == "online" else reason


def _ask(mode: str | None) -> tuple[str, str]:
    """Return the mode that wandb comes to and why, asked in a process that can be killed.

    Args:
        mode: Online, or None for what wandb's own settings say.
    """
    code = (
        "import sys, wandb\n"
        "try:\n"
        "    mode = wandb.setup().settings.mode\n"
        "    if mode in ('offline', 'disabled'):\n"
        "        sys.exit(f'softmark: {mode} wandb {mode} was said in this folder')\n"
        "    known = wandb.login(prompt=False, verify=True)\n"
        "except Exception as error: sys.exit(f'softmark: offline {error}')\n"
        "sys.exit(None if known else 'softmark: offline no credentials')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_MODE"}
    try:
        login = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env=environment | ({"WANDB_MODE": mode} if mode else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LOGIN_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return "offline", f"no answer in {LOGIN_TIMEOUT} s"
    if login.returncode == 0:
        return "online", ""
    answers = [line for line in login.stderr.splitlines() if line.startswith("softmark: ")]
    answer = answers[0].removeprefix("softmark: ") if answers else "offline wandb can't be asked"
    answered, _, reason = answer.partition(" ")
    return answered, reason
