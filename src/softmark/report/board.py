"""A leaderboard: what each method keeps under every attack, for the page to sort and filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.report import records as archive
from softmark.report.outcomes import is_attack, outcome_of
from softmark.report.page_details import Details
from softmark.report.rows import Record, Row, rows_of

LEVELS = (0.05, 1e-3, 1e-6, 1e-12)  # that a reader may hold every method to
Tables = Mapping[tuple[str, str], tuple[Sequence[Row], Sequence[str]]]


def recorded_tables(output: Path) -> tuple[Tables, list[str]]:
    """Return rows by data set and scale of the records in ``output``, and what is no record there.

    Records that older code made are left out.

    Raises:
        InputError: no record is of today's code.
    """
    found, broken = archive.read(output / "records")
    check = archive.RecordCheck(output)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in found:
        if check.is_current(record):
            groups.setdefault((record["data"], record["scale"]), []).append(record)
    if not groups:
        raise InputError(f"no record of this code in output_dir={output}: run.py makes them")
    return {group: rows_of(some, stale=False) for group, some in groups.items()}, broken


def board_of(tables: Tables, details: Details) -> dict[str, Any]:
    """Return what the page's script reads, and add every row to ``details``.

    Raises:
        InputError: no method with keys was attacked.
    """
    attacks: dict[tuple[str, str, str, str], int] = {}
    boards = {}
    for (data, scale), (rows, _) in tables.items():
        cells = [_cell(row, attacks, details) for row in rows if is_attack(row)]
        if cells:
            boards[data if scale == "small" else f"{data}, {scale} scale"] = cells
    if not boards:
        raise InputError("no attack on a method with keys: nothing to rank")
    names = ("name", "family", "access", "knows")
    return {
        "attacks": [dict(zip(names, one, strict=True)) for one in attacks],
        "boards": boards,
        "levels": list(LEVELS),
    }


def _cell(row: Row, attacks: dict[tuple[str, ...], int], details: Details) -> list[Any]:
    """Return method, place of the attack, claims, p of each key, why apart, place of the row."""
    one, first = outcome_of(row), row.finished[0]
    attack = (one.attack, one.family, first["access"] or "weights", first["knows"] or "nothing")
    claims = [int(claimed) for claimed in one.claimed]
    p_values = [p and float(f"{p:.3g}") for p in one.p_values]
    place = details.add((one.method, one.attack), row)
    number = attacks.setdefault(attack, len(attacks))
    return [one.method, number, claims, p_values, one.apart, place]
