import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from filelock import FileLock

from helpers import ROOT
from softmark.errors import InputError
from softmark.report import stored
from softmark.store.store import Stage, Store, manifest, write_json


@dataclass(frozen=True)
class Made(Stage):
    """A stage that knows how it is made."""

    make: Callable = field(default=lambda folder: {}, compare=False)


def stage(make=lambda folder: {}, role="victim", parents=(), **config):
    return Made(role, config, (), parents, make=make)


def make(stage, folder):
    return stage.make(folder)


def run(script, *arguments):
    """Starts ``script`` (Python) in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path):
    end = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.01)


def test_planning_leaves_torch_alone(tmp_path):
    script = """
        import sys
        import softmark.experiment.plan
        assert "torch" not in sys.modules
        from hydra import compose, initialize_config_dir
        from omegaconf import OmegaConf
        with initialize_config_dir(sys.argv[1], version_base="1.3"):
            config = compose("config", overrides=["data=digits", f"output_dir={sys.argv[2]}"])
        plain = OmegaConf.to_container(config, resolve=True)
        softmark.experiment.plan.decode_data(plain)
        cell = softmark.experiment.plan.plan(plain)
        assert len({stage.address for stage in (cell.verdict, *cell.verdict.parents)}) > 4
        assert "torch" not in sys.modules
    """
    process = run(script, ROOT / "conf", tmp_path)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0, output


# --- Store.once -------------------------------------------------------------------------------


@pytest.fixture
def reports():
    return []


@pytest.fixture
def store(tmp_path, reports):
    return Store(tmp_path / "store", reports.append)


def left(store):
    """Everything under the root but locks, which may stay."""
    paths = (path.relative_to(store.root) for path in store.root.rglob("*"))
    return sorted(str(path) for path in paths if path.suffix != ".lock" and len(path.parts) > 1)


class Maker:
    """Counts how often it was called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, folder):
        self.calls += 1
        (folder / "model").write_text("weights")
        (folder / "curves").mkdir()
        (folder / "curves" / "loss.csv").write_text("1,2,3")
        return {"calls": self.calls}


def test_once_makes_once(store, reports):
    maker = Maker()
    first = stage(maker, role="innocent/evaluation/3", seed=0)
    folder = store.once(first, make)
    assert folder == store.folder(first) == store.root / "innocent" / first.address
    assert store.once(first, make) == Store(store.root, reports.append).once(first, make) == folder
    assert maker.calls == 1
    assert store.made == [first]
    assert len(reports) == 1
    assert first.address in reports[0]
    about = manifest(folder)
    assert about["role"] == "innocent/evaluation/3"
    assert about["address"] == first.address
    assert about["config"] == {"seed": 0}
    assert about["notes"] == {"calls": 1}
    assert about["files"].keys() == {"model", "curves/loss.csv"}
    store.once(stage(maker, role="innocent/evaluation/3", seed=1), make)
    assert maker.calls == 2


def test_parents_are_made_first_and_once(store):
    order = []

    def noting(name):
        return lambda folder: order.append(name) or {}

    victim = stage(noting("victim"))
    marked = stage(noting("watermarked"), "watermarked", (victim,))
    suspect = stage(noting("suspect"), "suspect", (victim, marked))
    folder = store.once(suspect, make)
    assert order == ["victim", "watermarked", "suspect"]
    assert manifest(folder)["parents"] == [f"{s.role}:{s.address}" for s in (victim, marked)]
    shutil.rmtree(store.folder(victim))
    store.once(suspect, make)
    assert len(order) == 3  # a whole child needs no parent
    store.once(replace(suspect, config={"seed": 1}), make)
    assert order[3:] == ["victim", "suspect"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_make_that_fails_leaves_nothing(store, reports, error):
    def failing(folder):
        (folder / "model").write_text("half")
        raise error

    victim = stage(Maker())
    child = stage(failing, "suspect", (victim,))
    with pytest.raises(type(error)):
        store.once(child, make)
    assert [path for path in left(store) if path.startswith("suspect")] == []
    assert store.made == [victim]
    maker = Maker()
    store.once(replace(child, make=maker), make)
    assert maker.calls == 1
    assert len(reports) == 2


def test_notes_that_are_no_json_leave_nothing(store):
    with pytest.raises(TypeError):
        store.once(stage(lambda folder: {"tensor": object()}), make)
    assert left(store) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda f: (f / "model").write_text("weight"), id="cut"),
        pytest.param(lambda f: (f / "model").write_text(""), id="emptied"),
        pytest.param(lambda f: (f / "model").write_text("weighty"), id="changed"),
        pytest.param(lambda f: (f / "model").unlink(), id="deleted"),
        pytest.param(lambda f: shutil.rmtree(f / "curves"), id="folder deleted"),
        pytest.param(lambda f: os.truncate(f / "stage.json", 40), id="manifest cut"),
        pytest.param(lambda f: (f / "stage.json").write_text(""), id="manifest emptied"),
        pytest.param(lambda f: (f / "stage.json").write_bytes(b"\xff\0"), id="manifest noise"),
        pytest.param(lambda f: (f / "stage.json").write_text("null"), id="manifest null"),
        pytest.param(lambda f: (f / "stage.json").write_text("{}"), id="manifest without files"),
        pytest.param(lambda f: (f / "stage.json").write_text('{"files": []}'), id="manifest list"),
        pytest.param(lambda f: (f / "stage.json").unlink(), id="manifest deleted"),
    ],
)
def test_damage_is_said_and_made_anew(store, reports, damage):
    maker = Maker()
    folder = store.once(stage(maker), make)
    (folder / "stranger").touch()
    damage(folder)
    reports.clear()
    store.once(stage(maker), make)
    assert maker.calls == 2
    assert (folder / "model").read_text() == "weights"
    assert not (folder / "stranger").exists()
    assert len(reports) == 2
    assert str(folder) in reports[0]
    assert "damaged" in reports[0]
    assert "made" in reports[1]
    reports.clear()
    store.once(stage(maker), make)
    assert (maker.calls, reports) == (2, [])


