"""Where torch computes: chosen once for the process, as its number of threads is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from softmark.errors import InputError

_accelerator_of_process = {"predict": "auto"}


def choose_device(accelerator: str) -> torch.device:
    """Return the device of ``accelerator``; ``auto`` takes a GPU where there is one.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    cuda = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
    return torch.device("cuda" if cuda else "cpu")


def device_of_predictions() -> torch.device:
    """Return where ``training.predict`` computes: what ``compute_on`` chose, else ``auto``."""
    return choose_device(_accelerator_of_process["predict"])


def compute_on(accelerator: str, threads: int | None, where: str = "trainer.accelerator") -> None:
    """Choose where ``training.predict`` computes from now on, and how many cores torch uses.

    Args:
        accelerator: auto, cpu or gpu.
        threads: at least 1; None: torch's own choice.
        where: what messages call ``accelerator``.

    Raises:
        InputError: there is no such accelerator, or no GPU, or ``threads`` is below 1.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda"):
        raise InputError(f"{where}={accelerator}: auto, cpu or gpu")
    if choose_device(accelerator).type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}={accelerator}: there is no GPU; cpu is")
    _accelerator_of_process["predict"] = accelerator
    # All batches of a training are alike: a GPU looks once for its fastest convolutions.
    torch.backends.cudnn.benchmark = True
    if threads is not None:
        if not threads >= 1:
            raise InputError(f"trainer.threads={threads}: at least 1 (or null for all)")
        torch.set_num_threads(min(threads, os.cpu_count() or 1))


@contextlib.contextmanager
def training_threads(
    precision: str, device: torch.device, threads: int | None = None
) -> Iterator[None]:
    """Let a training in bfloat16 on a CPU use one core while this lasts.

    oneDNN's threads wait for each other actively: on busy cores a second one made a training take
    10 to 160 times the CPU seconds of one alone.

    Args:
        precision: ``32-true`` or ``bf16-mixed``.
        device: where it computes.
        threads: those that ``compute_on`` was told, which stay; None: it was told none.

    Example:
        >>> with training_threads("bf16-mixed", torch.device("cpu")):
        ...     torch.get_num_threads()
        1
    """
    before = torch.get_num_threads()
    alone = precision != "32-true" and device.type == "cpu" and threads is None
    if alone:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if alone:
            torch.set_num_threads(before)


@contextlib.contextmanager
def usual_torch() -> Iterator[None]:
    """Compute as torch does where nobody has told it otherwise, while this lasts.

    A default type or device, autocast and inference mode hold for whoever calls us, too.

    Example:
        >>> with torch.autocast("cpu"), usual_torch():
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.float32
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            for kind in ("cpu", "cuda"):
                if torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            if torch.get_default_device().type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)
