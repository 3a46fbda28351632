"""Output of the commands: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from softmark.errors import InputError


def report(line: str) -> None:
    """Write one line of progress to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """Return stdout for tables: as wide as the terminal; 200 columns in a file."""
    return Console(width=None if sys.stdout.isatty() else 200)


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
