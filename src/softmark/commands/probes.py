"""Write the probes of a key for whoever will ask the suspect: pictures, or one NPZ.

    softmark probes marked --to probes            # 00000.png, 00001.png, ...
    softmark probes marked --to probes.npz        # inputs, for what isn't a picture

The probes of csp and usp are no secret. Those of csp_margin and usp_margin end with the triggers:
whoever has these can unlearn them, so write them when you ask a suspect, and not before. Have the
answers written in the same order, one row for each probe with a probability for each class;
softmark verify reads them.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument(
        "marked", type=Path, metavar="MARKED", help="the folder that softmark mark wrote"
    )
    parser.add_argument(
        "--to",
        type=Path,
        required=True,
        metavar="PATH",
        help="a new folder for pictures, or a new .npz",
    )


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    return "nothing was written"


def run(options: argparse.Namespace) -> None:
    """Write the probes."""
    from softmark.console import report
    from softmark.errors import InputError
    from softmark.owner.checks import check_probes
    from softmark.owner.commitment import COMMITMENT, read_publication
    from softmark.owner.folder import PROBES
    from softmark.owner.probe_files import (
        load_probes,
        save_probes,
        write_instructions,
        write_pictures,
    )
    from softmark.owner.statement import Statement

    marked, to = options.marked, options.to
    published = read_publication(marked / COMMITMENT)
    statement = Statement.read(published["statement"])
    probes = load_probes(marked / PROBES, statement.input_bytes)
    check_probes(statement, probes)
    if to.exists():
        raise InputError(f"--to={to}: it is there already")
    if statement.has_triggers:
        report("note: the last of these are the triggers: whoever has them can unlearn them")
    if to.suffix == ".npz":
        save_probes(probes, to)
        print(f"{len(probes)} probes: {to}")
        return
    write_pictures(probes, to)
    write_instructions(probes, published, to / "about.json")
    print(f"{len(probes)} pictures in {to}, and about.json, which says what is wanted")
