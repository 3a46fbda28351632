"""Evaluate a watermark of your own under the attacks of softmark, from Python."""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmark.console import report
from softmark.errors import InputError, reason_of
from softmark.methods.watermark import Watermark
from softmark.nodes import suggestion
from softmark.report.export import Sheet, markdown
from softmark.report.page import sweep_page, write_page
from softmark.report.page_details import is_unhashed, public
from softmark.report.rows import Record, Row, filled
from softmark.settings import configs
from softmark.sweep.compose import CellComposer
from softmark.sweep.override_check import check_overrides, choices_of
from softmark.sweep.own_method import find_class, overrides_of, see_current_folder

# No attacks: the model as it is serves for all, a control is no attack, nor is a forged key.
CONTROLS = ("innocent_*", "adaptive_forge")


@dataclass(frozen=True)
class Evaluation:
    """The verdicts on a watermark under attacks.

    Attributes:
        sheet: Its table, a row for each method and attack, as ``softmark report`` has it.
        problems: A line for each cell that has no verdict, and why.
        output: The folder of records and stored models.
    """

    sheet: Sheet
    problems: tuple[str, ...]
    output: Path

    @property
    def records(self) -> list[Record]:
        """Return the record of each finished cell."""
        return [record for row in self.sheet.rows for record in row.finished]

    @property
    def markdown(self) -> str:
        """Return the table in Markdown, with a summary, its families and what removal costs."""
        return markdown(self.sheet)

    def write_page(self, path: str | Path) -> Path:
        """Write one HTML page whose rows open, and return its path."""
        text = sweep_page(Path(path).stem, self.sheet, self.problems, self.output)
        return write_page(text, Path(path))


def evaluate(
    method: Watermark | type[Watermark] | str,
    attacks: str | Sequence[str] = "*",
    data: str | Path = "digits",
    *,
    rivals: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    scale: str = "small",
    output_dir: str | Path = "outputs",
    overrides: Sequence[str] = (),
    workers: int = 1,
    report: Callable[[str], None] = report,
) -> Evaluation:
    """Mark, attack and judge with a watermark of your own; everything made is kept and used again.

    Args:
        method: An object of your class, which lies in a file of its own; the class itself; or its
            name, ``mine.Mine``. Its ``recipe`` is that of the data, unless it brings another.
        attacks: Names of attacks, or patterns such as ``prune_*``; ``*`` is every attack.
        data: The name of a config of data, or a folder of pictures with a subfolder a class.
        rivals: Names of softmark's own methods, for the same table.
        seeds: Each repeats every cell with another victim and another key.
        scale: ``smoke`` shows in seconds that everything runs; ``small`` or ``full``.
        output_dir: Where records and models go.
        overrides: Further settings, as on a command line: ``recipe.epochs=30``.
        workers: Processes that make models. With more than one a script needs
            ``if __name__ == "__main__":``.
        report: Gets one line for each model that is made, and for each cell that fails.

    Returns:
        The verdicts. A cell that fails is among its ``problems``; the others go on.

    Raises:
        InputError: the class can't be used, or there is no such attack, data set or setting.

    Example:
        >>> import mine  # doctest: +SKIP
        >>> found = softmark.evaluate(mine.Mine(), attacks=["prune*", "distill"])  # doctest: +SKIP
        >>> print(found.markdown)  # doctest: +SKIP
    """
    see_current_folder()
    watermark = find_class(method) if isinstance(method, str) else method
    common = [*_data_overrides(data), f"scale={scale}", f"output_dir={output_dir}", *overrides]
    method_choices = [overrides_of(watermark), *([f"method={name}"] for name in rivals)]
    with configs():
        attack_names = matching_attacks(attacks)
        cell_overrides = [
            [*choice, f"attack={attack}", f"seed={seed}", *common]
            for choice in method_choices
            for attack in attack_names
            for seed in seeds
        ]
        for choice in method_choices:
            check_overrides("config", [*choice, f"attack={attack_names[0]}", *common])
        composer = CellComposer()
        cells = [(overrides, composer.compose(overrides)) for overrides in cell_overrides]
    if workers > 1:
        _make_missing_stages([config for _, config in cells], workers, report)
    rows, problems = _run_cells(cells, report)
    counted = [override for override in common if not is_unhashed(override)]
    swept = [f"attack={','.join(attack_names)}", f"seed={','.join(map(str, seeds))}"]
    command = shlex.join(
        ["python", "run.py", "-m", *method_choices[0], *swept, *map(public, counted)]
    )
    sheet = Sheet(command, {}, rows, ["method", "attack"])
    return Evaluation(sheet, tuple(problems), Path(output_dir))


