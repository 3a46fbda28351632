"""The end of a job's time, which SLURM tells before it comes."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import Any


class TimeLimit:
    """The signal that submitit has SLURM send some time before a job's end."""

    def __init__(self) -> None:
        self.is_up = False
        self.interruptible = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note the signal while this lasts, in a job of submitit's."""
        if "SUBMITIT_EXECUTOR" not in os.environ:
            yield
            return
        from submitit import JobEnvironment

        number = getattr(signal, f"SIG{JobEnvironment.USR_SIG}")
        before = signal.signal(number, self._note)
        try:
            yield
        finally:
            signal.signal(number, before)

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Raise KeyboardInterrupt at the signal while this lasts."""
        self.interruptible = True
        try:
            yield
        finally:
            self.interruptible = False

    def _note(self, *_: Any) -> None:
        self.is_up = True
        if self.interruptible:
            self.interruptible = False
            raise KeyboardInterrupt
