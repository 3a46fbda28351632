"""The very command of the card, and what happens to it: from outside, as a person runs it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from helpers import ROOT, processes
from softmark.errors import InputError
from softmark.experiment.plan import plan
from softmark.experiment.planner import Planner
from softmark.report.sweep_table import Problem, by_reason
from softmark.settings import with_absolute_paths
from softmark.sweep.command_line import expand_sweep
from softmark.sweep.compose import CellComposer

SENTENCE = ["-m", "method=usp,csp", "attack=finetune,prune,distill", "scale=smoke"]
OFFLINE = {**os.environ, "WANDB_MODE": "offline"}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return processes.run("run.py", *arguments, f"output_dir={folder}", env=OFFLINE)


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("swept")
    return folder, run(*SENTENCE, folder=folder)


def made(result: subprocess.CompletedProcess) -> list[str]:
    lines = result.stderr.splitlines()
    return sorted(line.split()[1].split("/")[0] for line in lines if line.startswith("made "))


def test_the_sentence_makes_each_stage_once(swept):
    folder, result = swept
    assert result.returncode == 0, result.stderr
    shared = ["victim", "control", *["innocent"] * 4, *["watermarked", "key", "evidence"] * 2]
    assert made(result) == sorted(shared + ["suspect"] * 6)
    records = [json.loads(path.read_text()) for path in (folder / "records").glob("*.json")]
    assert {(r["method"], r["attack"]) for r in records} == {
        (method, attack) for method in ("usp", "csp") for attack in ("finetune", "prune", "distill")
    }
    assert all(r["status"] == "done" for r in records)
    cells, _, methods = result.stdout.partition("└")
    for table, count in ((cells, 6), (methods, 2)):
        rows = [line for line in table.splitlines() if line.startswith(("│ usp", "│ csp"))]
        assert len(rows) == count


def test_the_same_again_makes_nothing(swept):
    folder, first = swept
    again = run(*SENTENCE, folder=folder)
    assert again.returncode == 0
    assert made(again) == []
    assert again.stdout == first.stdout


def test_jobs_that_leave_their_folder_find_what_is_there(swept):
    folder, _ = swept
    relative = Path(os.path.relpath(folder, ROOT))
    for words in (["-m", "method=csp,usp"], ["method=csp"]):
        result = run(*words, "attack=prune", "scale=smoke", "hydra.job.chdir=true", folder=relative)
        assert result.returncode == 0, result.stderr
        assert made(result) == []


def test_seeds_are_summed_up(swept):
    folder, _ = swept
    own = ["control", "evidence", "key", "suspect", "victim", "watermarked"]
    for seeds, caption, figures in (
        ("0,1", "The values of both seeds", r"│ +\d+\.\d, \d+\.\d +(† )?│"),
        ("0,1,2", "Mean ± 95 % interval over 3 seeds", r"│ +\d+\.\d\d ± \d+\.\d\d +(† )?│"),
    ):
        sweep = ["method=csp", "attack=prune", f"seed={seeds}", "scale=smoke"]
        result = run("-m", *sweep, folder=folder)
        assert result.returncode == 0
        assert caption in result.stdout
        assert re.search(figures, result.stdout)
        assert f"of {len(seeds.split(','))}" in result.stdout
        assert made(result) == own


def report(*arguments: str, folder: Path, into: Path) -> subprocess.CompletedProcess:
    words = [*arguments, f"output_dir={folder}", "--to", into]
    return processes.run("scripts/report.py", *words)


def test_a_report_is_made_from_the_records_alone(swept, tmp_path):
    folder, _ = swept
    result = report("--name=robust", *SENTENCE[1:], folder=folder, into=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    table = (tmp_path / "robust.md").read_text()
    cells = r"^\| (usp|csp) \| (finetune|prune|distill) \| (yes|no) \|"
    assert len(re.findall(cells, table, re.MULTILINE)) == 6
    methods = r"^\| (usp|csp) \| 3 \| \d of \d \|"
    assert len(re.findall(methods, table, re.MULTILINE)) == 2
    assert "python run.py -m method=usp,csp attack=finetune,prune,distill" in table
    assert "torch" in table.splitlines()[-1]
    assert len((tmp_path / "robust.csv").read_text().splitlines()) == 7
    assert "\\bottomrule" in (tmp_path / "robust.tex").read_text()
    for picture in ("robust-probes.svg", "robust-tradeoff.svg", "robust-heatmap.svg"):
        assert (tmp_path / picture).read_text().rstrip().endswith("</svg>")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    words = ["--name=robust", *SENTENCE[1:], f"output_dir={folder}", f"--to={tmp_path}"]
    code = (
        f"import sys, runpy; sys.argv = ['report.py', *{words!r}]\n"
        "runpy.run_path('scripts/report.py', run_name='__main__')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=True)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_a_report_shows_what_is_missing_and_refuses_what_is_wrong(swept, tmp_path):
    folder, _ = swept
    some = report(
        "--name=t", "method=csp", "attack=prune,none", "scale=smoke", folder=folder, into=tmp_path
    )
    assert some.returncode == 0
    assert "attack=none" in some.stderr
    assert "| csp | none | — |" in (tmp_path / "t.md").read_text()
    none = report("--name=t", "method=csp", "seed=77", "scale=smoke", folder=folder, into=tmp_path)
    assert none.returncode == 2
    assert "error: no record of these cells" in none.stderr
    wrong = report("--name=t", "method=cspp", folder=folder, into=tmp_path)
    assert wrong.returncode == 2
    assert "cspp" in wrong.stderr
    assert "Traceback" not in wrong.stderr + none.stderr
    nothing = ["method=none", "attack=none", "scale=smoke"]
    assert run(*nothing, folder=folder).returncode == 0
    unmarked = report("--name=unmarked", *nothing, folder=folder, into=tmp_path)
    assert unmarked.returncode == 0, unmarked.stderr
    assert sorted(path.suffix for path in tmp_path.glob("unmarked*")) == [".csv", ".md", ".tex"]
    unnamed = report("method=csp", folder=folder, into=tmp_path)
    assert "--name NAME" in unnamed.stderr
    file = tmp_path / "file"
    file.write_text("")
    unwritable = report("--name=t", *SENTENCE[1:], folder=folder, into=file)
    assert unwritable.returncode == 2
    assert "--to DIR" in unwritable.stderr


TABLES = sorted(path.stem for path in (ROOT / "conf/table").glob("*.yaml"))


def test_a_table_is_one_sweep_and_can_be_narrowed(swept, tmp_path):
    folder, _ = swept
    narrow = ["table=robustness", "method=csp", "attack=finetune,prune", "seed=0", "scale=smoke"]
    result = run(*narrow, folder=folder)
    assert result.returncode == 0, result.stderr
    assert made(result) == []
    rows = [line.split()[1:4:2] for line in result.stdout.splitlines() if line.startswith("│")]
    assert rows == [["csp", "finetune"], ["csp", "prune"]]
    reported = report(*narrow, folder=folder, into=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert "python run.py table=robustness" in (tmp_path / "robustness.md").read_text()


@pytest.mark.parametrize("given", ["prune attack.sparsity=0.5", "unambiguity attack.keys=2"])
def test_a_number_of_a_table_can_be_narrowed_too(swept, given):
    sweep = f"table={given} method=csp seed=0 scale=smoke".split()
    result = run(*sweep, folder=swept[0])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("│ csp") == 1


def test_an_ablation_takes_one_part_away_after_the_other(swept):
    sweep = ["table=ablation", "method=csp", "method.marking.beta=0", "attack=none", "seed=0"]
    sweep.append("method.marking.feature_weight=0")
    result = run(*sweep, "scale=smoke", folder=swept[0])
    assert result.returncode == 0, result.stderr
    lines = [line for line in result.stdout.splitlines() if line.startswith(("┃ method", "│"))]
    shown = [line.split()[1:9:2] for line in lines]
    assert shown[0] == ["method", "attack", "eps", "teacher_weight"]
    parts = [(eps, weight) for eps in ("0.0", "0.1") for weight in ("0.0", "0.5")]
    assert shown[1:] == [["csp", "none", *part] for part in parts]


def test_an_unknown_table_is_refused_with_the_list(tmp_path):
    for result, code in (
        (run("table=roobust", folder=tmp_path), 1),
        (report("table=roobust", folder=tmp_path, into=tmp_path), 2),
    ):
        assert result.returncode == code
        assert "Traceback" not in result.stderr
        assert "roobust" in result.stderr
        assert all(name in result.stderr for name in TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_each_cell_of_a_table_has_a_config(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        whole = compose("config", [f"table={name}"], return_hydra_config=True)
        assert whole.table.name == name
        cells = expand_sweep([f"table={name}"])
        assert len({tuple(cell) for cell in cells}) == len(cells) >= 5
        for cell in (cells[0], cells[-1]):
            compose("config", cell)


SAMPLE = [
    ["method=csp", "attack=prune", "seed=3"],
    ["method=usp", "attack=adaptive_search", "scale=smoke", "output_dir=elsewhere"],
    ["method=adi", "attack=distill_hard", "data=cifar10", "scale=full", "model=resnet18"],
    # A value inside of a section, through one of its interpolations, and one that follows another.
    ["method=csp", "method.marking.eps=0.3", "attack=prune", "attack.sparsity=0.5", "seed=1"],
    ["method=csp", "attack=distill", "attack.recipe.lr=0.5"],
    ["method=csp", "attack=finetune", "recipe.lr=0.5", "attack.epochs=${recipe.epochs}"],
    ["attack=finetune", "seed=${attack.epochs}"],
    ["method=csp", "seed=1", "data.roles.split_seed=${seed}"],
    # Choices in and beside a section.
    ["method=csp", "method/marking=usp", "method/detector=linear", "attack=distill"],
    ["method=usp", "attack=distill", "model@attack.network=resnet18"],
    ["method=csp", "attack@innocents.attacks.distill=prune", "attack=none"],
    ["method=csp", "~method.control", "+attack.steps={}", "attack=none"],
    # Sections that are left to Hydra: none, one alone, a value of a default choice.
    ["seed=2"],
    ["attack=prune"],
    ["attack.epochs=3", "attack=finetune"],
    ["method.message=other", "attack=none"],
    ["table=prune", "method=csp", "attack=prune", "hydra.sweep.dir=/tmp"],
]


def outcome(compose, cell):
    """What ``compose`` makes of ``cell``, or how it fails."""
    try:
        return compose(cell)
    except Exception as error:
        return type(error).__name__, str(error)


def test_a_cells_config_is_what_hydra_composes():
    composer = CellComposer()
    wrong = [["method=no_such", "attack=prune"], ["method=csp", "attack=none", "attack.no_such=1"]]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        expected = [(cell, outcome(of_hydra, cell)) for cell in (*SAMPLE, *wrong)]
        # Twice, the second time from what was kept.
        for cell, composed in [*expected, *expected]:
            assert outcome(composer.compose, cell) == composed, cell
        for table in ("table=comparison", "table=ablation", "table=unambiguity"):
            cells = expand_sweep([table])
            for cell in cells[:: len(cells) // 4]:
                assert composer.compose(cell) == of_hydra(cell), cell


def of_hydra(cell: list[str]) -> dict:
    config = OmegaConf.to_container(compose("config", cell), resolve=True, throw_on_missing=True)
    return with_absolute_paths(config)


def test_cells_that_are_planned_together_have_the_plans_of_each_alone(tmp_path):
    lines = ["method=csp,adi", "attack=prune,collude_weights", "seed=0,1", "scale=smoke"]
    cells = [*expand_sweep(lines), *expand_sweep([*lines, "recipe.lr=0.3", "verifier.probes=40"])]
    composer, planner = CellComposer(), Planner()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        configs = [composer.compose([*cell, f"output_dir={tmp_path}"]) for cell in cells]
    with pytest.raises(InputError, match="no decoded data"):
        planner.plan(configs[0])
    planner.decode(configs[0])
    for config in configs:
        together, alone = planner.plan(config), plan(config)
        assert together.record == alone.record
        assert addresses(together.verdict) == addresses(alone.verdict)
    first, other = (planner.plan(config) for config in configs[:2])
    assert first.innocents is other.innocents


def addresses(stage) -> list:
    """The address of a stage, and those of its ancestors."""
    return [stage.address, [addresses(parent) for parent in stage.parents]]


def test_what_another_file_sets_in_a_section_is_kept(tmp_path):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    scale = tmp_path / "conf/scale/smoke.yaml"
    scale.write_text(scale.read_text() + "method: {message: of the scale}\n")
    cell = ["method=csp", "attack=none", "scale=smoke"]
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        for _ in range(2):
            config = CellComposer().compose(cell)
            assert config["method"]["message"] == "of the scale"
            assert config == of_hydra(cell)


def test_a_cell_that_is_named_twice_is_one():
    wanted = expand_sweep(["method=usp,csp", "seed=0,0,1"])
    assert wanted == expand_sweep(["method=usp,csp", "seed=0,1"])
    assert len(wanted) == 4


def test_a_page_of_nothing_makes_no_folder(tmp_path):
    result = report("--page", folder=tmp_path / "typo", into=tmp_path)
    assert result.returncode == 2
    assert "no record" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_cell_that_fails_is_named_and_the_others_go_on(swept):
    folder, _ = swept
    sweep = ["-m", "method=csp", "attack=prune", "attack.sparsity=1.5,0.45", "scale=smoke"]
    result = run(*sweep, folder=folder)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "failed" in result.stdout
    assert "1 of 2 cells failed" in result.stderr
    assert "attack.sparsity=1.5: a fraction between 0 and 1" in result.stderr
    assert "csp under prune" in result.stderr


def test_a_reason_is_told_once():
    problems = [
        Problem("seed=0", "no disk"),
        Problem("seed=1", "missing"),
        Problem("seed=2", "no disk"),
    ]
    assert by_reason(problems) == ["seed=0 and 1 more: no disk", "seed=1: missing"]
    assert by_reason([]) == []


def test_one_cell_ends_with_its_verdict(swept):
    folder, _ = swept
    result = run("method=csp", "attack=prune", "scale=smoke", folder=folder)
    assert result.returncode == 0
    words = ("verdict", "p-value", "signs", "p before the attack", "control", "cost of the mark",
             "against the control", "watermark accuracy", "records/")  # fmt: skip
    places = [result.stdout.index(word) for word in words]
    # Claims first, what describes the model later.
    assert places == sorted(places)


def test_interrupted_it_keeps_what_was_finished(tmp_path):
    words = ["method=usp", "attack=distill", "recipe.epochs=8", f"output_dir={tmp_path}"]
    running = processes.start("run.py", *words, env=OFFLINE)
    while "made victim" not in running.stderr():
        assert running.is_alive(), running.stderr()
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(running.pid, signal.SIGINT)
    interrupted = running.wait(timeout=60)
    assert interrupted.returncode != 0, interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert "interrupted" in interrupted.stderr
    assert not list((tmp_path / "store").rglob("*.making"))
    assert len(list((tmp_path / "store/victim").glob("*/stage.json"))) == 1


@pytest.mark.parametrize("argument", ["--help", "--cfg=job"])
def test_help_and_config_answer_without_torch(argument, tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['run.py', sys.argv[1]]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    argument = argument.replace("=", " ").split()[0]
    command = [sys.executable, "-c", code, argument]
    if argument == "--cfg":
        command[2] = code.replace("['run.py', sys.argv[1]]", "['run.py', '--cfg', 'job']")
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "attack" in result.stdout


def test_the_work_of_a_sweep_is_counted_without_training(tmp_path):
    sweep = ["method=none,csp", "attack=none,finetune", "scale=smoke", f"output_dir={tmp_path}"]
    counted = processes.run("scripts/work.py", *sweep)
    assert counted.returncode == 0, counted.stderr
    steps = {line.split()[0]: line.split()[1] for line in counted.stdout.splitlines()}
    # 300 samples in batches of 64, one epoch; the control twice as long in batches of 32; two
    # fine-tunings of 16 steps, as many as scale=smoke gives an attack.
    assert (steps["victim"], steps["control"], steps["suspect"]) == ("4", "18", "32")
    assert "4 cells: " in counted.stdout
    assert list(tmp_path.glob("*")) == [tmp_path / "data"]
    for wrong in ("method=none,", "method=non"):
        refused = processes.run("scripts/work.py", wrong)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: method=")


def test_full_scale_says_what_it_needs():
    told = subprocess.run(["scripts/full_scale.sh"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 2
    assert "scripts/full_scale.sh DATA OUT [SEED ...]" in told.stderr
