"""Sweeps on a real Ray that runs already, in another working folder."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import ROOT

pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="pip install -e '.[ray]'")
COMMAND = (
    "import softmark.sweep.ray_cluster as ray_cluster\n"
    "ray_cluster.WAIT = 1\n"
    "from softmark.cli import main\n"
    "main()\n"
)
ENVIRONMENT = {"PYTHONPATH": str(ROOT / "src"), "RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """A Ray of one node and two cores, whose own working folder is no sweep's."""
    port = 20000 + os.getpid() % 20000
    folder = tmp_path_factory.mktemp("raylet")
    ray = Path(sys.executable).with_name("ray")
    words = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    log = (folder / "log").open("w")
    # Its processes end with it.
    head = subprocess.Popen(
        [ray, "start", *words], cwd=folder, env={**os.environ, **ENVIRONMENT}, stdout=log
    )
    end = time.monotonic() + 100
    while "Ray runtime started" not in (folder / "log").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    head.terminate()
    head.wait(timeout=60)


def start(folder: Path, *lines: str, **environment: str) -> subprocess.Popen:
    words = ["-m", *lines, "scale=smoke", "logger=none", "hydra/launcher=ray"]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_worker_of_a_running_ray_loses_nothing(address, tmp_path):
    sweep = start(tmp_path, "method=usp", "attack=none,prune", RAY_ADDRESS=address)
    killed = None
    while not killed:
        assert sweep.poll() is None, sweep.communicate()[1]
        for unfinished in tmp_path.glob("outputs/store/watermarked/*.making"):
            for note in tmp_path.glob(f"outputs/sweeps/*/*/work/tries/{unfinished.stem}/*"):
                killed = int(note.name.rpartition("-")[2])
        time.sleep(0.05)
    os.kill(killed, signal.SIGKILL)
    _, stderr = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, stderr
    made = [line.split()[2] for line in stderr.splitlines() if line.startswith("made ")]
    stored = list(tmp_path.glob("outputs/store/*/*/stage.json"))
    assert len(made) == len(set(made)) == len(stored) > 10
    records = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/records/*.json")]
    assert [record["status"] for record in records] == ["done", "done"]


def test_what_no_node_has_is_refused(address, tmp_path):
    sweep = start(
        tmp_path,
        "method=none",
        "attack=none",
        f"hydra.launcher.ray.init.address={address}",
        "+hydra.launcher.ray.remote.num_gpus=1",
    )
    _, stderr = sweep.communicate(timeout=200)
    assert sweep.returncode == 1
    assert "hydra.launcher.ray.remote asks for GPU: no node" in stderr.splitlines()[-1]
