"""Sweeps on a real SLURM: one submission, lost jobs, refusals, Ctrl-C, without accounting."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import ROOT

pytestmark = pytest.mark.usefixtures("slurm")
# A minute is too long for a test.
COMMAND = (
    "import softmark.sweep.slurm as slurm\n"
    "slurm.TOO_LONG = 1\n"
    "from softmark.cli import main\n"
    "main()\n"
)
# Marks that take seconds: what is killed must still be in the making.
SWEEP = ("method=usp,csp", "attack=none", "trainer.threads=1", "method.epochs_factor=40")
SMALL = ("method=none", "attack=none")
VOLATILE = {"seconds", "stage_seconds", "date", "path"}


class Sweep:
    """A sweep that runs in ``folder``, with the relative output_dir that is the default."""

    def __init__(self, folder: Path, *lines: str):
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log = folder / f"{len(list(folder.iterdir()))}.log"
        with self.log.open("w") as stderr, (folder / "table").open("w") as stdout:
            self.process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, "-m", *lines, "scale=smoke", "logger=none"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
                stdout=stdout,
                stderr=stderr,
                # As at a terminal: what a shell starts in the background ignores Ctrl-C.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    @property
    def told(self) -> str:
        return self.log.read_text()

    def wait_for(self, happens: Callable[[], object]) -> object:
        """What ``happens`` returns as soon as it is true, while the sweep runs."""
        end = time.monotonic() + 200
        while not (found := happens()):
            assert self.process.poll() is None, self.told
            assert time.monotonic() < end, self.told
            time.sleep(0.05)
        return found

    def end(self) -> int:
        return self.process.wait(timeout=200)

    def records(self) -> dict:
        paths = (self.folder / "outputs/records").glob("*.json")
        records = {path.stem: json.loads(path.read_text()) for path in paths}
        return {
            address: {name: value for name, value in record.items() if name not in VOLATILE}
            for address, record in records.items()
        }

    def job_at(self, role: str, but: str = "") -> str:
        """The job that makes a stage of ``role`` now, but for the job ``but``; empty for none."""
        for unfinished in (self.folder / "outputs/store").glob(f"{role}/*.making"):
            for note in self.folder.glob(f"outputs/sweeps/*/*/work/tries/{unfinished.stem}/*"):
                if (job := note.name.partition("-")[0]) != but:
                    return job
        return ""


def queue(*words: str) -> list[str]:
    words = ("squeue", "--noheader", "--array", "--format=%i", *words)
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def control(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


LAUNCHER = "hydra/launcher=submitit_slurm"


def test_a_lost_job_costs_one_and_the_records_are_those_of_a_plain_run(tmp_path):
    sweep = Sweep(tmp_path / "slurm", *SWEEP, LAUNCHER)
    killed = sweep.wait_for(lambda: sweep.job_at("watermarked"))
    control("scancel", "--signal=KILL", killed)
    # The signal that SLURM sends two minutes before a job's end.
    timed = sweep.wait_for(lambda: sweep.job_at("watermarked", but=killed))
    control("scancel", "--signal=USR2", timed)
    assert sweep.end() == 0, sweep.told
    told = sweep.told.splitlines()
    ended = [line.split()[1] for line in told if line.startswith("job ") and "ended as" in line]
    assert ended == [killed], told
    # As many at once as an array may have; then one for each that ended too soon.
    assert "4 jobs of softmark-" in sweep.told
    assert len(queue("--states=all")) <= 4 + 2
    made = [line.split()[2] for line in told if line.startswith("made ")]
    assert (
        len(made)
        == len(set(made))
        == len(list(tmp_path.glob("slurm/outputs/store/*/*/stage.json")))
    )
    plain = Sweep(tmp_path / "plain", *SWEEP)
    assert plain.end() == 0, plain.told
    assert sweep.records() == plain.records() != {}


def test_a_refusal_ends_at_once_with_slurms_sentence(tmp_path):
    sweep = Sweep(tmp_path, *SMALL, LAUNCHER, "hydra.launcher.partition=fast")
    assert sweep.end() == 1
    line = sweep.told.splitlines()[-1]
    assert "Invalid partition name specified (hydra.launcher.partition=fast)" in line
    assert str(tmp_path / "outputs/sweeps") in line
    assert sweep.told.count("submitted") == 0


@pytest.fixture
def drained():
    """Nodes that take no job."""
    control("scontrol", "update", "nodename=node[1-3]", "state=drain", "reason=test")
    yield
    with contextlib.suppress(subprocess.CalledProcessError):
        control("scontrol", "update", "nodename=node[1-3]", "state=resume")


def test_jobs_that_wait_are_explained_joined_and_cancelled(drained, tmp_path):
    sweep = Sweep(tmp_path, *SMALL, LAUNCHER)
    sweep.wait_for(lambda: "4 jobs wait: SLURM's reason is" in sweep.told)
    assert len(queue()) == 4
    again = Sweep(tmp_path, *SMALL, LAUNCHER)
    again.wait_for(lambda: "4 jobs of this sweep are there already" in again.told)
    again.process.send_signal(signal.SIGINT)
    assert again.end() == 1
    assert len(queue()) == 4
    # Twice, as the impatient do.
    sweep.process.send_signal(signal.SIGINT)
    sweep.wait_for(lambda: time.sleep(0.2) or True)
    sweep.process.send_signal(signal.SIGINT)
    assert sweep.end() == 1
    assert "cancelled 4 jobs" in sweep.told
    assert "Traceback" not in sweep.told
    assert queue() == []
