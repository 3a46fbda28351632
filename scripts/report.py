"""Write tables and plots of a sweep, from its records alone: nothing is trained, without torch.

    python scripts/report.py table=robustness
    python scripts/report.py --name mine method=usp,csp attack=none,distill 'seed=range(0,5)'
    python scripts/report.py --page [table=NAME]

The overrides are those that run.py was given; a cell that this version of the code hasn't run is
missing. Writes NAME.md, NAME.tex, NAME.csv (one line a cell) and plots (SVG and PNG) into --to;
with --page one self-contained NAME.html instead, or all.html of all records in output_dir.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from softmark.errors import InputError
from softmark.renamed import current
from softmark.report.export import Sheet, latex, markdown, write_cells
from softmark.report.page_details import is_unhashed, public
from softmark.report.sweep_table import Problem, by_reason, gather
from softmark.settings import configs
from softmark.sweep.command_line import check_arguments, expand_sweep, expand_table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as given to run.py")
    parser.add_argument("--name", help="of the files; the table's, where none is given")
    parser.add_argument("--to", type=Path, default=Path("outputs/tables"), metavar="DIR")
    parser.add_argument("--page", action="store_true", help="HTML; of all records, if unnamed")
    options = parser.parse_intermixed_args()
    options.overrides = current(options.overrides)
    try:
        written, problems = page(options) if options.page else files(options)
    except InputError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    for line in problems:
        print(f"missing or failed: {line}", file=sys.stderr)


def name_of(options: argparse.Namespace) -> str:
    """Return the name of the files: as given, else the table's."""
    name = options.name or expand_table(options.overrides)[0].get("name")
    if not name:
        raise InputError("--name NAME of the files is needed where no table=NAME is given")
    return name


def files(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Write the tables and plots of the sweep."""
    name = name_of(options)
    sheet, problems = read(options.overrides)
    return publish(sheet, options.to / name), by_reason(problems)


def page(options: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """Write one HTML page: of the sweep, or of all records if only an output_dir is given."""
    from softmark.report import page as pages

    folders = [line for line in options.overrides if line.startswith("output_dir=")]
    output = Path(check_arguments(["-m", *folders], writes=False)["output_dir"])
    if not options.name and folders == options.overrides:
        text, broken = pages.all_records_page(output)
        return [pages.write_page(text, options.to / "all.html")], broken
    name = name_of(options)
    sheet, problems = read(options.overrides)
    text = pages.sweep_page(name, sheet, list(map(str, problems)), output)
    return [pages.write_page(text, options.to / f"{name}.html")], by_reason(problems)


def read(overrides: list[str]) -> tuple[Sheet, list[Problem]]:
    """Return the sweep that run.py makes of ``overrides``, and its cells without result."""
    check_arguments(["-m", *overrides], writes=False)
    with configs():
        table, _ = expand_table(overrides)
        rows, varied, problems = gather(expand_sweep(overrides))
    if not any(record for row in rows for record in row.records):
        hint = "no record of these cells: run.py -m with the same overrides makes them"
        raise InputError("\n".join([hint, *by_reason(problems)[:5]]))
    # Where it ran and how it was watched are nothing to repeat; the table is.
    shown = [
        public(line) for line in overrides if line.startswith("table=") or not is_unhashed(line)
    ]
    command = shlex.join(["python", "run.py", *([] if table else ["-m"]), *shown])
    return Sheet(command, table, rows, varied), problems


def publish(sheet: Sheet, stem: Path) -> list[Path]:
    """Write every form of ``sheet`` beside ``stem``, and return the paths."""
    from softmark.report.plots import plots
    from softmark.report.style import save

    paths = [stem.with_name(f"{stem.name}.{form}") for form in ("md", "tex", "csv")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(markdown(sheet), encoding="utf-8")
        paths[1].write_text(latex(sheet), encoding="utf-8")
        write_cells(sheet, paths[2])
        for name, figure in plots(sheet.rows, sheet.varied).items():
            paths += save(figure, stem.with_name(f"{stem.name}-{name}"))
    except OSError as error:
        raise InputError(f"{stem.parent}: {error.strerror}; --to DIR writes elsewhere") from error
    return paths


if __name__ == "__main__":
    main()
