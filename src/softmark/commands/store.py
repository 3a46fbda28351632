"""List the stages in the store and the records that need them; remove the others.

    softmark store
    softmark store --prune

A stage is needed where a record lists it, be it the record of a cell that failed.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument("--output-dir", type=Path, default=Path("outputs"), metavar="DIR")
    parser.add_argument(
        "--prune",
        action="store_true",
        help="remove the stages that no record needs and what killed runs left; not while a run is "
        "at work, as the cell that it makes has no record yet",
    )
    parser.add_argument("--yes", action="store_true", help="prune without asking")


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    return "what wasn't removed yet is kept"


def run(options: argparse.Namespace) -> None:
    """List the store, and prune it if asked."""
    from softmark.report.stored import list_and_prune

    list_and_prune(options.output_dir, options.prune, options.yes)