def matching_attacks(patterns: str | Sequence[str]) -> list[str]:
    """Return the attacks of conf/ that match ``patterns``, ``none`` first, each once.

    Raises:
        InputError: one matches nothing.
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    # "serve" is "serve_flat" by another name.
    names = [name for name in choices_of("attack") if name != "serve"]
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = fnmatch.filter(names, pattern)
        if "*" in pattern:
            matching = [name for name in matching if not _is_control(name)]
        if not matching:
            raise InputError(f"attacks={pattern!r}: there is none{suggestion(pattern, names)}")
        found |= dict.fromkeys(matching)
    return sorted(found, key=lambda name: name != "none")


def _is_control(attack: str) -> bool:
    """Return whether ``attack`` is none that a pattern stands for."""
    return any(fnmatch.fnmatch(attack, control) for control in CONTROLS)


def _data_overrides(data: str | Path) -> list[str]:
    """Return the overrides that choose ``data``."""
    names = choices_of("data")
    if str(data) in names:
        return [f"data={data}"]
    if Path(data).is_dir():
        return ["data=imagefolder", f"data.path='{Path(data).resolve()}'"]
    did_you_mean = suggestion(str(data), names)
    raise InputError(f"data={data}: no folder, and none of {', '.join(names)}{did_you_mean}")


def _make_missing_stages(
    cells: Sequence[dict[str, Any]], workers: int, report: Callable[[str], None]
) -> None:
    """Make the missing stages of all ``cells`` with several processes."""
    from softmark.experiment.plan import decode_data
    from softmark.experiment.planner import Planner
    from softmark.experiment.run import missing_stages
    from softmark.store.store import Store
    from softmark.sweep.workers import make_stages

    planner, missing, config_of = Planner(), {}, {}
    store = Store.under(cells[0]["output_dir"], report)
    for config in cells:
        decode_data(config)
        of_cell = missing_stages(planner.plan(config), store)
        missing |= of_cell
        config_of |= dict.fromkeys(of_cell, config)
    trainer = {**cells[0]["trainer"], "workers": workers}
    make_stages(missing, config_of.__getitem__, trainer, store)


def _run_cells(
    cells: Sequence[tuple[list[str], dict[str, Any]]], report: Callable[[str], None]
) -> tuple[list[Row], list[str]]:
    """Run every cell; return a row for each method and attack, and why some have no verdict."""
    from softmark.experiment.plan import plan
    from softmark.experiment.record import record_of
    from softmark.experiment.run import run_cell

    records_of: dict[tuple[str, str], list[Record | None]] = {}
    problems = []
    for overrides, config in cells:
        names = (config["method"]["name"], config["attack"]["name"])
        record: Record | None = None
        try:
            record = filled(run_cell(config, overrides, report))
        except Exception as error:
            # A bug in somebody's own method fails its cell, and no other.
            reason = reason_of(error) or f"{type(error).__name__}: {error}"
            problems.append(f"{names[0]} under {names[1]}, seed {config['seed']}: {reason}")
            report(f"error: {problems[-1]}")
            record = record_of(plan(config))
            record = record and filled(record)
        records_of.setdefault(names, []).append(record)
    return [Row(names, tuple(records)) for names, records in records_of.items()], problems
