"""With what a record was made: commit, versions, machine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path


@functools.cache
def commit() -> str | None:
    """The commit of the code that runs, with a + where it was changed since; None outside git."""
    checkout = Path(__file__).parents[3]
    # Installed elsewhere, git would name the commit of whatever project lies around it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+"]
    with contextlib.suppress(OSError):
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        return said.stdout.strip() or None
    return None


@functools.cache
def processor() -> str:
    """The processor's name: another one gives other last digits for the same address."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


@functools.cache
def machine() -> str:
    """The processor's name, its cores, and the GPU."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {processor()}{gpu}"


def versions() -> dict[str, str]:
    names = ("softmark", "torch", "pytorch-lightning", "hydra-core")
    found = {name: importlib.metadata.version(name) for name in names}
    return found | {"python": platform.python_version()}
