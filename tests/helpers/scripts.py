"""The scripts, run in this process."""

from __future__ import annotations

import runpy
import sys
from typing import NamedTuple

import pytest

from helpers import ROOT
from softmark.report.sheets import read_sweep


class Ran(NamedTuple):
    """What a script ended with and printed."""

    code: int | str | None
    out: str
    err: str


def run_script(monkeypatch: pytest.MonkeyPatch, capsys, name: str, *words: object) -> Ran:
    """Run ``scripts/NAME.py`` with ``words`` behind it."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    capsys.readouterr()
    try:
        runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code
    return Ran(code, *capsys.readouterr())


def read_sheet(*lines: str):
    return read_sweep(list(lines))
