"""Workers started by a launcher: launched again when one is lost, refused at once, shown."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.core.utils import JobReturn, JobStatus

from helpers.sweeps import work_folder
from softmark.errors import InputError
from softmark.sweep import ray_cluster
from softmark.sweep.launch import Logs, launch, num_workers, shown
from softmark.sweep.ray_cluster import connect, num_ray_workers

STAGES = {str(number): [] for number in range(6)}


class Launcher:
    """Lets one worker do all stages in order; ``hand(stage)`` may raise, as a killed one does."""

    def __init__(self, folder, hand=lambda stage: None):
        self.folder, self.hand, self.launched = folder, hand, []

    def launch(self, jobs, initial_job_idx):
        self.launched.append((initial_job_idx, len(jobs)))
        (self.folder.path / "logs/worker").touch()
        for address, item in self.folder.items.items():
            if not self.folder.finished(address):
                self.hand(address)
                path = Path(item.folder)
                path.mkdir(parents=True)
                (path / "stage.json").write_text("{}")


@pytest.fixture
def folder(tmp_path):
    return work_folder(tmp_path, STAGES, {})


def test_a_lost_worker_costs_one_launch(folder, capsys):
    lives = {"2": 1}

    def hand(stage):
        if lives.pop(stage, 0):
            raise RuntimeError("worker gone")

    launcher = Launcher(folder, hand)
    launch(launcher, folder, 3)
    assert launcher.launched == [(0, 3), (3, 3)]
    assert all(map(folder.finished, STAGES))
    told = capsys.readouterr().err
    assert "a worker was lost (RuntimeError: worker gone)" in told
    assert "4 stages and cells are left" in told


def test_two_launches_in_a_row_that_get_nothing_done_are_the_last(folder):
    def hand(stage):
        if stage == "2":
            raise RuntimeError("worker gone")

    launcher = Launcher(folder, hand)
    launch(launcher, folder, 8)
    # The second of them, and one after it: the first had made two stages.
    assert launcher.launched == [(0, 6), (6, 4), (10, 4)]


def test_a_launcher_that_starts_no_worker_is_not_asked_again(folder):
    class Refusing:
        asked = 0

        def launch(self, jobs, initial_job_idx):
            self.asked += 1
            raise ValueError("n_jobs == 0 has no meaning")

    with pytest.raises(InputError, match="n_jobs == 0 has no meaning"):
        launch(launcher := Refusing(), folder, 2)
    assert launcher.asked == 1


def test_what_a_worker_refuses_ends_the_sweep(folder):
    class Returning:
        def launch(self, jobs, initial_job_idx):
            (folder.path / "refused").write_text('"flock holds on no machine"')
            failed = JobReturn(status=JobStatus.FAILED)
            failed.return_value = InputError("of one worker")
            return [failed]

    with pytest.raises(InputError, match="flock holds on no machine"):
        launch(Returning(), folder, 1)


def test_the_launchers_own_number_counts(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    for number, workers in ((2, 2), (-1, 4), (-2, 3), (None, 4)):
        assert num_workers(SimpleNamespace(joblib={"n_jobs": number})) == workers
    assert num_workers(SimpleNamespace()) == 4


def test_whole_lines_of_workers_are_shown_once(folder, capsys):
    logs = Logs(folder.path / "logs")
    first = folder.path / "logs/1"
    first.write_text("made victim\nmade inn")
    logs.show()
    with first.open("a") as file:
        file.write("ocent\n")
    (folder.path / "logs/2").write_text("judged\n")
    logs.show()
    logs.show()
    assert capsys.readouterr().err == "made victim\nmade innocent\njudged\n"


def test_the_last_line_is_shown_and_the_starter_counts(folder, capsys, monkeypatch):
    monkeypatch.setattr("softmark.sweep.launch.BEAT", 0.001)
    with shown(folder) as lock:
        assert lock.is_locked
        while not folder.beat():
            time.sleep(0.001)
        (folder.path / "logs/1").write_text("judged\n")
    assert capsys.readouterr().err == "judged\n"
    assert not lock.is_locked


def test_a_job_is_told_absolute_paths(folder, monkeypatch):
    assert folder.job() == [
        f"worker='{folder.path}'",
        f"hydra.sweep.dir='{folder.path}/jobs'",
    ]


@pytest.fixture
def cluster(monkeypatch):
    """A Ray of two nodes, one of them dead."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0, "memory": 1e9}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "TPU": 1.0}},
    ]
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(nodes=lambda: nodes))
    monkeypatch.setattr(ray_cluster, "WAIT", 0)
    return nodes


def test_ray_has_as_many_workers_as_room(cluster):
    assert num_ray_workers({}) == 11
    assert num_ray_workers({"num_cpus": 2}) == 5
    assert num_ray_workers({"num_gpus": 0.5}) == 2
    with pytest.raises(InputError, match="asks for TPU: no node"):
        num_ray_workers({"resources": {"TPU": 1}})
    # Each node has one of them, none has both.
    with pytest.raises(InputError, match="asks for CPU, GPU: no node"):
        num_ray_workers({"num_cpus": 5, "num_gpus": 2} | {"num_cpus": 9, "num_gpus": 1.5})


@pytest.mark.parametrize(
    ("address", "environment", "size"),
    [("auto", None, None), (None, "127.0.0.1:6379", None), (None, None, 78643200)],
)
def test_a_running_ray_is_not_told_the_size_of_its_store(address, environment, size, monkeypatch):
    started = []
    core = SimpleNamespace(start_ray=started.append)
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_ray_launcher", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "hydra_plugins.hydra_ray_launcher._core", core)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    connect(SimpleNamespace(init={"address": address}))
    assert started == [{"address": address, "object_store_memory": size, "log_to_driver": False}]

    def refuse(init):
        raise ConnectionError("no cluster there")

    core.start_ray = refuse
    with pytest.raises(InputError, match="Ray says: no cluster there"):
        connect(SimpleNamespace(init={"address": address}))
