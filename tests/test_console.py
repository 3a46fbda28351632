"""Whatever stdout and stderr are, a command does its work and ends with the work's status."""

import io
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

import softmark.report.sweep_table as sweep_table
from helpers.cells import composed, described
from softmark.console import QuietStream, quiet_streams, report
from softmark.experiment.plan import plan
from softmark.report.rows import Row, filled
from softmark.report.summary import SUMMARY_CAPTION, summary_table
from softmark.report.sweep_table import Problem, SweepTable
from softmark.report.terminal import print_lines, print_sweep, print_verdict
from softmark.sweep.progress import LiveLine

STREAMS = ("file", "closed", "full", "latin-1", "ascii", "ended pipe")
FAILED = Problem("method=csp attack=prune", "größe †: no disk")


def become(number: int, kind: str, path: Path) -> None:
    """Give this process a stdout or stderr of ``kind``, as Python has it at its start."""
    name = ("stdin", "stdout", "stderr")[number]
    os.close(number)
    if kind == "closed":
        setattr(sys, name, None)
        return
    if kind == "ended pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        where = "/dev/full" if kind == "full" else path
        writer = os.open(where, os.O_WRONLY | os.O_CREAT)
    if writer != number:
        os.dup2(writer, number)
        os.close(writer)
    encoding = kind if kind in ("latin-1", "ascii") else "utf-8"
    errors = "strict" if number == 1 else "backslashreplace"
    stream = open(number, "w", encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115
    setattr(sys, name, stream)


def exit_status(stdout: str, stderr: str, folder: Path, main) -> int:
    """What a process ends with that has these streams and runs ``main``: a copy of this one."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 99
    try:
        become(1, stdout, folder / "out")
        become(2, stderr, folder / "err")
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except OSError:
                status = 120  # as Python does
    finally:
        os._exit(status)


@pytest.mark.parametrize("problems", [[], [FAILED]])
@pytest.mark.parametrize("stderr", STREAMS)
@pytest.mark.parametrize("stdout", STREAMS)
def test_a_sweep_ends_with_its_own_status(stdout, stderr, problems, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_table, "cells_of", lambda config: [[], []])
    found = (rows, ["method", "attack"], problems)
    monkeypatch.setattr(sweep_table, "gather", lambda cells, sweep: found)

    @quiet_streams()
    def main() -> None:
        report("größe †")
        warnings.warn("größe †", stacklevel=1)
        with (tmp_path / "record").open("w") as file:
            assert file.fileno() > 2
            file.write("whole")
        SweepTable().on_multirun_end(OmegaConf.create({"logger": {"name": "none"}}))

    assert exit_status(stdout, stderr, tmp_path, main) == bool(problems)
    assert (tmp_path / "record").read_text() == "whole"
    if stdout in ("file", "latin-1", "ascii"):
        encoding = "utf-8" if stdout == "file" else stdout
        assert "distill_finetune_prune" in (tmp_path / "out").read_text(encoding=encoding)
    if stderr == "file" and stdout == "full":
        told = (tmp_path / "err").read_text()
        assert told.count("stdout: No space left on device; the rest isn't shown") == 1
        assert ("no disk" in told) == bool(problems)


@pytest.fixture(scope="module")
def rows():
    config = composed(("method=csp", "model.width=8"))
    record = filled(described(plan(config, "0" * 64), []))
    names = ("distill_finetune_prune", "finetune", "prune", "none")
    return [Row(("csp", name), ({**record, "attack": name},)) for name in names]


@pytest.mark.parametrize("end", ["an error", 3, None])
def test_whatever_ends_the_work_is_its_status(end, tmp_path):
    @quiet_streams()
    def main() -> None:
        sys.exit(end)

    for stream in STREAMS:
        wanted = 1 if end == "an error" else end or 0
        assert exit_status(stream, stream, tmp_path, main) == wanted
    assert ("an error" in (tmp_path / "err").read_text()) == (end == "an error")


def test_a_bug_in_the_table_is_told_and_no_success(rows, monkeypatch, capsys):
    monkeypatch.setattr(sweep_table, "cells_of", lambda config: 1 / 0)
    with pytest.raises(SystemExit) as stop:
        SweepTable().on_multirun_end(OmegaConf.create())
    assert stop.value.code == 1
    assert "ZeroDivisionError" in capsys.readouterr().err
    # What only shows it keeps nothing else from being told.
    monkeypatch.setattr(sweep_table, "cells_of", lambda config: [[]])
    monkeypatch.setattr(sweep_table, "gather", lambda *_: (rows, ["method", "attack"], [FAILED]))
    monkeypatch.setattr(sweep_table, "print_sweep", lambda *_: 1 / 0)
    with pytest.raises(SystemExit) as stop:
        SweepTable().on_multirun_end(OmegaConf.create({"logger": {"name": "none"}}))
    told = capsys.readouterr().err
    assert "no table: ZeroDivisionError" in told
    assert "1 of 1 cells failed" in told


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">/dev/full", "| true", "<&- >&- 2>&-"])
def test_a_command_prints_to_whatever_there_is(redirection):
    """A process of its own, since Python itself writes at its end."""
    command = f"{sys.executable} -m softmark --help {redirection}; exit ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert ("No space left" in ended.stderr) == ("full" in redirection)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 120, 200])
def test_no_name_and_no_figure_is_cut_on_any_terminal(width, rows, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        "softmark.report.terminal.console", lambda: Console(file=screen, width=width)
    )
    print_sweep(rows, ["method", "attack"])
    print_lines(summary_table(rows), SUMMARY_CAPTION)
    print_verdict({**rows[0].records[0], "made": 2, "path": "/a/path"}, brief=False)
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    whole = re.sub(r"[\s│]", "", text)  # long names are folded, below 40 columns figures, too
    for figure in ("95.00", "1.0e-07", "90.00"):
        assert (whole if width < 40 else text).count(figure) >= len(rows)
    # In a cell that is folded, other columns stand between the parts.
    assert whole.count("distill_finetune_prune") >= 2


class Screen(io.StringIO):
    """A terminal of some width."""

    def __init__(self, columns: int):
        super().__init__()
        self.columns = columns

    def fileno(self) -> int:
        return 2


@pytest.mark.parametrize("columns", [20, 59, 60, 200])
def test_a_live_line_stays_one_row(columns, monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    screen = Screen(columns)
    LiveLine(screen).draw("cells 1/2 · stages 3/12, 2 in the making · about 10:20 left")
    assert len(screen.getvalue().removeprefix("\r\033[K")) == min(columns - 1, 59)


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_goes_away_takes_nothing_with_it(monkeypatch, capsys):
    line = LiveLine(QuietStream(Gone(), "stderr"))
    line.draw("cells 1/2")
    line.write("made victim\n")
    line.flush()
    monkeypatch.setattr(sys, "stderr", Gone())
    report("lost")
