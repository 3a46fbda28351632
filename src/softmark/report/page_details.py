"""The details behind a row of a page: each seed's verdict, cost, config and training curves.

All of it becomes plain text and numbers here, without any folder of this machine.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import re
import shlex
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from softmark.experiment.plan import UNHASHED
from softmark.report.footnotes import made_with
from softmark.report.numbers import MISSING, format_p
from softmark.report.rows import Record, Row, leaves
from softmark.report.verdict import claim, facts

MAX_POINTS = 200  # of one curve: more than a small plot can show
PATH_CHARACTER = r"[^\s'\",;:()\[\]<>]"
# A path of this machine; neither a/b nor https:// nor </b>.
PATH = re.compile(rf"(?<![\w./<])~?/(?!/){PATH_CHARACTER}+")
SHARED = ("pairs", "nodes", "configs", "pools")  # lists that cells refer to by number
Hide = Callable[[str], str]


def is_private(key: str, value: str) -> bool:
    """Return whether ``value`` is a folder of the data's owner."""
    parts = key.lstrip("+").split(".")
    return parts[0] == "data" and parts[-1] == "path" and value not in ("null", MISSING)


def public(override: str) -> str:
    """Return ``override`` without the data's folder."""
    key, _, value = override.partition("=")
    return f"{key}=DIR" if is_private(key, value) else override


def hider(records: Iterable[Record], output: Path) -> Hide:
    """Return what replaces the data's folders, and all paths of this machine, in a text by DIR.

    The folders are listed one by one since a space in them would end a path.
    """
    private = {str(output), str(output.resolve())}
    for record in records:
        pairs = [line.partition("=")[::2] for line in record["overrides"]]
        if "data" in record["config"]:
            pairs += leaves("data", json.dumps(record["config"]["data"])).items()
        private |= {value.strip("'\"") for key, value in pairs if is_private(key, value)}
    folders = sorted((folder for folder in private if "/" in folder), key=len, reverse=True)
    known = re.compile(f"(?:{'|'.join(map(re.escape, folders))}){PATH_CHARACTER}*")

    @functools.cache
    def hide(text: str) -> str:
        return PATH.sub("DIR", known.sub("DIR", text)) if "/" in text else text

    return lambda text: hide(str(text))


class _Numbered:
    """Numbers values, equal ones alike: what thousands of records share is written once."""

    def __init__(self) -> None:
        self.places: dict[Hashable, int] = {}

    def __call__(self, value: Hashable) -> int:
        return self.places.setdefault(value, len(self.places))


class Details:
    """Collects the details of rows: a cell for each seed, and what cells share."""

    def __init__(self, store: Path, hide: Hide):
        self.store, self.hide = store, hide
        self.rows: list[dict[str, Any]] = []
        self.pairs, self.nodes, self.configs = _Numbered(), _Numbered(), _Numbered()
        self.pools = _Numbered()
        self._nodes: dict[tuple[str, str], int] = {}  # numbers by name and JSON
        self.curves: dict[str, Any] = {}

    def add(self, name: Sequence[str], row: Row) -> int:
        """Add a row and return its place in the page's data."""
        cells = [record and self._cell(record) for record in row.records]
        self.rows.append({"name": " · ".join(name), "cells": cells})
        return len(self.rows) - 1

    def data(self) -> dict[str, Any]:
        """Return all that was added, for JSON."""
        shared = {name: list(getattr(self, name).places) for name in SHARED}
        return {"rows": self.rows, "curves": self.curves, **shared}

    def _cell(self, record: Record) -> dict[str, Any]:
        stages = record["stages"]
        models = _models(stages)
        for role, address in models.items():
            if address not in self.curves:
                folder = "suspect" if role.startswith("attack") else role
                self.curves[address] = _curves(self.store / folder / address)
        lines = [line for line in record["overrides"] if not is_unhashed(line)]
        return {
            "seed": record["seed"],
            "address": record["address"],
            "verdict": self.hide(_headline(record)),
            "facts": [(name, self.hide(text)) for name, text in _facts(record)],
            "stages": models,
            "pools": [
                [pool, self.pools(tuple(stages[pool]))]
                for pool in ("calibration", "evaluation")
                if stages.get(pool)
            ],
            "command": self.hide(shlex.join(["python", "run.py", *map(public, lines)])),
            "config": self.configs(self._config(record["config"])),
        }

    def _config(self, config: dict[str, Any]) -> tuple[int, ...]:
        """Return the numbers of the nodes of a config."""
        # The seed is all in which the cells of a row differ.
        nodes = [(name, json.dumps(value)) for name, value in config.items() if name != "seed"]
        for name, text in nodes:
            if (name, text) not in self._nodes:
                pairs = leaves(name, text).items()
                self._nodes[name, text] = self.nodes(
                    tuple(
                        self.pairs((key, "DIR" if is_private(key, value) else self.hide(value)))
                        for key, value in pairs
                    )
                )
        return tuple(self._nodes[node] for node in nodes)