SLOW = """
    import sys, time
    from pathlib import Path
    from softmark.store.store import Stage, Store

    here = Path(sys.argv[1])

    def make(stage, folder):
        with (here / "calls").open("a") as log:
            log.write("made ")
        (folder / "model").write_text("half")
        (here / "begun").touch()
        time.sleep(float(sys.argv[2]))
        (folder / "model").write_text("whole")
        return {}

    store = Store(here / "store", lambda line: None)
    (here / f"ready{sys.argv[3]}").touch()
    while len(list(here.glob("ready*"))) < int(sys.argv[4]):
        time.sleep(0.01)
    print((store.once(Stage("victim", {}, ()), make) / "model").read_text(), len(store.made))
"""


def test_two_processes_make_it_once(tmp_path):
    both = [run(SLOW, tmp_path, 0.5, number, 2) for number in range(2)]
    said = sorted(process.communicate(timeout=30) for process in both)
    assert said == [("whole 0\n", ""), ("whole 1\n", "")]
    assert (tmp_path / "calls").read_text() == "made "


def test_a_process_that_is_killed_leaves_nothing_that_is_trusted(tmp_path, store):
    process = run(SLOW, tmp_path, 60, 0, 1)
    wait_for(tmp_path / "begun")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    maker = Maker()
    folder = store.folder(stage(maker))
    assert not folder.exists()
    assert (folder.with_suffix(".making") / "model").read_text() == "half"
    store.once(stage(maker), make)
    assert maker.calls == 1
    assert (folder / "model").read_text() == "weights"
    assert not folder.with_suffix(".making").exists()


def test_a_root_that_cannot_be_is_named(tmp_path, reports):
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "store", reports.append)
    with pytest.raises(InputError, match=r"file/store/victim/.*Not a directory; output_dir=DIR"):
        store.once(stage(Maker()), make)
    with pytest.raises(InputError, match=r"file/records/a\.json: Not a directory"):
        write_json(tmp_path / "file" / "records" / "a.json", {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_root_without_the_right_to_write_is_named(tmp_path, store):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"Permission denied"):
        store.once(stage(Maker()), make)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="there is no /dev/full")
def test_a_full_disk_is_an_input_error(store):
    def filling(folder):
        (folder / "begun").touch()
        Path("/dev/full").write_text("no room")

    with pytest.raises(InputError, match=r"victim/\w+: No space left on device; output_dir=DIR"):
        store.once(stage(filling), make)
    assert left(store) == []


def test_other_errors_of_the_system_stay_what_they_are(store):
    def reading(folder):
        (folder / "not there").read_text()

    with pytest.raises(FileNotFoundError):
        store.once(stage(reading), make)


