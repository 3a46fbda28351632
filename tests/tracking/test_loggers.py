"""What a sweep leaves in W&B, read back from its offline runs, and where those go."""

import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import safetensors.torch
import yaml
from omegaconf import OmegaConf
from wandb.util import get_core_path

from helpers import ROOT, processes
from softmark.errors import InputError
from softmark.experiment.plan import plan
from softmark.experiment.run import run_cell
from softmark.models.files import read_tensors
from softmark.store.address import Stage
from softmark.store.store import Store, manifest
from softmark.sweep.command_line import check_arguments
from softmark.tracking import loggers as tracking
from softmark.tracking import wandb_mode as online

SMALL = ["scale=smoke", "recipe.epochs=2", "innocents.calibration=1", "innocents.evaluation=1"]
SWEEP = ["-m", "method=csp", "attack=finetune,prune", *SMALL, "logger=wandb"]


def environment(home: Path, **more: str) -> dict[str, str]:
    """Nobody's: no credentials, no mode, no group."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    return {**kept, "HOME": str(home), **more}


def run(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


@dataclass
class Run:
    """One offline run: what its file says."""

    about: dict
    config: dict
    summary: dict = field(default_factory=dict)
    history: list = field(default_factory=list)
    made: list = field(default_factory=list)
    used: list = field(default_factory=list)
    exit_code: int = 0


def read(file: Path) -> Run:
    # What `wandb leet inspect` calls, without a new Python for each file.
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json"]
    command += ["--run-file", str(file), str(file.parents[1])]
    until, records = time.monotonic() + 30, {}
    # On a busy machine W&B's own process still writes when the run has ended.
    while "exit" not in records and time.monotonic() < until:
        records = defaultdict(list)
        for line in map(json.loads, run(command, dict(os.environ)).stdout.splitlines()):
            records[line["type"]].append(line.get(line["type"]))
    (about,) = records["run"]
    artefacts = records["artifact"]
    return Run(
        about,
        about["config"]["update"],
        {k: v for record in records["summary"] for k, v in record["update"].items()},
        [record["item"] for record in records["history"]],
        [one for one in artefacts if not one.get("use_after_commit")],
        [one for one in artefacts if one.get("use_after_commit")],
        records["exit"][0].get("exit_code", 0),
    )


def read_all(folder: Path) -> dict[str, Run]:
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    with ThreadPoolExecutor(2) as pool:
        return {one.about["run_id"]: one for one in pool.map(read, files)}


VICTIM = Stage("victim", {"seed": 0}, ())


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess, dict[str, Run]]:
    folder = tmp_path_factory.mktemp("tracked")
    home = environment(tmp_path_factory.mktemp("home"))
    result = processes.run("run.py", *SWEEP, f"output_dir={folder}", env=home)
    assert result.returncode == 0, result.stderr
    return folder, result, read_all(folder)


def of(runs: dict[str, Run], job: str) -> list[Run]:
    return [one for one in runs.values() if one.about["job_type"] == job]


def records_of(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]


def test_without_credentials_it_is_offline_says_so_once_and_never_asks(tracked):
    folder, result, _ = tracked
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("W&B")]
    assert line == f"W&B: offline (no credentials); later: wandb sync {folder}/wandb"


def test_each_stage_is_one_run_under_its_address(tracked):
    folder, _, runs = tracked
    made = {path.parent.name: manifest(path.parent) for path in folder.glob("store/*/*/stage.json")}
    verdicts = {record["address"] for record in records_of(folder)}
    (sweep,) = of(runs, "sweep")
    # A key and the innocents' evidence are no models: they have neither a run nor an artefact.
    for role, count in (("key", 1), ("evidence", 1)):
        found = [address for address, stage in made.items() if stage["role"] == role]
        assert len(found) == count
        for address in found:
            del made[address]
    assert set(runs) == {*made, *verdicts, sweep.about["run_id"]}
    jobs = {"watermarked": "watermark", "suspect": "attack"}
    for address, stage in made.items():
        about = runs[address].about
        assert about["job_type"] == jobs.get(stage["role"], stage["role"].split("/")[0])
        assert runs[address].config["address"] == address
        assert runs[address].exit_code == 0
    (group,) = {one.about["run_group"] for one in runs.values()}
    assert re.fullmatch(r"sweep-\d{4}-\d\d-\d\d-[\d-]+", group)
    tags = sorted(tuple(one.about["tags"]) for one in of(runs, "attack"))
    assert tags == [("csp", "finetune", "digits"), ("csp", "prune", "digits")]
    for job in ("victim", "control"):
        (one,) = of(runs, job)
        assert one.about["tags"] == ["digits"]


def test_curves_stand_under_the_name_of_their_training(tracked):
    _, _, runs = tracked
    (watermark,) = of(runs, "watermark")
    keys = {key for line in watermark.history for key in line}
    for name in ("marking", "finetune", "student", "detector", "finetune-2"):
        curve = [line[f"{name}/loss"] for line in watermark.history if f"{name}/loss" in line]
        assert len(curve) > 1, keys
    assert all("classifier/loss" in line for line in of(runs, "victim")[0].history)


def test_artefacts_link_victim_to_watermarked_to_suspect_to_verdict(tracked):
    folder, _, runs = tracked
    made = {one["name"]: one["digest"] for single in runs.values() for one in single.made}
    for single in runs.values():
        for one in single.used:
            assert made[one["name"]] == one["digest"]
    for record in records_of(folder):
        at = record["stages"]
        names = [f"{role}-{at[role]}" for role in ("victim", "watermarked", "suspect")]
        used = [
            {one["name"] for one in runs[address].used}
            for address in (at["watermarked"], at["suspect"], record["address"])
        ]
        assert used == [{names[0]}, {names[1]}, {names[1], names[2]}]
        (model,) = runs[at["suspect"]].made
        (content,) = model["manifest"]["contents"]
        assert content["ref"] == (folder / "store/suspect" / at["suspect"]).as_uri() + (
            "/model.safetensors"
        )
        assert json.loads(model["metadata"])["parents"] == [f"watermarked:{at['watermarked']}"]


def test_no_key_and_no_secret_is_in_any_run(tracked):
    folder, _, runs = tracked
    artefacts = [one for single in runs.values() for one in single.made if one["type"] == "model"]
    assert len(artefacts) == 7
    for one in artefacts:
        assert [content["path"] for content in one["manifest"]["contents"]] == ["model.safetensors"]
    found = [folder.glob(f"store/{role}/*/key.safetensors") for role in ("watermarked", "key")]
    keys = [safetensors.torch.load_file(path) for paths in found for path in paths]
    assert len(keys) == 2
    secrets = [key[name].numpy().tobytes() for key in keys for name in ("secret", "salt")]
    assert all(len(secret) >= 16 for secret in secrets)
    files = [path for path in (folder / "wandb").rglob("*") if path.is_file()]
    whole = b"".join(path.read_bytes() for path in files)
    assert b"watermarked" in whole
    for secret in secrets:
        assert secret not in whole
        assert secret.hex().encode() not in whole
    assert b"key.safetensors" not in whole


def test_a_verdict_is_its_record(tracked):
    folder, _, runs = tracked
    for record in records_of(folder):
        verdict = runs[record["address"]]
        assert verdict.about["job_type"] == "verdict"
        assert verdict.config["attack"] == record["attack"]
        assert verdict.config["cell"]["recipe"]["epochs"] == record["config"]["recipe"]["epochs"]
        for name in ("p_value", "claimed", "watermark_accuracy", "suspect_accuracy", "commitment"):
            assert verdict.summary[name] == record[name]


def test_a_sweep_ends_with_its_table_and_plots(tracked):
    folder, _, runs = tracked
    (sweep,) = of(runs, "sweep")
    (line,) = sweep.history
    (place,) = (folder / "wandb").glob(f"offline-run-*{sweep.about['run_id']}")
    table = json.loads((place / "files" / line["table.path"]).read_text())
    assert [row[:2] for row in table["data"]] == [["csp", "finetune"], ["csp", "prune"]]
    verdicts = json.loads((place / "files" / line["verdicts.path"]).read_text())
    p = verdicts["columns"].index("p_value")
    assert {row[p] for row in verdicts["data"]} == {r["p_value"] for r in records_of(folder)}
    for name in ("probes", "tradeoff"):
        assert (place / "files" / line[f"plots/{name}.path"]).stat().st_size > 1000


def test_what_is_read_from_the_store_is_not_logged_again(tracked, tmp_path):
    first, _, _ = tracked
    folder = tmp_path / "again"
    shutil.copytree(first, folder, ignore=shutil.ignore_patterns("wandb"))
    code = (
        "import sys, runpy\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    mine = ["logger.group=mine", f"output_dir={folder}"]
    result = run([sys.executable, "-c", code, *SWEEP, *mine], environment(tmp_path))
    assert result.returncode == 0, result.stderr
    (sweep,) = read_all(folder).values()
    assert (sweep.about["job_type"], sweep.about["run_group"]) == ("sweep", "mine")
    assert sweep.summary["cells"] == 2


def test_watching_changes_no_model(tracked, cell):
    first, _, _ = tracked
    config = cell("method=none", "attack=none", *SMALL)
    run_cell(config, [], lambda line: None)
    victim = plan(config).victim
    folders = [first / "store/victim" / victim.address]
    folders += [Store.under(config["output_dir"]).folder(victim)]
    # safetensors writes metadata in any order: the files' bytes may differ.
    (watched, node), (alone, same) = (read_tensors(f / "model.safetensors") for f in folders)
    assert node == same
    assert watched.keys() == alone.keys()
    for name, tensor in watched.items():
        assert tensor.numpy().tobytes() == alone[name].numpy().tobytes()


@pytest.mark.parametrize("weights", [False, True])
def test_weights_are_uploaded_only_when_asked_for(weights, cell, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = cell("logger=wandb", f"logger.weights={weights}")
    config["output_dir"] = str(tmp_path)
    workshop = tmp_path / "store/victim/0123.making"
    workshop.mkdir(parents=True)
    with tracking.stage_logger(config, VICTIM, workshop):
        for name in ("model", "key"):
            (workshop / f"{name}.safetensors").write_bytes(name.encode())
    (made,) = read_all(tmp_path)["0123"].made
    (content,) = made["manifest"]["contents"]
    assert content["path"] == "model.safetensors"
    assert ("local_path" in content, "ref" in content) == (weights, not weights)


def test_a_stage_that_fails_ends_its_run_as_failed(cell, tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    config = {**cell("logger=wandb"), "output_dir": str(tmp_path)}
    with (
        pytest.raises(InputError, match="too bad"),
        tracking.stage_logger(config, VICTIM, tmp_path / "0123.making"),
    ):
        raise InputError("too bad")
    failed = read_all(tmp_path)["0123"]
    assert failed.exit_code == 1
    assert not failed.made
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with tracking.stage_logger(config, VICTIM, tmp_path / "4567.making") as logger:
        assert logger is tracking._no_logger
    assert len(read_all(tmp_path)) == 1


class Service:
    """wandb, whose process may be gone: its calls raise then, as those of wandb do."""

    def __init__(self, *, starts: int):
        self.starts, self.is_up, self.stops = starts, True, 0
        self.summary, self.dir, self.offline = {}, ".", True
        self.runs: list[str] = []

    def init(self, **options):
        if not self.is_up and not self.starts:
            raise RuntimeError("Connection lost")
        if not self.is_up:
            self.is_up, self.starts = True, self.starts - 1
            raise RuntimeError("the process is gone")  # the first call after it only notices
        self.runs.append(options["name"])
        return self

    def teardown(self):
        self.stops += 1
        raise ConnectionResetError("Connection lost")

    def _call(self, *arguments, **options):
        if not self.is_up:
            raise ConnectionResetError("Connection lost")

    log = log_artifact = _log_artifact = define_metric = finish = _call


@pytest.fixture
def service(monkeypatch):
    import wandb

    def started(starts: int) -> Service:
        service = Service(starts=starts)
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setattr(wandb, "init", service.init)
        monkeypatch.setattr(wandb, "teardown", service.teardown)
        return service

    return started


def test_a_killed_service_costs_one_run_and_one_line(service, tmp_path, capsys):
    """Of the stage that is trained just then: the stage and all that follow are made."""
    killed = service(starts=1)
    (tmp_path / "4567.making").mkdir()
    settings = {
        "logger": {"name": "wandb", "mode": None, "project": "p", "group": None, "weights": False},
        "output_dir": str(tmp_path),
        "data": {"name": "digits"},
    }
    for _ in range(2):
        with (
            tracking.stage_logger(settings, VICTIM, tmp_path / "4567.making") as logger,
            logger("classifier") as curve,
        ):
            killed.is_up = killed.stops > 0
            for epoch in range(3):
                curve.log_metrics({"loss": 1.0, "epoch": epoch}, step=epoch)
            curve.finalize("success")
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "W&B: the curve of classifier isn't logged (Connection lost)"
    # The second run's model isn't there to be logged: a test's, no service's fault.
    assert not any("Connection lost" in line for line in told[1:])
    assert killed.runs == ["victim seed 0"] * 2


def test_without_any_service_nothing_is_logged_and_that_is_said_once(service, tmp_path, capsys):
    gone = service(starts=0)
    gone.is_up = False
    settings = {"logger": {"name": "wandb", "mode": None, "project": "p", "group": None}}
    settings["logger"]["weights"] = False
    for _ in range(2):
        with tracking.stage_logger(
            {**settings, "output_dir": str(tmp_path), "data": {"name": "digits"}}, VICTIM, tmp_path
        ) as logger:
            assert logger is tracking._no_logger
    assert capsys.readouterr().err == "W&B: disabled from here (Connection lost)\n"


def test_a_home_that_nobody_can_write_is_left_alone(tmp_path, monkeypatch):
    for name in ("XDG_CACHE_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    online._leave_home(tmp_path / "runs")
    assert "XDG_CACHE_HOME" not in os.environ
    monkeypatch.setenv("HOME", "/proc/version")
    online._leave_home(tmp_path / "runs")
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / "runs/cache")
    for name in ("XDG_CACHE_HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.delenv(name)


def test_what_wandb_was_told_in_a_folder_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = disabled\n")
    assert online.decide_mode(None) == ("disabled", "wandb disabled was said in this folder")


def test_the_setting_comes_before_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert online.decide_mode("offline") == ("offline", "logger.mode=offline")
    assert online.decide_mode(None) == ("disabled", "WANDB_MODE=disabled")
    assert online.decide_mode("online") == ("offline", "no credentials")
    with pytest.raises(InputError, match=r"onlin \(logger\.mode\): online, offline or disabled"):
        online.decide_mode("onlin")


@pytest.mark.parametrize(
    ("environ", "project", "message"),
    [
        ({}, "a/b", r"^logger\.project=a/b: W&B refuses it \(Invalid project name"),
        ({"WANDB_BASE_URL": "host"}, "a", r"^WANDB_BASE_URL=host: W&B refuses it \(.*valid URL"),
        ({"WANDB_HTTP_TIMEOUT": "soon"}, "a", r"^WANDB_HTTP_TIMEOUT=soon: .*valid number"),
        ({"WANDB_API_KEY": " so secret "}, "a", r"^WANDB_API_KEY: W&B refuses it"),
    ],
)
def test_a_setting_that_wandb_refuses_is_told_before_anything_runs(
    monkeypatch, environ, project, message
):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message) as raised:
        online.check_settings({"project": project, "group": None})
    assert "\n" not in str(raised.value)
    assert "so secret" not in str(raised.value)
    config = OmegaConf.create({"logger": {"name": "wandb", "mode": "offline", "project": project}})
    config.logger.group = None
    with pytest.raises(SystemExit, match=message.replace("^", "error: ")):
        online._set_mode(config, "outputs/runs/now")


class Refusal(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"error": "no such key"}')

    def log_message(self, *arguments):
        pass


def test_a_server_that_refuses_or_never_answers_makes_it_offline_in_time(tmp_path):
    silent, closed = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    refusing = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusal)
    threading.Thread(target=refusing.serve_forever, daemon=True).start()
    ports = [silent.getsockname()[1], refusing.server_port, closed.getsockname()[1]]
    closed.close()

    def ask(port: int) -> tuple[str, float]:
        env = environment(
            tmp_path, WANDB_API_KEY="x" * 40, WANDB_BASE_URL=f"http://127.0.0.1:{port}"
        )
        start = time.monotonic()
        code = "from softmark.tracking.wandb_mode import decide_mode; print(*decide_mode(None))"
        asked = run([sys.executable, "-c", code], env)
        assert asked.returncode == 0, asked.stderr
        return asked.stdout, time.monotonic() - start

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, ports))
    silent.close()
    refusing.shutdown()
    for answer, seconds in answers:
        assert answer.startswith("offline ")
        assert answer.count("\n") == 1
        assert seconds < 20
    assert "401" in answers[1][0]


def test_an_agent_of_a_sweep_gets_its_run_from_the_verdict(tracked, tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load((ROOT / "scripts/wandb_sweep.yaml").read_text())
    grid = {name: given["values"] for name, given in sweep["parameters"].items()}
    for attack in grid["attack"]:
        check_arguments(["logger=wandb", "method=usp", f"attack={attack}", "seed=0"])
    chosen = {"method": "csp", "attack": "none", "seed": 0}
    assert all(chosen[name] in values for name, values in grid.items())
    args = {name: {"value": value} for name, value in chosen.items()}
    put = create_sweep_command_args({"args": args}) | {
        "env": ["/usr/bin/env"],
        "interpreter": [sys.executable],
        "program": [sweep["program"]],
    }
    command = []
    for part in create_sweep_command(sweep["command"]):
        command += put[part[2:-1]] if part.startswith("${") else [part]
    assert command[:2] == ["/usr/bin/env", sys.executable]
    assert command[2:] == ["run.py", "logger=wandb", "method=csp", "attack=none", "seed=0"]
    first, _, _ = tracked
    folder = tmp_path / "agent"
    shutil.copytree(first, folder, ignore=shutil.ignore_patterns("wandb"))
    params = tmp_path / "config.yaml"
    params.write_text(yaml.safe_dump({"wandb_version": 1, "method": {"value": "csp"}}))
    env = environment(
        tmp_path,
        WANDB_MODE="offline",
        WANDB_SWEEP_ID="sweep1",
        WANDB_RUN_ID="run1",
        WANDB_PROJECT="theirs",
        WANDB_SWEEP_PARAM_PATH=str(params),
    )
    for fresh in (True, False):
        result = processes.run(*command[2:], *SMALL, f"output_dir={folder}", env=env)
        assert result.returncode == 0, result.stderr
        runs = read_all(folder)
        verdict = runs.pop("run1")
        assert verdict.about["sweep_id"] == verdict.about["run_group"] == "sweep1"
        assert verdict.about["project"] == "theirs"
        assert verdict.config["attack"] == "none"
        assert 0 <= verdict.summary["watermark_accuracy"] <= 1
        assert len(runs) == fresh
        assert all("sweep_id" not in one.about for one in runs.values())
        shutil.rmtree(folder / "wandb")


def test_the_dashboard_names_what_is_logged(tracked, tmp_path):
    _, _, runs = tracked
    path = tmp_path / "dashboard.json"
    command = [sys.executable, "scripts/dashboard.py", "--to", str(path)]
    result = run(command, environment(tmp_path))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(path)
    assert "no credentials" in result.stderr
    sections = json.loads(path.read_text())["spec"]["section"]["panelBankConfig"]["sections"]
    panels = [panel["config"] for section in sections for panel in section["panels"]]
    drawn = {name for config in panels for name in config.get("metrics") or []}
    axes = {config.get(axis) for config in panels for axis in ("xAxis", "yAxis")} - {None}
    drawn |= {name.removeprefix("summary:") for name in axes}
    drawn |= {name for config in panels for name in config.get("mediaKeys") or []}
    groups = {
        config["groupBy"].removesuffix(".value") for config in panels if config.get("groupBy")
    }
    logged = {key for one in runs.values() for line in one.history for key in line}
    logged |= {key for one in runs.values() for key in one.summary}
    assert drawn - {key.removesuffix(".path") for key in logged} == set()
    assert {"p_value", "watermark_accuracy", "suspect_accuracy", "detector/loss"} <= drawn
    for verdict in of(runs, "verdict"):
        assert all(isinstance(verdict.config[name], str) for name in groups)
    text = path.read_text()
    assert '"verdicts"' in text
    assert '"table"' in text
