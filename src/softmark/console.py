"""Where lines go: progress to stderr, results to stdout."""

from __future__ import annotations

import sys

from rich.console import Console


def report(line: str) -> None:
    """Writes one line of progress to stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def console() -> Console:
    """stdout: as wide as the terminal, and wide enough for any table in a file."""
    return Console(width=None if sys.stdout.isatty() else 200)
