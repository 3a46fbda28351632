"""A worker of a sweep: it takes what nobody else has taken, once, and gives up what kills."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from helpers.sweeps import work_folder
from softmark.errors import InputError
from softmark.settings import configs
from softmark.sweep import job
from softmark.sweep.command_line import expand_sweep
from softmark.sweep.job import Worker, ending_with_starter
from softmark.sweep.schedule import Sweep
from softmark.sweep.work_folder import WorkFolder, starter

PARENTS = {"victim": [], "marked": ["victim"], "innocent": [], "suspect": ["marked"]}
CELLS = {"first": ["marked", "innocent"], "second": ["suspect", "innocent"]}


class Sham(Worker):
    """Makes a stage by its ``stage.json``; notes the cells with the reasons given for them."""

    def __init__(self, folder: WorkFolder, name: str = "worker"):
        super().__init__(folder, name, print)
        self.did: list[str] = []
        self.reasons: dict[int, str | None] = {}

    def do(self, address: str) -> None:
        """Do more than note it; a test's own."""

    def _make(self, address, item):
        self.did.append(address)
        self.do(address)
        if not self.folder.finished(address):
            path = Path(item.folder)
            path.mkdir(parents=True)
            (path / "stage.json").write_text("{}")

    def _judge(self, item, reason):
        (place,) = item.cells
        self.did.append(self.folder.cells[place][0])
        self.reasons[place] = reason


@pytest.fixture
def folder(tmp_path):
    return work_folder(tmp_path, PARENTS, CELLS)


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(job, "POLL", (0.001, 0.01))


def test_one_worker_does_all_in_order(folder):
    worker = Sham(folder)
    worker.run()
    assert worker.did == ["victim", "marked", "innocent", "suspect", "first", "second"]
    assert worker.reasons == {0: None, 1: None}
    assert folder.num_lost() == 0


