"""What ``--help method=csp`` prints, and that there is a sentence for each key."""

import functools
import subprocess
import sys

import pytest
from hydra import compose
from omegaconf import DictConfig, OmegaConf

from helpers import ROOT
from softmark.choice_help import describe, first_sentence, help_of_choices, rows_of
from softmark.errors import InputError
from softmark.settings import configs

METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
ATTACKS = sorted(path.stem for path in (ROOT / "conf/attack").glob("*.yaml"))
CHANGES = sorted(path.stem for path in (ROOT / "conf/attack/change").glob("*.yaml"))


def run(*arguments: str) -> subprocess.CompletedProcess:
    line = [sys.executable, "run.py", *arguments]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


@functools.cache
def nodes_of(group: str, names: tuple[str, ...]) -> DictConfig:
    """Return the nodes of all choices ``names``, composed at once: Hydra takes .2 s each time."""
    with configs():
        config = compose("config", [f"+{group}@choices.{name}={name}" for name in names])
    return config["choices"]


def node_of(group: str, name: str) -> dict:
    """Return the node of a choice, with its interpolations."""
    names = {"attack": ATTACKS, "method": METHODS}.get(group, [name])
    return OmegaConf.to_container(nodes_of(group, tuple(names))[name], resolve=False)


def silent_keys(node: dict) -> list[str]:
    """Return the keys without a sentence in a class; a comment in a YAML is none."""
    return [row.key for row in rows_of(node, {}) if not row.sentence]


@pytest.mark.parametrize("name", ATTACKS)
def test_every_key_of_every_attack_has_a_sentence(name):
    node = node_of("attack", name)
    assert [key for key in silent_keys(node) if ".network." not in f".{key}"] == []
    for step in node.get("steps", {"1": node}).values():
        assert describe(step["_target_"]).summary.endswith(".")


@pytest.mark.parametrize("name", CHANGES)
def test_every_key_of_every_change_has_a_sentence(name):
    node = OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/attack/change/{name}.yaml"))
    assert silent_keys(node) == []
    assert describe(node["_target_"]).summary.endswith(".")


@pytest.mark.parametrize("name", METHODS)
def test_every_key_of_every_method_has_a_sentence(name):
    assert silent_keys(node_of("method", name)) == []


@pytest.mark.parametrize("group", ["model", "verifier"])
def test_every_key_of_a_network_and_of_the_verifier_has_a_sentence(group):
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        assert silent_keys(node_of(group, path.stem)) == []


def test_a_choice_is_explained_key_by_key():
    text = help_of_choices(["--help", "attack=finetune_few", "attack.epochs=7"])
    heading, comment, empty, *lines = text.splitlines()
    assert heading == "attack=finetune_few: Train the stolen model on the attacker's labels."
    assert comment == "With 30 labelled pictures."
    assert empty == ""
    assert "  epochs: 7                         Epochs of the training; at least 1." in lines
    assert "  recipe: ${recipe}" in text
    assert "_target_" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_steps_of_an_attack_are_explained_each():
    text = help_of_choices(["attack=distill_finetune", "-h"])
    assert text.startswith("attack=distill_finetune\nA student of the watermarked model")
    for line in ("steps.1.student.temperature: 1.0", "steps.2.lr_factor: 0.1"):
        assert line in text


def test_a_group_alone_means_the_choice_that_the_config_makes():
    text = help_of_choices(["--help", "innocents", "verifier=standard", "data=synthetic"])
    assert text.startswith("innocents=mixed\nIndependent models")
    assert "\n\nverifier=standard" in text
    assert "attacks.distill: ..." in text
    assert "attacks.distill.student" not in text


def test_a_table_says_what_it_sweeps_over():
    text = help_of_choices(["--help", "table=served"])
    assert "sweep.attack: glob([none,serve_*,input_*])" in text


@pytest.mark.parametrize(
    "line", [["attack=none"], ["--help"], ["--help", "seed=3"], ["--cfg", "job"]]
)
def test_nothing_else_is_help_on_a_choice(line):
    assert help_of_choices(line) == ""


def test_a_choice_that_there_is_none_of_is_named():
    with pytest.raises(InputError, match="did you mean prune"):
        help_of_choices(["--help", "attack=prun"])
    assert run("--help", "attack=prun").returncode == 1


def test_run_py_prints_it_and_keeps_its_plain_help():
    result = run("--help", "attack=nad", "attack/change=temper")
    assert result.returncode == 0
    assert result.stdout.startswith("attack=repair_nad: ")
    assert "temperature: 4.0" in result.stdout
    assert result.stderr.count("\n") == 1  # the name of before
    plain = run("--help").stdout
    assert "== Groups and their choices (GROUP=CHOICE) ==" in plain
    assert "== Config (KEY.SUBKEY=VALUE) ==" in plain


def test_sentences_are_read_without_importing_anything():
    code = (
        "import sys; from softmark.choice_help import help_of_choices\n"
        "assert 'Epochs' in help_of_choices(['--help', 'attack=finetune'])\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_field_keeps_the_sentence_of_the_class_above_unless_it_has_its_own():
    fields = describe("softmark.attacks.weights.ShiftWeights").fields
    assert fields["epochs"] == "Epochs of the fine-tuning; at least 1."
    assert fields["recipe"] == describe("softmark.attacks.attack.TrainingAttack").fields["recipe"]
    assert describe("softmark.no.such").fields == {}
    assert describe("nowhere.Thing").summary == ""
    assert describe("collections.Counter").summary == ""


def test_the_first_sentence_ends_where_it_ends():
    assert first_sentence("Do this\nand that. Then\n\nmore.") == "Do this and that."
    assert first_sentence("After Li et al. 2021, do. It") == "After Li et al. 2021, do."
    assert first_sentence("") == ""
