"""Tables and pictures of a sweep, from its records alone: nothing is trained, torch isn't needed.

    python scripts/report.py table=robustness
    python scripts/report.py --name mine method=usp,csp attack=none,distill 'seed=range(0,5)'
    python scripts/report.py --page [table=NAME]

The overrides are those that run.py was given; a cell that this version of the code hasn't run is
missing. Writes NAME.md, NAME.tex, NAME.csv (one line a cell) and pictures (SVG and PNG) into --to;
with --page one self-contained NAME.html instead, or all.html of all records in output_dir.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from softmark.cells import gather, spread
from softmark.dossier import public
from softmark.errors import InputError
from softmark.overrides import CONF, check, with_table
from softmark.publish import Sheet, latex, markdown, write_cells

UNHASHED = ("output_dir=", "logger", "trainer")  # where it ran and was watched


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="as given to run.py")
    parser.add_argument("--name", help="of the files; the table's, where none is given")
    parser.add_argument("--to", type=Path, default=Path("outputs/tables"), metavar="DIR")
    parser.add_argument("--page", action="store_true", help="HTML; of all records, if unnamed")
    told = parser.parse_intermixed_args()
    try:
        written, trouble = page(told) if told.page else files(told)
    except InputError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    for line in trouble:
        print(f"missing or failed: {line}", file=sys.stderr)


def name_of(told: argparse.Namespace) -> str:
    name = told.name or with_table(told.overrides)[0].get("name")
    if not name:
        raise InputError("--name NAME of the files is needed where no table=NAME is given")
    return name


def files(told: argparse.Namespace) -> tuple[list[Path], list[str]]:
    name = name_of(told)
    sheet, trouble = read(told.overrides)
    return publish(sheet, told.to / name), trouble


def page(told: argparse.Namespace) -> tuple[list[Path], list[str]]:
    """One HTML page: of the sweep, or of all records where there is nothing but an output_dir."""
    from softmark import page as pages

    check(["-m", *told.overrides])
    folders = [line for line in told.overrides if line.startswith("output_dir=")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        output = Path(compose("config", folders).output_dir)
    if not told.name and folders == told.overrides:
        text, broken = pages.of_all(output)
        return [pages.write(text, told.to / "all.html")], broken
    name = name_of(told)
    sheet, trouble = read(told.overrides)
    text = pages.of_sweep(name, sheet, trouble, output)
    return [pages.write(text, told.to / f"{name}.html")], trouble


def read(overrides: list[str]) -> tuple[Sheet, list[str]]:
    """The sweep that run.py makes of ``overrides``, and a line for each cell without result."""
    check(["-m", *overrides])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        table, _ = with_table(overrides)
        rows, varied, trouble = gather(spread(overrides))
    if not any(record for row in rows for record in row.records):
        told = "no record of these cells: run.py -m with the same overrides makes them"
        raise InputError("\n".join([told, *trouble[:5]]))
    elsewhere = [public(line) for line in overrides if not line.startswith(UNHASHED)]
    command = shlex.join(["python", "run.py", *([] if table else ["-m"]), *elsewhere])
    return Sheet(command, table, rows, varied), trouble


def publish(sheet: Sheet, stem: Path) -> list[Path]:
    """Writes every form of ``sheet`` beside ``stem``."""
    from softmark import figures

    paths = [stem.with_name(f"{stem.name}.{form}") for form in ("md", "tex", "csv")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(markdown(sheet), encoding="utf-8")
        paths[1].write_text(latex(sheet), encoding="utf-8")
        write_cells(sheet, paths[2])
        for name, figure in figures.pictures(sheet.rows, sheet.varied).items():
            paths += figures.save(figure, stem.with_name(f"{stem.name}-{name}"))
    except OSError as error:
        raise InputError(f"{stem.parent}: {error.strerror}; --to DIR writes elsewhere") from error
    return paths


if __name__ == "__main__":
    main()
