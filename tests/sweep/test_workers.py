"""Stages made by several processes: in order, as one makes them, even if a worker is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from helpers import ROOT
from softmark.errors import InputError
from softmark.experiment import stages as makers
from softmark.experiment.plan import decode_data, plan
from softmark.experiment.run import missing_stages, run_cell
from softmark.models.files import read_tensors
from softmark.store.store import Store
from softmark.sweep.workers import make_cell, make_stages

LINES = ("method=csp", "attack=distill", "trainer.workers=2")


def silent(line: str) -> None:
    pass


@pytest.fixture
def one_process(cell, tmp_path_factory):
    """A cell that one process has made: its plan and its store."""
    config = {**cell(*LINES), "output_dir": str(tmp_path_factory.mktemp("one"))}
    run_cell(config, [], silent)
    return plan(config), Store.under(config["output_dir"])


def test_two_workers_make_what_one_process_makes(one_process, cell, tmp_path):
    config = {**cell(*LINES), "output_dir": str(tmp_path)}
    record = run_cell(config, [], silent, make_cell)
    assert record["status"] == "done"
    assert record["made"] == len(list(tmp_path.glob("store/*/*/stage.json")))
    planned, store = one_process
    for stage in planned.verdict.parents:
        folder = store.folder(stage)
        for path in folder.glob("*.safetensors"):
            here = tmp_path / "store" / path.relative_to(store.root)
            first, second = read_tensors(path)[0], read_tensors(here)[0]
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_stage_that_fails_is_left_to_its_cell(cell, tmp_path, monkeypatch):
    config = {**cell(*LINES), "output_dir": str(tmp_path)}

    class TooBad(InputError):
        """It can't be sent through a pipe: its arguments aren't those of its class."""

        def __init__(self, reason: str, stage: str):
            super().__init__(reason)

    def failing(context):
        raise TooBad("too bad", "embed")

    monkeypatch.setitem(makers.MAKERS, "embed", failing)
    with pytest.raises(InputError, match="too bad"):
        run_cell(config, [], silent, make_cell)
    planned, store = plan(config), Store.under(config["output_dir"])
    # All that doesn't descend from it was made by the workers.
    assert all(store.has(innocent.stage) for innocent in planned.innocents)
    assert not store.has(planned.watermarked)


def test_a_killed_worker_loses_nothing(cell, tmp_path, monkeypatch):
    config = {**cell(*LINES), "output_dir": str(tmp_path)}
    parent, embed, lines = os.getpid(), makers.MAKERS["embed"], []

    def killed(context):
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return embed(context)

    monkeypatch.setitem(makers.MAKERS, "embed", killed)
    assert run_cell(config, [], lines.append, make_cell)["status"] == "done"
    assert "a worker was lost: each cell makes what it misses" in lines


def test_one_worker_makes_nothing_ahead(cell, tmp_path):
    config = {**cell(*LINES), "output_dir": str(tmp_path)}
    decode_data(config)
    planned, store = plan(config), Store.under(config["output_dir"])
    missing = missing_stages(planned, store)
    trainer = {**config["trainer"], "workers": 1}
    make_stages(missing, lambda address: config, trainer, store)
    assert store.made == []
    with pytest.raises(InputError, match=r"trainer\.workers=0: at least 1"):
        make_stages(missing, lambda address: config, {**trainer, "workers": 0}, store)


def test_workers_end_with_the_process_that_started_them(tmp_path):
    command = [
        sys.executable,
        "run.py",
        "trainer.workers=2",
        "logger=none",
        f"output_dir={tmp_path}",
    ]
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(tmp_path.glob("store/*/*.making")):
        assert time.monotonic() < end
        time.sleep(0.05)
    workers = children_of(run.pid)
    assert workers
    run.kill()
    run.wait()
    while any(map(is_alive, workers)):
        assert time.monotonic() < end
        time.sleep(0.05)


def children_of(pid: int) -> list[int]:
    lines = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for line in lines for child in line.read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False
