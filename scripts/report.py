"""Tables and pictures of a sweep, from its records alone: nothing is trained, torch isn't needed.

    python scripts/report.py table=robustness
    python scripts/report.py --name mine method=usp,csp attack=none,distill 'seed=range(0,5)'
    python scripts/report.py --page [table=NAME]

The overrides are those that run.py was given; a cell that this version of the code hasn't run is
missing. Writes NAME.md, NAME.csv, NAME-probes and NAME-tradeoff (SVG and PNG) into --to; with
--page one self-contained NAME.html instead, or all.html of all records in output_dir.
"""

from __future__ import annotations

import argparse
import csv
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from softmark import tables
from softmark.errors import InputError
from softmark.overrides import check

UNHASHED = ("output_dir=", "logger", "trainer")  # where it ran and was watched
CONF = Path(__file__).resolve().parents[1] / "conf"


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
        check(["-m", *told.overrides])
        with initialize_config_dir(str(CONF), version_base="1.3"):
            name, params = table_of(told.overrides)
            told.name = told.name or name
            if told.page:
                return page(told, params)
            if not told.name:
                raise InputError("--name NAME of the files is needed where no table=NAME is given")
            rows, varied, trouble = tables.gather(tables.spread(told.overrides, params))
            done = [record for row in rows for record in row.records if record]
            if not done:
                raise InputError(
                    "no record of these cells: run.py -m with the same overrides makes them"
                )
            written = publish(told, rows, varied)
    except InputError as error:
        sys.exit(f"error: {error}")
    for path in written:
        print(path)
    for line in trouble:
        print(f"missing or failed: {line}", file=sys.stderr)


def page(told: argparse.Namespace, params: dict[str, Any]) -> None:
    """Writes one HTML page: of the sweep, or of all records where it has no name."""
    from softmark import page as pages

    elsewhere = [line for line in told.overrides if not line.startswith(UNHASHED)]
    folder = [line for line in told.overrides if line.startswith("output_dir=")]
    output = Path(compose("config", folder).output_dir)
    if told.name:
        rows, varied, trouble = tables.gather(tables.spread(told.overrides, params))
        if not any(record for row in rows for record in row.records):
            raise InputError("no record of these cells: run.py with the same overrides makes them")
        sweep = [] if any(line.startswith("table=") for line in told.overrides) else ["-m"]
        command = shlex.join(["python", "run.py", *sweep, *map(public, elsewhere)])
        section = pages.Section(told.name, rows, varied, command, trouble=trouble)
        text = pages.of_sweep(section, output)
    elif elsewhere:
        raise InputError("--name NAME of the page is needed beside overrides; without any, of all")
    else:
        text, trouble = pages.of_all(output)
    print(pages.write(text, told.to / f"{told.name or 'all'}.html"))
    for line in trouble:
        print(f"missing or failed: {line}", file=sys.stderr)


def table_of(overrides: list[str]) -> tuple[str | None, dict[str, Any]]:
    """The name of the chosen table and what it sweeps over."""
    chosen = [line for line in overrides if line.startswith("table=")]
    config = compose("config", chosen, return_hydra_config=True)
    params = config.hydra.sweeper.get("params")
    return (config.get("table") or {}).get("name"), params or {}


def public(override: str) -> str:
    """``override`` without a folder of this machine."""
    return "data.path=DIR" if override.startswith("data.path=") else override


def publish(told: argparse.Namespace, rows: list[tables.Row], varied: list[str]) -> list[Path]:
    from softmark import figures

    names = tables.columns(rows, brief=False)
    head = [key.rpartition(".")[2] for key in varied] + names
    body = [[*row.name, *tables.cells(row, names)] for row in rows]
    stem = told.to / told.name
    try:
        told.to.mkdir(parents=True, exist_ok=True)
        with stem.with_suffix(".csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *body])
        paths = [
            path
            for name, figure in figures.pictures(rows).items()
            for path in figures.save(figure, stem.with_name(f"{told.name}-{name}"))
        ]
        elsewhere = [line for line in told.overrides if not line.startswith(UNHASHED)]
        sweep = [] if any(line.startswith("table=") for line in told.overrides) else ["-m"]
        command = shlex.join(["python", "run.py", *sweep, *map(public, elsewhere)])
        stem.with_suffix(".md").write_text(tables.markdown(command, head, body, rows))
    except OSError as error:
        raise InputError(f"{told.to}: {error.strerror}; --to DIR writes elsewhere") from error
    return [stem.with_suffix(".md"), stem.with_suffix(".csv"), *paths]


if __name__ == "__main__":
    main()
