"""Output of the commands: progress on stderr, results on stdout; neither ever ends the work."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO

from rich.console import Console

from softmark.errors import InputError


class QuietStream:
    """A text stream that never raises: what can't be written is lost, and that is said once.

    Args:
        stream: What is written to.
        name: What the message calls it.
    """

    def __init__(self, stream: TextIO, name: str):
        self.stream, self.name = stream, name

    def write(self, text: str) -> int:
        """Write ``text``, or lose it."""
        try:
            self.stream.write(text)
        except (OSError, ValueError) as error:  # a full disk; closed, or letters it doesn't have
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is waiting, or lose it."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def writelines(self, lines: Any) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: Exception) -> None:
        """Send what is waiting, and all that follows, to nowhere."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
            # Whoever reads a pipe may have enough of it.
            if not isinstance(error, BrokenPipeError) and sys.stderr is not self:
                report(f"{self.name}: {reason_of_loss(error)}; the rest isn't shown")


def reason_of_loss(error: Exception) -> str:
    """Return why a stream couldn't be written."""
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def quiet_streams() -> Iterator[None]:
    """Let nothing that is printed raise while this lasts; at its end all of it is written or lost.

    Whatever happens to stdout and stderr, the exit status is the one of the work.
    """
    _open_standard_files()
    before = sys.stdout, sys.stderr, sys.__stderr__
    sys.stdout, sys.stderr = quiet(sys.stdout, 1), quiet(sys.stderr, 2)
    # What takes stderr back from whoever had replaced it.
    sys.__stderr__ = sys.stderr
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            raise
        report(stop.code)
        raise SystemExit(1) from None
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr, sys.__stderr__ = before


def _open_standard_files() -> None:
    """Open what is closed of stdin, stdout and stderr.

    The next file would get the number, and a library that writes to stderr would write into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def quiet(stream: TextIO | None, number: int) -> Any:
    """Return ``stream`` so that it never raises; None is what Python has for a closed one."""
    if isinstance(stream, QuietStream):
        return stream
    if stream is None:
        stream = open(number, "w", closefd=False)  # noqa: SIM115 - it has no path
    if hasattr(stream, "reconfigure"):
        # A terminal in latin-1 has no dagger.
        stream.reconfigure(errors="replace" if number == 1 else "backslashreplace")
    return QuietStream(stream, "stdout" if number == 1 else "stderr")


def report(line: str) -> None:
    """Write one line of progress to stderr: stdout is for results."""
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """Return stdout for tables: as wide as the terminal; 200 columns in a file."""
    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    return Console(width=None if on_terminal else 200)


def conclude(run: Callable[[], int | None], kept: str) -> NoReturn:
    """Run the main function of a script, and exit with its status.

    Args:
        run: Returns the exit status, None for 0. For an ``InputError``, or a file that can't be
            read or written, the status is 2.
        kept: What is left if the script is interrupted, for the message.
    """
    try:
        sys.exit(run() or 0)
    except InputError as error:
        report(f"error: {error}")
        sys.exit(2)
    except OSError as error:
        report(f"error: {error.filename or 'a file'}: {error.strerror or error}")
        sys.exit(2)
    except KeyboardInterrupt:
        report(f"interrupted: {kept}")
        sys.exit(130)
