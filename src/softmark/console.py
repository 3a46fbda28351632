"""Where lines go: progress to stderr, results to stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from softmark.errors import InputError


def report(line: str) -> None:
    """Writes one line of progress to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """stdout: as wide as the terminal, and wide enough for any table in a file."""
    return Console(width=None if sys.stdout.isatty() else 200)


def conclude(run: Callable[[], int | None], kept: str) -> NoReturn:
    """Ends a script with the exit status of ``run``: 2 for an ``InputError`` or a file that
    can't be read or written, 0 for None.

    ``kept``: what is left if it is interrupted.
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
