"""Write a small marked model with its key, its probes and a stolen student, to try things at once.

    softmark example csp --to example
    softmark verify example example/student.safetensors --to evidence

Handwritten digits, of which nothing is downloaded. The key is public: it proves nothing about other
models.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument(
        "method",
        nargs="?",
        choices=("csp", "usp"),
        default="csp",
        metavar="METHOD",
        help="csp or usp (default: csp)",
    )
    parser.add_argument(
        "--to", type=Path, default=Path("example"), metavar="DIR", help="a new folder"
    )


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    return "nothing was written"


def run(options: argparse.Namespace) -> None:
    """Write the files, and print what can be done with them."""
    from softmark.owner.example import write_example

    for path in write_example(options.method, options.to):
        print(path)
    print(f"who stole it? softmark verify {options.to} {options.to}/student.safetensors")
    print(f"who didn't?   softmark verify {options.to} {options.to}/unmarked.safetensors")
