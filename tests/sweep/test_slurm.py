"""The jobs of a sweep, by what a squeue of ours tells; tests/cluster asks a real one."""

from pathlib import Path

import pytest

from helpers.sweeps import work_folder
from softmark.errors import InputError
from softmark.sweep import slurm, slurm_commands
from softmark.sweep.progress import SweepProgress
from softmark.sweep.slurm import Slurm
from softmark.sweep.slurm_commands import keys_of, max_array_size
from softmark.sweep.work_folder import WorkFolder, starter

pytest.importorskip("submitit")
STAGES = {str(number): [] for number in range(3)}


class Cluster:
    """Hydra's launcher and SLURM's commands at once: ``act`` moves its jobs at each look."""

    def __init__(self, folder: WorkFolder):
        self.folder = folder
        self.params = {
            "name": "softmark",
            "submitit_folder": str(folder.path / ".submitit/%j"),
            "array_parallelism": 2,
            "timeout_min": 60,
        }
        self.jobs: dict[str, list[str]] = {}  # state, reason, node
        self.cancelled: list[str] = []
        self.looks = 0
        self.refusal = ""

    def launch(self, jobs, initial_job_idx):
        if self.refusal:
            raise RuntimeError(self.refusal)
        for number in range(initial_job_idx, initial_job_idx + len(jobs)):
            self.jobs[f"1_{number}"] = ["PENDING", "Priority", ""]

    def act(self):
        """Move the jobs; a test's own."""

    def run(self, *command):
        if command[0] == "squeue":
            self.looks += 1
            assert self.looks < 100
            self.act()
            return [f"{name}|{'|'.join(job)}" for name, job in self.jobs.items()]
        if command[0] == "scancel":
            self.cancelled += command[2:]
        return ["MaxArraySize            = 1001"]

    def begin(self, job: str, stage: str) -> Path:
        """Let ``job`` run, and begin ``stage``."""
        self.jobs[job] = ["RUNNING", "None", "node1"]
        (self.folder.path / f"logs/{job}-node1-77").touch()
        return self.folder.begin(stage, f"{job}-node1-77")

    def make(self, *stages: str) -> None:
        for stage in stages:
            path = Path(self.folder.items[stage].folder)
            path.mkdir(parents=True, exist_ok=True)
            (path / "stage.json").write_text("{}")

    def sweep(self) -> Slurm:
        """Run the sweep to its end."""
        jobs = Slurm(self, self.folder, None, SweepProgress([], {}))
        with starter(self.folder) as lock:
            jobs.run(lock)
        return jobs


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    made = Cluster(work_folder(tmp_path, STAGES, {}))
    monkeypatch.setattr(slurm_commands, "run", made.run)
    monkeypatch.setattr(slurm, "POLL", 0)
    return made


def test_as_many_jobs_as_the_launcher_allows_and_the_idle_are_cancelled(cluster):
    cluster.act = lambda: cluster.looks == 4 and cluster.make(*STAGES)
    cluster.sweep()
    assert list(cluster.jobs) == cluster.cancelled == ["1_0", "1_1"]


def test_a_lost_job_is_replaced_by_one_and_counts_against_its_stage(cluster, capsys):
    def act():
        if cluster.looks == 3:
            cluster.begin("1_0", "0")
        elif cluster.looks == 4:
            cluster.jobs["1_0"] = ["OUT_OF_MEMORY", "None", "node1"]
        elif cluster.looks == 6:
            cluster.make(*STAGES)

    cluster.act = act
    cluster.sweep()
    assert list(cluster.jobs) == ["1_0", "1_1", "1_2"]
    assert len(cluster.folder.lost("0")) == 1
    told = capsys.readouterr().err
    assert "job 1_0 (node1) ended as OUT_OF_MEMORY (hydra.launcher.mem_gb); its log: " in told


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "PENDING"])
def test_what_no_stage_brings_about_counts_against_none(state, cluster):
    def act():
        if cluster.looks == 3:
            cluster.begin("1_0", "0")
        elif cluster.looks == 4:
            cluster.jobs["1_0"] = [state, "BeginTime", "node1"]
        elif cluster.looks == 6:
            cluster.make(*STAGES)

    cluster.act = act
    cluster.sweep()
    assert cluster.folder.lost("0") == []
    # A job that SLURM queues again is still there.
    assert len(cluster.jobs) == (2 if state == "PENDING" else 3)


def test_jobs_that_begin_nothing_are_not_started_for_ever(cluster):
    def act():
        for job in cluster.jobs.values():
            job[0] = "FAILED" if cluster.looks % 2 else job[0]

    cluster.act = act
    with pytest.raises(InputError, match="end before they have begun anything"):
        cluster.sweep()
    assert 3 <= len(cluster.jobs) <= 4


def test_jobs_that_somebody_cancels_are_not_replaced(cluster):
    def act():
        if cluster.looks == 3:
            for job in cluster.jobs.values():
                job[0] = "CANCELLED"

    cluster.act = act
    with pytest.raises(InputError, match="were cancelled"):
        cluster.sweep()
    assert len(cluster.jobs) == 2


def test_a_wait_is_explained_once_with_the_key(cluster, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "TOO_LONG", -1)

    def act():
        for job in cluster.jobs.values():
            job[1] = "PartitionTimeLimit"
        if cluster.looks == 6:
            cluster.make(*STAGES)

    cluster.act = act
    jobs = cluster.sweep()
    told = capsys.readouterr().err
    line = "2 jobs wait: SLURM's reason is PartitionTimeLimit (hydra.launcher.timeout_min=60)"
    assert told.count(line) == 1
    assert jobs.progress.note == "0 jobs run, 2 wait (PartitionTimeLimit)"


def test_a_refusal_says_what_sbatch_said(cluster):
    cluster.refusal = "Traceback\nsbatch: error: Memory specification can not be satisfied\n"
    with pytest.raises(InputError, match=r"can not be satisfied \(hydra\.launcher\.mem_gb\); logs"):
        cluster.sweep()


def test_a_queue_that_never_answers_is_not_waited_for_for_ever(cluster, monkeypatch):
    monkeypatch.setattr(slurm_commands, "run", lambda *command: None)
    monkeypatch.setattr(slurm, "SILENCE", -1)
    with pytest.raises(InputError, match="squeue has failed"):
        cluster.sweep()


def test_what_a_worker_refuses_ends_the_sweep_and_its_jobs(cluster):
    def act():
        if cluster.looks == 3:
            (cluster.folder.path / "refused").write_text('"no locks on node2"')

    cluster.act = act
    with pytest.raises(InputError, match="no locks on node2"):
        cluster.sweep()
    assert cluster.cancelled == ["1_0", "1_1"]


def test_the_size_of_an_array_is_asked(cluster, monkeypatch):
    assert max_array_size() == 1001
    monkeypatch.setattr(slurm_commands, "run", lambda *command: None)
    assert max_array_size() == 1000


@pytest.mark.parametrize(
    ("sentence", "params", "said"),
    [
        ("Invalid account or account/partition combination", {}, " (hydra.launcher.account)"),
        ("Requested time limit is invalid", {"timeout_min": 9}, " (hydra.launcher.timeout_min=9)"),
        (
            "Requested node configuration is not available",
            {"mem_gb": 500, "cpus_per_task": 2, "gres": None},
            " (hydra.launcher.mem_gb=500, hydra.launcher.cpus_per_task=2)",
        ),
        ("Unable to contact slurm controller", {}, ""),
    ],
)
def test_a_sentence_names_the_settings_that_it_is_about(sentence, params, said):
    assert keys_of(sentence, params) == said
