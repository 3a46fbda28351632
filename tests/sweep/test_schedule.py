"""How a sweep shares out its work: its plan, lost workers of real launchers, the live line."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hydra import initialize_config_dir

from helpers import ROOT
from helpers.cells import composed
from softmark.experiment.run import run_cell
from softmark.sweep.command_line import expand_sweep
from softmark.sweep.progress import LiveLine, file_stamp
from softmark.sweep.schedule import Sweep

LINES = ["method=usp,csp", "attack=finetune,prune", "seed=0,1", "scale=smoke", "logger=none"]


def swept(*lines: str) -> Sweep:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Sweep(expand_sweep(list(lines)))


def test_workers_are_given_each_stage_once_with_its_parents_and_cells(tmp_path):
    found = swept(*LINES, f"output_dir={tmp_path}")
    items = found.items()
    roles = Counter(item.role.split("/")[0] for item in items.values())
    assert roles == {
        "innocent": 4, "victim": 2, "control": 2, "watermarked": 4, "key": 4, "evidence": 4,
        "suspect": 8, "cell": 8,
    }  # fmt: skip
    for stage, _ in found.missing.values():
        item = items[stage.address]
        assert set(item.parents) == {parent.address for parent in stage.parents}
        assert item.folder == str(tmp_path / "store" / item.role.split("/")[0] / stage.address)
        # An innocent serves all cells, a suspect one.
        number = {"innocent": 8, "victim": 4, "control": 4, "suspect": 1}
        assert len(item.cells) == number.get(item.role.split("/")[0], 2)
    for plan in found.plans:
        assert {"suspect", "evidence"} <= {
            items[parent].role for parent in items[plan.verdict.address].parents
        }


def test_a_cell_that_cant_be_planned_is_left_to_a_worker(tmp_path):
    found = swept("data=imagefolder", f"data.path={tmp_path}/none", f"output_dir={tmp_path}")
    assert found.items()["cell-0"].cells == (0,)


def test_what_is_done_is_not_planned_again(archived, tmp_path):
    archived("method=usp", "attack=prune")
    archived("method=csp", "attack=prune", status="failed", reason="no")
    found = swept("method=usp,csp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
    assert found.num_done == 1
    assert [cell[0] for cell in found.cells] == ["method=csp"]


def test_a_record_written_anew_counts_whatever_the_clock_says(tmp_path):
    record = tmp_path / "record"
    assert file_stamp(record) is None
    record.write_text("old")
    before = file_stamp(record)
    other = tmp_path / "other"
    other.write_text("new")
    os.utime(other, ns=(0, before[1]))
    other.replace(record)
    assert file_stamp(record) != before


def test_what_others_write_stands_above_the_line():
    screen = io.StringIO()
    stderr = LiveLine(screen)
    assert not stderr.isatty()
    stderr.draw("1 of 2")
    print("made", "victim", file=stderr)
    stderr.draw("2 of 2")
    stderr.write("half a ")
    stderr.draw("not now")
    stderr.write("line\n")
    assert screen.getvalue() == (
        "\r\033[K1 of 2\r\033[Kmade victim\n\r\033[K2 of 2\r\033[Khalf a line\n"
    )


def test_the_line_counts_cells_stages_and_failures(archived, tmp_path):
    found = swept("method=usp,csp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
    watch = found.progress()
    assert watch.line() == "cells 0/2 · stages 0/14, 0 in the making"
    stages = [stage for stage, _ in found.missing.values()]
    for stage in stages[:3]:
        folder = found.store.folder(stage)
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(json.dumps({"seconds": 2.0}))
    found.store.folder(stages[3]).with_suffix(".making").mkdir(parents=True)
    archived("method=usp", "attack=prune")
    archived("method=csp", "attack=prune", status="failed")
    watch.looked = time.monotonic() - 6
    expected = "cells 2/2 (1 failed) · stages 3/14, 1 in the making · about 0:22 left"
    assert watch.line() == expected


def runs(launcher: list[str], folder: Path) -> subprocess.Popen:
    lines = ["method=none", "attack=prune,finetune", "scale=smoke", "logger=none"]
    command = [sys.executable, "run.py", "-m", *lines, *launcher, f"output_dir={folder}"]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


LAUNCHERS = {
    "joblib": (["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], "LokyProcess"),
    "submitit": (
        ["hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"],
        "submitit.core._submit",
    ),
}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_killed_worker_of_a_real_launcher_loses_nothing(name, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{name}_launcher")
    launcher, worker = LAUNCHERS[name]
    # All but the suspects is there: what is left takes no time.
    lines = ("method=none", "attack=none", f"output_dir={tmp_path}")
    run_cell(composed(lines), list(lines), print)
    process = runs(launcher, tmp_path)
    killed = False
    while process.poll() is None and not killed:
        # A stage is begun, and torch is still to be imported for it.
        if list(tmp_path.glob("sweeps/*/*/work/tries/*/*")):
            for pid in workers(process.pid, worker):
                os.kill(pid, signal.SIGKILL)
                killed = True
                break
        time.sleep(0.05)
    stdout, stderr = process.communicate(timeout=300)
    assert killed, stderr
    assert process.returncode == 0, stderr
    assert "a worker was lost" in stderr
    assert stdout.count("│ none") == 2
    made = [line.split()[2] for line in stderr.splitlines() if line.startswith("made ")]
    assert len(made) == len(set(made))


def workers(parent: int, word: str) -> list[int]:
    """The processes below ``parent`` that run ``word``."""
    listed = subprocess.run(
        ["ps", "-eww", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    )
    lines = [line.split(None, 2) for line in listed.stdout.splitlines()]
    above = {int(pid): int(ppid) for pid, ppid, *_ in lines}

    def below(pid: int) -> bool:
        while pid > 1:
            if pid == parent:
                return True
            pid = above.get(pid, 0)
        return False

    return [int(pid) for pid, _, *args in lines if args and word in args[0] and below(int(pid))]


def test_a_launcher_that_is_not_installed_names_the_extra(tmp_path, monkeypatch):
    made = subprocess.run(
        [sys.executable, "run.py", "-m", "hydra/launcher=rayy", f"output_dir={tmp_path}"],
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode == 1
    assert "Traceback" not in made.stderr
