"""The one exception whose message is written for the person who typed the command."""

from __future__ import annotations

from omegaconf.errors import OmegaConfBaseException


class InputError(ValueError):
    """A value that cannot be used: the message names it, where it came from and what would do.

    ``run.py`` prints the message alone, without a traceback.

    Example:
        >>> softmark.new_key("", classes=10, probes=inputs)
        Traceback (most recent call last):
        softmark.errors.InputError: message='': name the customer or the licence
    """


def reason_of(error: Exception) -> str:
    """Return what a config, a disk or the memory caused; "" for a bug, which needs a traceback.

    Example:
        >>> reason_of(InputError("seed=x: a whole number")), reason_of(KeyError("x"))
        ('seed=x: a whole number', '')
    """
    if isinstance(error, InputError):
        return str(error)
    # Of torch, on a CPU and on a GPU.
    if isinstance(error, RuntimeError) and "allocate" in str(error):
        return f"out of memory, smaller models or a smaller recipe.batch_size need less: {error}"
    if isinstance(error, OSError | MemoryError | OmegaConfBaseException):
        return f"{type(error).__name__}: {error}"
    return ""