def test_several_workers_do_each_thing_once(tmp_path):
    parents = {str(n): [str(m) for m in range(max(0, n - 3), n)] for n in range(12)}
    folder = work_folder(tmp_path, parents, {f"cell {n}": [str(n)] for n in range(12)})
    workers = [Sham(folder, f"worker {n}") for n in range(4)]
    threads = [threading.Thread(target=worker.run) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(address for worker in workers for address in worker.did) == sorted(folder.items)


def test_what_fails_is_tried_once_and_each_cell_says_why(folder):
    worker = Sham(folder)
    fails = {"marked": "too bad"}
    worker.do = lambda address: address in fails and folder.note_failed(address, fails[address])
    worker.run()
    assert worker.did == ["victim", "marked", "innocent", "first", "second"]
    assert worker.reasons == {0: "too bad", 1: "too bad"}


def test_what_three_workers_were_lost_with_is_given_up(folder):
    folder.begin("marked", "1_0-node1-77")
    folder.begin("marked", "1_3-node1-80")
    folder.begin("first", "1_1-node2-78")
    once = Sham(folder)
    once._take("victim")
    once._take("marked")
    assert once.did == [
        "victim",
        "marked",
    ]  # one may have had a bad node, and the other have ended with it
    folder.begin("suspect", "1_0-node1-77")
    folder.begin("suspect", "1_2-node3-79")
    folder.begin("suspect", "1_4-node4-81")
    worker = Sham(folder)
    worker.run()
    assert worker.did == ["innocent", "first", "second"]
    assert worker.reasons == {
        0: None,
        1: "3 workers were lost while they made it: 1_0-node1-77, 1_2-node3-79, 1_4-node4-81",
    }


def test_what_a_dead_worker_had_taken_is_taken_over(folder):
    lock = folder.lock("victim")
    lock.acquire()
    worker = Sham(folder)
    assert worker._take_one()
    assert worker.did == ["innocent"]
    assert not worker._take_one()
    lock.release()
    worker.run()
    assert worker.did[:2] == ["innocent", "victim"]


def test_a_stage_that_another_sweep_makes_is_waited_for(folder, monkeypatch):
    worker = Sham(folder)

    def make(address):
        if worker.did.count(address) == 1:
            raise job.Timeout("held")

    worker.do = make
    worker.run()
    assert folder.num_lost() == 0
    assert sorted(set(worker.did)) == sorted(folder.items)


def test_a_job_of_slurms_without_work_gives_its_node_back(folder, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(job, "PATIENCE", 0.02)
    with folder.lock("victim"), folder.lock("innocent"):
        worker = Sham(folder)
        worker.run()
    assert worker.did == []


@pytest.fixture
def timed(monkeypatch):
    """A job of submitit's, whose time limit a test sends by itself."""
    pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(
        job.HydraConfig, "get", lambda: type("Config", (), {"launcher": {"timeout_min": 60}})
    )
    return lambda: os.kill(os.getpid(), signal.SIGUSR2)


def test_a_stage_that_needs_longer_than_its_job_says_so(folder, timed):
    worker = Sham(folder)
    worker.do = lambda address: timed()
    worker.run()
    assert worker.did == ["victim"]
    assert folder.num_lost() == 0
    after = Sham(folder)
    after.run()
    assert after.did == ["innocent", "first", "second"]
    assert "raise hydra.launcher.timeout_min=60" in after.reasons[0]


def test_a_stage_that_had_the_rest_of_a_job_is_tried_in_another(folder, timed, capsys):
    worker = Sham(folder)
    worker.do = lambda address: address == "marked" and timed()
    worker.run()
    assert worker.did == ["victim", "marked"]
    assert "another job goes on" in capsys.readouterr().err
    after = Sham(folder)
    after.run()
    assert after.reasons == {0: None, 1: None}


def test_a_lock_that_another_machine_holds_must_hold_here(folder, monkeypatch):
    monkeypatch.setattr("softmark.sweep.work_folder.BEAT", 0.02)
    beats = iter(["1", "2"])
    monkeypatch.setattr(folder, "beat", lambda: next(beats))
    with starter(folder):
        folder.check_locks()
    with pytest.raises(InputError, match="flock holds on all machines"):
        folder.check_locks()
    assert "flock" in folder.refusal()
    monkeypatch.setattr(folder, "beat", lambda: "3")
    folder.check_locks()  # whoever started it is gone


def test_a_machine_without_the_folder_says_what_must_be_shared(tmp_path):
    with pytest.raises(InputError, match="a folder that all machines share"):
        WorkFolder(tmp_path / "elsewhere")
    (tmp_path / "plan.json").write_text('{"directory": 1}')
    with pytest.raises(InputError, match="no plan of a sweep"):
        WorkFolder(tmp_path)


def test_a_worker_of_another_version_is_told(tmp_path):
    lines = ["method=none", "attack=none", "scale=smoke", "logger=none", f"output_dir={tmp_path}"]
    with configs():
        found = Sweep(expand_sweep(lines))
        folder = WorkFolder.create(tmp_path / "work", found.cells, found.items(), str(tmp_path))
        worker = Worker(folder, "worker", print)
        config = worker._config_for(folder.items[found.plans[0].victim.address])
        assert worker._stage(found.plans[0].victim.address, config).role == "victim"
        with pytest.raises(InputError, match="must have the softmark, torch"):
            worker._stage("0123456789abcdef", config)


def test_one_cell_with_wrong_numbers_keeps_no_other_from_its_stages(tmp_path):
    lines = ["method=none", "attack=prune", "attack.sparsity=2,0.5", "scale=smoke", "logger=none"]
    with configs():
        found = Sweep(expand_sweep([*lines, f"output_dir={tmp_path}"]))
        folder = WorkFolder.create(tmp_path / "work", found.cells, found.items(), str(tmp_path))
        worker = Worker(folder, "worker", print)
        victim = folder.items[found.plans[0].victim.address]
        assert victim.cells == (0, 1)
        assert worker._config_for(victim)["attack"]["sparsity"] == 0.5
        suspect = folder.items[found.plans[0].suspect.address]
        with pytest.raises(InputError, match=r"attack\.sparsity=2"):
            worker._config_for(suspect)


def test_a_worker_ends_with_the_process_that_started_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr("softmark.sweep.job.BEAT", 0.02)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    folder = WorkFolder.create(tmp_path / "work", [], {}, str(tmp_path))
    begin, end = os.pipe()
    worker = os.fork()  # before the lock is held: a copy would hold it as well
    if not worker:
        os.read(begin, 1)
        with ending_with_starter(folder):
            time.sleep(60)
        os._exit(0)
    with starter(folder):
        os.write(end, b"x")
        time.sleep(0.3)
        assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 1


def test_a_worker_outlives_its_work(tmp_path, monkeypatch):
    """That of joblib waits for more, and SLURM's goes on whoever is gone."""
    monkeypatch.setattr("softmark.sweep.job.BEAT", 0.02)
    folder = WorkFolder.create(tmp_path / "work", [], {}, str(tmp_path))
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with ending_with_starter(folder):
        time.sleep(0.1)
    monkeypatch.delenv("SLURM_JOB_ID")
    with starter(folder), ending_with_starter(folder):
        time.sleep(0.1)
    time.sleep(0.1)
    assert ended == []