def test_whoever_writes_when_the_disk_is_full(tmp_path):
    """A plain file, safetensors (whose error is none of the system's), stage.json, a record."""
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from safetensors.numpy import save_file
        from softmark.errors import InputError
        from softmark.store.store import Stage, Store, write_json

        def plain(stage, folder):
            (folder / "model").write_bytes(bytes(10000))

        def tensors(stage, folder):
            save_file({"weight": np.zeros(10000)}, folder / "model.safetensors")

        def notes(stage, folder):
            return {"notes": "x" * 10000}

        here = Path(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        store = Store(here / "store", print)
        makes = [
            lambda make=make: store.once(Stage("victim", {}, ()), make)
            for make in (plain, tensors, notes)
        ]
        for make in (*makes, lambda: write_json(here / "records" / "a.json", "x" * 10000)):
            try:
                make()
            except InputError as error:
                print(error)
    """
    process = run(script, tmp_path)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    lines = said.splitlines()
    assert len(lines) == 4
    assert all("File too large; output_dir=DIR" in line for line in lines)
    files = [path.suffix for path in tmp_path.rglob("*") if path.is_file()]
    assert set(files) <= {".lock"}


# --- records ----------------------------------------------------------------------------------


def test_a_reader_never_sees_part_of_a_record(tmp_path):
    path = tmp_path / "records" / "a.json"
    contents = [{"text": letter * 200_000} for letter in "ab"]
    write_json(path, contents[0])
    stop = threading.Event()

    def write():
        while not stop.is_set():
            for content in contents:
                write_json(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [json.loads(path.read_text())["text"] for _ in range(300)]
    finally:
        stop.set()
        writer.join()
    assert {text[0] for text in seen} == {"a", "b"}
    assert {len(text) for text in seen} == {200_000}
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [{"p": float("nan")}, {"p": object()}])
def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, content):
    path = tmp_path / "a.json"
    write_json(path, {"p": None})
    with pytest.raises((ValueError, TypeError)):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"p": None}
    assert list(tmp_path.iterdir()) == [path]


# --- softmark store ----------------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path):
    """A cell's stages and its record, a failed cell's victim, and a victim that no one needs."""
    store = Store(tmp_path / "outputs" / "store", lambda line: None)
    base = {"model": {"name": "convnet"}, "party": "owner"}
    stages = {
        "victim": stage(Maker(), seed=0, **base),
        "innocent": stage(Maker(), "innocent/calibration/0", seed=1, **{**base, "party": "half"}),
        "failed": stage(Maker(), seed=2, **base),
        "alone": stage(Maker(), seed=3, **base),
    }
    stages["watermarked"] = stage(
        Maker(), "watermarked", (stages["victim"],), method={"name": "usp"}, seed=0
    )
    stages["suspect"] = stage(
        Maker(),
        "suspect",
        (stages["watermarked"],),
        attacks=[{"name": "distill"}],
        model={"name": "vgg11"},
        seed=0,
    )
    for each in stages.values():
        store.once(each, make)
    listed = {name: stages[name].address for name in ("victim", "watermarked", "suspect")}
    listed |= {"calibration": [stages["innocent"].address], "evaluation": []}
    records = tmp_path / "outputs" / "records"
    write_json(records / "0.json", {"status": "done", "stages": listed})
    write_json(records / "1.json", {"status": "done", "stages": listed})
    missing = {"victim": stages["failed"].address, "suspect": "0" * 16, "calibration": []}
    write_json(records / "2.json", {"status": "failed", "stages": missing})
    return tmp_path / "outputs", store, stages


def cli(folder, *options, **given):
    process = subprocess.run(
        [sys.executable, ROOT / "scripts" / "store.py", "--output-dir", folder, *options],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "COLUMNS": "150"},
        **{"stdin": subprocess.DEVNULL, **given},
    )
    assert "Traceback" not in process.stderr
    return process


def rows(process):
    """Return role, description and number of records of each address in the table."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in process.stdout.splitlines()
        if line.startswith("│")
    ]
    return {address: (role, what, int(needed)) for role, address, what, _, _, needed in cells}


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def folders(store):
    return {path.name for path in store.root.glob("*/*")}


def test_the_script_lists_the_store(outputs):
    folder, _, stages = outputs
    before = everything(folder)
    process = cli(folder)
    assert process.returncode == 0
    assert process.stderr == ""
    assert rows(process) == {
        stages["victim"].address: ("victim", "convnet, party owner, seed 0", 2),
        stages["failed"].address: ("victim", "convnet, party owner, seed 2", 1),
        stages["alone"].address: ("victim", "convnet, party owner, seed 3", 0),
        stages["innocent"].address: (
            "innocent/calibration/0",
            "convnet, party half, seed 1",
            2,
        ),
        stages["watermarked"].address: ("watermarked", "usp, seed 0", 2),
        stages["suspect"].address: ("suspect", "distill, vgg11, seed 0", 2),
    }
    assert "6 stages (0.0 MiB); no record needs 1 stage (0.0 MiB) of them" in process.stdout
    assert everything(folder) == before


