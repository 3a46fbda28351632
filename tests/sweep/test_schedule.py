"""How a sweep shares out its work: waves, lost workers, the live line."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir

from helpers import ROOT
from helpers.cells import composed
from softmark.errors import InputError
from softmark.experiment.plan import plan
from softmark.experiment.run import make_only, run_cell
from softmark.sweep.command_line import expand_sweep
from softmark.sweep.progress import LiveLine, file_stamp
from softmark.sweep.schedule import Sweep, Task, launch, num_joblib_jobs

LINES = ["method=usp,csp", "attack=finetune,prune", "seed=0,1", "scale=smoke", "logger=none"]


def swept(*lines: str) -> Sweep:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return Sweep(expand_sweep(list(lines)))


def names(task: Task) -> list[str]:
    (only,) = [line for line in task.job if line.startswith("only=")]
    return only.removeprefix("only=[").removesuffix("]").split(",")


def test_each_shared_stage_is_made_once_and_after_its_parents(tmp_path):
    found = swept(*LINES, f"output_dir={tmp_path}")
    waves = [[name for task in wave for name in names(task)] for wave in found.waves(None)]
    made = [name for wave in waves for name in wave]
    assert len(made) == len(set(made))
    roles = [sorted(name.split("/")[0] for name in wave) for wave in waves]
    assert roles == [
        ["innocent"] * 4 + ["victim"] * 2,
        ["control"] * 2 + ["watermarked"] * 4,
        ["key"] * 4,
        ["evidence"] * 4,
    ]
    place = {name.split("/")[-1]: level for level, wave in enumerate(waves) for name in wave}
    for stage, _ in found.missing.values():
        for parent in stage.parents:
            if stage.address in place:
                assert place[parent.address] < place[stage.address]
    # A suspect is one cell's own: no job for it.
    assert len(found.missing) == 6 + 6 + 4 + 4 + 8
    assert len(found.tasks) == 8


@pytest.mark.parametrize("jobs", [1, 2, 3, 100])
def test_jobs_share_a_wave_evenly(jobs, tmp_path):
    first = swept(*LINES, f"output_dir={tmp_path}").waves(jobs)[0]
    sizes = [len(names(task)) for task in first]
    assert sum(sizes) == 6
    assert max(sizes) <= -(-6 // jobs)


def test_joblibs_workers_get_a_few_jobs_of_a_wave_each():
    cores = os.cpu_count()
    for given, jobs in ((2, 8), (-1, 4 * cores), (None, None)):
        assert num_joblib_jobs(SimpleNamespace(joblib={"n_jobs": given})) == jobs
    assert num_joblib_jobs(SimpleNamespace()) is None


def test_one_cell_shares_out_all_its_stages(tmp_path):
    found = swept("method=usp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
    assert [len(wave) for wave in found.waves(None)] == [5, 2, 2, 1]


def test_what_is_done_is_not_planned_again(archived, tmp_path):
    archived("method=usp", "attack=prune")
    archived("method=csp", "attack=prune", status="failed", reason="no")
    found = swept("method=usp,csp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
    assert found.num_done == 1
    assert [task.job[0] for task in found.tasks] == ["method=csp"]


def test_a_stage_job_makes_what_it_is_told_and_nothing_more(cell, tmp_path):
    config = cell("method=none", "attack=prune", f"output_dir={tmp_path}")
    draft, lines = plan(config), []
    make_only(config, [f"suspect/{draft.suspect.address}"], lines.append)
    assert lines == []  # its parents are missing: a wave before has failed
    make_only(config, [f"victim/{draft.victim.address}"], lines.append)
    assert [line.split()[1] for line in lines] == ["victim"]
    with pytest.raises(InputError, match="no such stage"):
        make_only(config, ["victim/0123"], lines.append)


class Launcher:
    """Does the tasks' work by ``hand(job)``, which may raise, as a killed worker does."""

    def __init__(self, hand):
        self.hand, self.numbers = hand, []

    def launch(self, jobs, initial_job_idx):
        self.numbers.append(initial_job_idx)
        for job in jobs:
            self.hand(job)


def test_a_lost_worker_costs_no_other_job(tmp_path):
    tasks = [Task([str(number)], tmp_path / str(number)) for number in range(6)]
    lives = {"2": 1}  # the job that kills its worker, once

    def hand(job):
        if lives.get(job[0], 0):
            lives[job[0]] -= 1
            raise RuntimeError("worker gone")
        (tmp_path / job[0]).write_text("done")

    launcher = Launcher(hand)
    assert launch(launcher, tasks, 10) == 10 + 6 + 4
    assert launcher.numbers == [10, 16]
    assert all(task.result.exists() for task in tasks)


def test_a_job_that_always_kills_its_worker_is_given_up_and_alone(tmp_path, capsys):
    tasks = [Task([str(number)], tmp_path / str(number)) for number in range(6)]

    def hand(job):
        if job == ["2"]:
            raise RuntimeError("worker gone")
        (tmp_path / job[0]).write_text("done")

    launch(Launcher(hand), tasks, 0)
    assert [task.job for task in tasks if not task.result.exists()] == [["2"]]
    assert "a worker was lost" in capsys.readouterr().err


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
    watch.started = time.monotonic() - 6
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
    # All but the suspects is there: each wave of a launcher starts Python anew.
    lines = ("method=none", "attack=none", f"output_dir={tmp_path}")
    run_cell(composed(lines), list(lines), print)
    process = runs(launcher, tmp_path)
    killed = False
    while process.poll() is None and not killed:
        if list(tmp_path.glob("store/*/*.making")):
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
