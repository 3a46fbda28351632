"""Say with what a record is made: commit, versions, machine."""

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
    """Return the commit of the code that runs, with a + if it was changed; None outside git."""
    checkout = Path(__file__).parents[3]
    # Installed elsewhere, git would name the commit of whatever project lies around it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+"]
    with contextlib.suppress(OSError):
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        return process.stdout.strip() or None
    return None


@functools.cache
def processor() -> str:
    """Return the processor's name: another gives other last digits for the same address."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


@functools.cache
def machine() -> str:
    """Return the processor's name, its cores, and the GPU."""
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {processor()}{gpu}"


def versions() -> dict[str, str]:
    """Return the versions of softmark, of what computes, and of Python."""
    names = ("softmark", "torch", "pytorch-lightning", "hydra-core")
    packages = {name: importlib.metadata.version(name) for name in names}
    return packages | {"python": platform.python_version()}


def precision(setting: str) -> str:
    """Return ``setting``; for ``auto`` bf16-mixed where the machine has bfloat16, else 32-true."""
    if setting != "auto":
        return setting
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return "bf16-mixed"
    return "bf16-mixed" if Path("/proc/driver/nvidia/version").exists() else "32-true"