def _models(stages: dict[str, Any]) -> dict[str, str]:
    """Return the addresses of a cell's models by role; the attack's steps before the suspect."""
    steps = enumerate(stages.get("links", [])[:-1], 1)
    models = {role: stages.get(role) for role in ("victim", "control", "watermarked")}
    models |= {f"attack, step {number}": address for number, address in steps}
    models["suspect"] = stages.get("suspect")
    return {role: address for role, address in models.items() if address}


def is_unhashed(override: str) -> bool:
    """Return whether ``override`` only says where a cell runs and how it is watched."""
    return re.split("[=./]", override.lstrip("+~"))[0] in {*UNHASHED, "hydra"}


def _headline(record: Record) -> str:
    if record["status"] == "failed":
        return "failed"
    if record["p_value"] is None:
        return claim(record)
    return f"{claim(record)}, p {format_p(record['p_value'])}"


def _facts(record: Record) -> list[tuple[str, str]]:
    """Return the verdict's facts, and what it took to make it."""
    seconds = f"{record['seconds']:.1f} s with what had to be made"
    origin = [
        ("made with", made_with([record])),
        (
            "precision, threads",
            f"{record['precision']}, {record['threads'] or 'all cores'}"
            if record["precision"]
            else "",
        ),
    ]
    if record["status"] == "failed":
        return [("reason", str(record["reason"])), ("took", seconds), *origin]
    curve = [f"{format_p(p)} at {n}" for n, p in record["p_by_probes"].items() if p is not None]
    stages = [f"{role} {taken:.1f} s" for role, taken in record["stage_seconds"].items()]
    lines = [
        *facts(record),
        ("p by probes", ", ".join(curve)),
        ("took", f"{seconds}; {record['queries']} queries"),
        ("stages", ", ".join(stages)),
        ("commitment", record["commitment"] or ""),
        *origin,
    ]
    return [(name, text) for name, text in lines if text]


def _curves(folder: Path) -> list[tuple[str, str, list, list]] | None:
    """Return name, metric, epochs and values of a stage's trainings; None where it isn't stored."""
    if not folder.is_dir():
        return None
    curves = []
    for path in sorted(folder.glob("curves/*/metrics.csv")):
        with path.open(newline="", errors="replace") as file:
            lines = list(csv.DictReader(file))
        name = path.parent.name.partition("-")[2] or path.parent.name
        for metric in [key for key in lines[0] if key not in ("epoch", "step")] if lines else []:
            points = [(_rounded(line.get("epoch")), line[metric]) for line in lines if line[metric]]
            some = points[:: math.ceil(len(points) / MAX_POINTS) or 1]
            curves.append((name, metric, [x for x, _ in some], [_rounded(y) for _, y in some]))
    return curves


def _rounded(text: str | None) -> float | None:
    """Return four digits; None for what is no finite number, as where a training diverged."""
    try:
        value = float(f"{float(text or ''):.4g}")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