def test_the_script_tells_sizes(outputs):
    folder, store, stages = outputs
    (store.folder(stages["alone"]) / "large").write_bytes(bytes(3 * 2**20))
    assert "6 stages (3.0 MiB); no record needs 1 stage (3.0 MiB) of them" in cli(folder).stdout


def test_the_script_prunes_what_no_record_needs(outputs):
    folder, store, stages = outputs
    half = store.root / "suspect" / f"{'1' * 16}.making"
    half.mkdir()
    half.with_suffix(".lock").touch()
    (store.root / "victim" / "notes of my own").mkdir()
    damaged = store.folder(stages["suspect"])
    os.truncate(damaged / "stage.json", 30)
    listed = cli(folder)
    assert rows(listed)[damaged.name] == ("suspect", "damaged", 0)
    assert "1 unfinished" in listed.stdout
    records = everything(folder / "records")

    process = cli(folder, "--prune", "--yes")
    assert process.returncode == 0, process.stderr
    assert "removed 2 stages" in process.stdout
    remaining = {stages[name].address for name in ("victim", "innocent", "failed", "watermarked")}
    assert folders(store) == remaining | {"notes of my own"}
    assert everything(folder / "records") == records
    process = cli(folder, "--prune")
    assert process.returncode == 0
    assert "nothing to remove" in process.stdout
    store.once(stages["suspect"], make)
    assert rows(cli(folder))[damaged.name] == ("suspect", "distill, vgg11, seed 0", 2)


def test_the_script_never_touches_what_is_being_made(outputs):
    folder, store, _ = outputs
    making = store.root / "suspect" / f"{'1' * 16}.making"
    making.mkdir()
    (making / "model").write_text("half")
    before = everything(folder)
    with FileLock(making.with_suffix(".lock")):
        process = cli(folder, "--prune", "--yes")
        # Its cell's other stages have no record yet, so that they stay too.
        assert {*everything(folder)} - {*before} == {f"store/suspect/{'1' * 16}.lock"}
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith("error: nothing is removed: a run is at work")
    assert "1" * 16 in process.stderr
    assert cli(folder, "--prune", "--yes").returncode == 0
    assert not making.exists()


def test_a_stage_that_is_begun_while_the_script_prunes_is_left_alone(outputs):
    _, store, stages = outputs
    folder = store.folder(stages["alone"])
    folder.with_suffix(".making").mkdir()
    before = everything(store.root)
    with FileLock(folder.with_suffix(".lock")):
        stored._remove(folder, True)
        assert everything(store.root) == before
    stored._remove(folder, True)
    assert [path for path in everything(store.root) if folder.name in path] == []
    assert store.folder(stages["victim"]).is_dir()


@pytest.mark.parametrize(
    "text",
    ['{"status": "do', "[]", '{"status": "done"}', '{"status": "done", "stages": {"victim": 3}}'],
)
def test_a_broken_record_is_named_and_stops_the_pruning(outputs, text):
    folder, _, _ = outputs
    (folder / "records" / "broken.json").write_text(text)
    before = everything(folder)
    process = cli(folder)
    assert process.returncode == 0
    assert str(folder / "records" / "broken.json") in process.stderr
    assert len(rows(process)) == 6
    process = cli(folder, "--prune", "--yes")
    assert process.returncode == 2
    assert str(folder / "records" / "broken.json") in process.stderr
    assert process.stderr.splitlines()[-1].startswith("error: nothing is removed")
    assert everything(folder) == before


def test_the_script_asks(outputs):
    folder, store, stages = outputs
    before = everything(folder)
    process = cli(folder, "--prune")
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "error: --prune asks first, and there is no terminal: --yes is the answer"
    ]
    for answer, goes in (("\n", False), ("n\n", False), ("\x04", False), ("y\n", True)):
        with contextlib.ExitStack() as stack:
            person, terminal = pty.openpty()
            stack.callback(os.close, person)
            stack.callback(os.close, terminal)
            os.write(person, answer.encode())
            process = cli(folder, "--prune", stdin=terminal)
        assert process.returncode == 0, process.stderr
        assert "remove 1 stage (0.0 MiB) and 6 locks" in process.stdout
        assert store.folder(stages["alone"]).exists() is not goes
        assert (everything(folder) == before) is not goes


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    process = cli(tmp_path / "nowhere")
    assert process.returncode == 2
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'nowhere' / 'store'}: there is no such folder")
