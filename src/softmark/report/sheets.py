"""What a command line's sweep becomes: tables and plots, or one page, from its records alone."""

from __future__ import annotations

import shlex
from pathlib import Path

from softmark.errors import InputError
from softmark.report import page as pages
from softmark.report.export import Sheet, latex, markdown, write_cells
from softmark.report.page_details import is_unhashed, public
from softmark.report.sweep_table import Problem, by_reason, gather
from softmark.settings import configs
from softmark.sweep.command_line import check_arguments, expand_sweep, expand_table
from softmark.sweep.spelling import folders_of


def name_of(overrides: list[str], name: str | None) -> str:
    """Return the name of the files: as given, else the table's."""
    name = name or expand_table(overrides)[0].get("name")
    if not name:
        raise InputError("--name NAME of the files is needed where no table=NAME is given")
    return name


def write_tables_of(
    overrides: list[str], name: str | None, to: Path
) -> tuple[list[Path], list[str]]:
    """Write the tables and plots of a sweep; return their paths, and why cells have no result."""
    name = name_of(overrides, name)
    sheet, problems = read_sweep(overrides)
    return publish(sheet, to / name), by_reason(problems)


def write_page_of(overrides: list[str], name: str | None, to: Path) -> tuple[list[Path], list[str]]:
    """Write one HTML page: of a sweep, or of all records if only an output_dir is given."""
    folders = [line for line in overrides if line.startswith("output_dir=")]
    output = Path(check_arguments(["-m", *folders], writes=False)["output_dir"])
    if not name and folders == overrides:
        text, broken = pages.all_records_page(output)
        return [pages.write_page(text, to / "all.html")], broken
    name = name_of(overrides, name)
    sheet, problems = read_sweep(overrides)
    text = pages.sweep_page(name, sheet, list(map(str, problems)), output)
    return [pages.write_page(text, to / f"{name}.html")], by_reason(problems)


def read_sweep(overrides: list[str]) -> tuple[Sheet, list[Problem]]:
    """Return the sweep that run.py makes of ``overrides``, and its cells without result."""
    check_arguments(["-m", *overrides], writes=False)
    with configs(folders_of(overrides)):
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
