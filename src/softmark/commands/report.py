"""Write tables and plots of a sweep, from its records alone: nothing is trained, without torch.

    softmark report table=robustness
    softmark report --name mine method=usp,csp attack=none,distill 'seed=range(0,5)'
    softmark report --page [table=NAME]
    softmark report --leaderboard
    softmark report --compare table=comparison
    softmark report --compare outputs/tables/digits-rivals.csv

The overrides are those that softmark run was given; a cell that this version of the code hasn't run
is missing. Writes NAME.md, NAME.tex, NAME.csv (one line a cell) and plots (SVG and PNG) into --to;
with --page one self-contained NAME.html instead, or all.html of all records in output_dir; with
--compare the tests between its methods; with --leaderboard leaderboard.html of all records in
output_dir. For these two published tables will do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes to ``parser``."""
    parser.add_argument("overrides", nargs="*", help="as given to softmark run, or FILE.csv")
    parser.add_argument("--name", help="of the files; the table's, where none is given")
    parser.add_argument("--to", type=Path, default=Path("outputs/tables"), metavar="DIR")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--page", action="store_true", help="HTML; of all records, if unnamed")
    form.add_argument("--compare", action="store_true", help="tests between methods")
    form.add_argument("--leaderboard", action="store_true", help="HTML; methods ranked")


def left_behind(options: argparse.Namespace) -> str:
    """Return what is there after an interruption."""
    return f"{options.to} holds what was written so far"


def run(options: argparse.Namespace) -> None:
    """Write the tables or the page, and print the paths."""
    from softmark.renamed import current
    from softmark.report import sheets
    from softmark.settings import configs
    from softmark.sweep.own_method import with_own_method
    from softmark.sweep.spelling import folders_of, spelled

    forms = {
        "page": sheets.write_page_of,
        "compare": sheets.write_comparison_of,
        "leaderboard": sheets.write_leaderboard_of,
    }
    chosen = (forms[name] for name in forms if getattr(options, name))
    write = next(chosen, sheets.write_tables_of)
    overrides = spelled(with_own_method(options.overrides))
    with configs(folders_of(overrides)):
        written, problems = write(current(overrides), options.name, options.to)
    for path in written:
        print(path)
    for line in problems:
        print(f"missing or failed: {line}", file=sys.stderr)
