"""What a command line's sweep becomes: tables and plots, or one page, from its records alone."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path

from softmark.errors import InputError
from softmark.report import page as pages
from softmark.report.board import recorded_tables
from softmark.report.export import Sheet, latex, markdown, write_cells
from softmark.report.outcomes import outcomes
from softmark.report.page_details import is_unhashed, public
from softmark.report.published import published_tables
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


def write_comparison_of(
    words: list[str], name: str | None, to: Path
) -> tuple[list[Path], list[str]]:
    """Write the tests between methods; return the paths, and why cells have no result.

    Args:
        words: published tables, FILE.csv each, or else the overrides of a sweep.
        name: of the files; None for the table's.
        to: the folder that they go to.
    """
    from softmark.report.compare import MAIN, Comparison, ranks_diagram
    from softmark.report.style import save

    files = [Path(word) for word in words if is_table(word)]
    if files and len(files) < len(words):
        raise InputError("FILE.csv or the overrides of a sweep, not both")
    if files:
        tables = published_tables(files)
        if len(tables) > 1:
            found = " and ".join(" ".join(group) for group in tables)
            raise InputError(f"{found}: one data set at one scale is compared")
        ((rows, _),) = tables.values()
        problems: list[Problem] = []
        command = shlex.join(["softmark", "report", "--compare", *words])
        name = name or f"{files[0].stem}-compared"
    else:
        name = name_of(words, name)
        sheet, problems = read_sweep(words)
        rows, command = sheet.rows, f"softmark report --compare, of {sheet.command}"
    comparison = Comparison(outcomes(rows))
    diagrams = {setting: ranks_diagram(comparison, setting) for setting in MAIN}
    paths = [to / f"{name}.md", to / f"{name}.csv"]
    with written_to(to):
        to.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(comparison.markdown(command), encoding="utf-8")
        comparison.write_pairs(paths[1])
        for setting, figure in diagrams.items():
            paths += save(figure, to / f"{name}-by-{setting.unit}")
    return paths, by_reason(problems)


def write_leaderboard_of(
    words: list[str], name: str | None, to: Path
) -> tuple[list[Path], list[str]]:
    """Write the leaderboard; return its path, and a line for each file that is no record.

    Args:
        words: published tables, FILE.csv each, or else where records lie, ``output_dir=DIR``.
        name: of the file; None for ``leaderboard``.
        to: the folder that it goes to.
    """
    files = [Path(word) for word in words if is_table(word)]
    others = [word for word in words if not is_table(word) and not word.startswith("output_dir=")]
    if others or (files and len(files) < len(words)):
        raise InputError("FILE.csv of published tables, or output_dir=DIR with records: no more")
    broken: list[str] = []
    output = Path("outputs")
    if files:
        tables = published_tables(files)
    else:
        output = Path(check_arguments(["-m", *words], writes=False)["output_dir"])
        tables, broken = recorded_tables(output)
    text = pages.leaderboard_page(tables, broken, output)
    return [pages.write_page(text, to / f"{name or 'leaderboard'}.html")], broken


def is_table(word: str) -> bool:
    """Return whether a word of the command line is a published table, and no override."""
    return word.endswith(".csv") and "=" not in word


@contextlib.contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Raise ``InputError`` where what happens inside can't write to ``folder``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; --to DIR writes elsewhere") from error


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
    with written_to(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(markdown(sheet), encoding="utf-8")
        paths[1].write_text(latex(sheet), encoding="utf-8")
        write_cells(sheet, paths[2])
        for name, figure in plots(sheet.rows, sheet.varied).items():
            paths += save(figure, stem.with_name(f"{stem.name}-{name}"))
    return paths
