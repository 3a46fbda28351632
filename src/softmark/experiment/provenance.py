"""Say with what a record is made: commit, versions, machine."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

# They choose among the processor's instructions: of torch, of oneDNN and of MKL.
INSTRUCTIONS = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"),
    *("MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
)
# They let a GPU compute float32 with ten bits of fraction, or keep it from that.
TF32 = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")


@functools.cache
def commit() -> str | None:
    """Return the commit of the code that runs, with a + if it was changed; None outside git."""
    checkout = Path(__file__).parents[3]
    # Installed elsewhere, git would name the commit of whatever project lies around it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+"]
    # A hook of git's is told which repository it is about: not this one.
    around = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    with contextlib.suppress(OSError):
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=around)
        return process.stdout.strip() or None
    return None


@functools.cache
def processor() -> str:
    """Return the processor's name: another gives other last digits for the same address.

    So do the variables that keep torch from instructions that it has.
    """
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return name + _set(INSTRUCTIONS)


def _set(names: tuple[str, ...]) -> str:
    """Return which of the variables ``names`` are set, in parentheses; nothing where none is."""
    values = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    return f" ({', '.join(values)})" if values else ""


@functools.cache
def machine() -> str:
    """Return the processor's name, its cores, and the GPU."""
    import torch

    has_gpu = torch.cuda.is_available()
    gpu = f", {torch.cuda.get_device_name()}{_set(TF32)}" if has_gpu else ""
    return f"{os.cpu_count()} cores of {processor()}{gpu}"


def versions() -> dict[str, str]:
    """Return the versions of softmark, of what computes, and of Python."""
    names = ("softmark", "torch", "pytorch-lightning", "hydra-core")
    packages = {name: importlib.metadata.version(name) for name in names}
    return packages | {"python": platform.python_version()}


def precision(setting: str, accelerator: str) -> str:
    """Return ``setting``; for ``auto`` bf16-mixed where the device has bfloat16, else 32-true.

    Args:
        setting: auto, bf16-mixed or 32-true.
        accelerator: auto, cpu or gpu: a GPU's driver says nothing about a CPU.
    """
    if setting != "auto":
        return setting
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and _has_gpu()):
        return "bf16-mixed"
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return "bf16-mixed"
    return "32-true"


def _has_gpu() -> bool:
    """Return whether torch finds a GPU, without importing it."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    without = importlib.metadata.version("torch").endswith("+cpu")
    return Path("/proc/driver/nvidia/version").exists() and not hidden and not without
