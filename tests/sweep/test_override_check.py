"""What is said of a command line, or of a config node, that can't work, before anything runs."""

import copy
import inspect
import re
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from helpers import ROOT
from softmark.choice_help import help_of_choices
from softmark.errors import InputError
from softmark.nodes import DISPLAY_KEYS, make
from softmark.renamed import current
from softmark.settings import CONF, configs, with_absolute_paths
from softmark.sweep.command_line import check_arguments, to_hydra_arguments
from softmark.sweep.spelling import folders_of


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["method=uspp"], ["method=uspp", "did you mean usp", "csp"]),
        (["attack=foo"], ["attack=foo", "distill", "finetune"]),
        (["data=mnist"], ["data=mnist", "cifar10", "digits"]),
        (["model=resnet"], ["model=resnet", "resnet18"]),
        (["scale=huge"], ["scale=huge", "smoke"]),
        (["method/detector=tree"], ["method/detector=tree", "linear", "mlp"]),
        (["atack=none"], ["atack", "did you mean attack"]),
        (["attack=prune", "attack.sparsty=.5"], ["attack.sparsty", "attack.sparsity"]),
        (["recipe.epochs=foo"], ["recipe.epochs=foo", "text", "whole number"]),
        (["recipe.epochs=1.5"], ["recipe.epochs=1.5", "whole number"]),
        (["recipe.lr=true"], ["recipe.lr=True", "must be a number"]),
        (["recipe.flip=1"], ["recipe.flip=1", "true or false"]),
        (["seed=abc"], ["seed=abc", "whole number"]),
        (["method.message=17"], ["method.message=17", "text"]),
        (["verifier=5"], ["verifier=5", "standard"]),
        (["method=usp,csp"], ["-m"]),
        (["method=usp,"], ["method=usp,", "can't be read"]),
        (["foo"], ["foo", "KEY=VALUE"]),
        (["-m", "method=usp,foo", "attack=none"], ["method=foo"]),
        (["-m", "method=usp", "seed=0,x"], ["seed=x"]),
        (["output_dir=/proc/version/out"], ["output_dir=/proc/version/out", "can't be written"]),
        # Numbers that are out of range, by the type or by what is built without torch.
        (["recipe.epochs=-1"], ["recipe.epochs=-1", "negative"]),
        (["recipe.epochs=0"], ["recipe.epochs=0", "above 0"]),
        (["attack.student.temperature=-1"], ["attack.student.temperature=-1", "negative"]),
        (["recipe.lr=nan"], ["recipe.lr=nan", "finite"]),
        (["seed=99999999999999999999"], ["seed=9999", "2^63"]),
        (["data.roles.owner=2"], ["data.roles.owner=2", "between 0 and 1"]),
        (["+innocents.kinds.plain.recipe.lr=0"], ["innocents.kinds.plain", "recipe.lr=0"]),
        (["trainer.threads=many"], ["trainer.threads=many", "null or a whole number"]),
        (["method.detector.hidden=[a]"], ["method.detector.hidden[0]=a", "whole number"]),
        (["precision=half"], ["precision=half", "bf16-mixed"]),
        # Whatever sign stands before it.
        (["++recipe.epochs=many"], ["recipe.epochs=many", "whole number"]),
        (["++trainer.accelerator=true"], ["trainer.accelerator=True", "text"]),
        (["++method.detector.hidden=/dev/null"], ["method.detector.hidden=/dev/null", "a list"]),
        (["++innocents.kinds=${seed}"], ["innocents.kinds=0", "a mapping"]),
        (["+seed=[null]"], ["seed=[None]", "whole number"]),
        (["worker=inf"], ["worker=inf", "null or text"]),
        (["~method.message=null"], ["method.message", "needed"]),
        (["~model=true"], ["~model", "needed", "vgg11"]),
        (["model=null"], ["model=None", "no such choice"]),
        (["~table=nan"], ["table=nan", "no such choice"]),
        (["table=[prune]"], ["table", "one choice"]),
        (
            ["attack=prune", "attack.sparcity=1"],
            ["attack.sparcity", "did you mean attack.sparsity"],
        ),
        (["attack.sparcity=1"], ["attack has: ", "student"]),
        (["+sed=1"], ["sed", "did you mean seed"]),
        (["+data.roles.onwer=1"], ["data.roles.onwer", "did you mean data.roles.owner"]),
        (["++method._partial_=true"], ["method._partial_", "no such key"]),
        (["+model@foo=vgg11"], ["foo", "no such key"]),
        (["+method.simulated_attacks.more=1"], ["simulated_attacks.more=1", "a mapping"]),
        (["+attack.colluders=true"], ["attack.colluders=True", "a list"]),
        (["~hydra.run"], ["hydra.run", "needs it"]),
        # Interpolations.
        (["attack.recipe.epochs=3"], ["attack.recipe is ${recipe}", "change that"]),
        (["++attack.recipe.epochs=0"], ["attack.recipe is ${recipe}", "change that"]),
        (["seed=${sed}"], ["seed", "'sed' not found"]),
        (["seed=${seed}"], ["seed", "Recursive"]),
        (["+innocents.kinds.mine=${method}"], ["innocents.kinds.mine"]),
        # Sweeps.
        (["-m", "seed=range(0,5,-1)"], ["seed=range(0,5,-1)", "from 1 to"]),
        (["-m", "method=glob(x*)"], ["method", "no choice", "x*"]),
        (["-m", "recipe.lr=interval(0,1)"], ["recipe.lr=interval(0,1)", "VALUE,VALUE"]),
        (["-m", "recipe.lr=0.1,0"], ["recipe.lr=0", "above 0"]),
    ],
)
def test_a_wrong_override_is_named(line, words, tmp_path):
    if not any(part.startswith("output_dir") for part in line):
        line = [*line, f"output_dir={tmp_path}"]
    with pytest.raises(InputError) as error:
        check_arguments(line)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "line",
    [
        [],
        ["-m", "method=usp,csp", "attack=finetune,prune,distill"],
        ["-m", "method=usp,csp", "seed=range(0,5)"],
        ["method=usp", "method/detector=linear", "attack/student=hard"],
        ["model@attack.network=convnet", "attack.network.width=64"],
        ["recipe.lr=1"],
        ["data=hub", "data.name=uoft-cs/cifar100"],
        ["data=cifar10", "data.path=/somewhere"],
        ["verifier.levels.exact=1e-9"],
        ["method.message='17'"],
        ["trainer.threads=2"],
        ["data=hub", "data.name=x", "data.source.test_split=null"],
        ["data=cifar10", "data.path=x", "data.roles.limit=null"],  # its protocol has a limit
        ["attack=distill_finetune", "attack.steps.2.lr_factor=0.01"],
        ["attack=distill_finetune", "attack@attack.steps.1=distill_hot", "~attack.steps.2"],
        ["+attack@method.simulated_attacks.more=prune", "~method.simulated_attacks.distill"],
        ["+innocents.kinds.mine={party: owner}", "++recipe.lr=1", "trainer.threads=null"],
        ["worker=/somewhere", "verifier.messages=[one,two]"],
    ],
)
def test_a_right_line_passes(line, tmp_path):
    line = [*line, f"output_dir={tmp_path}"]
    config = check_arguments(line)
    if "-m" not in line:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", line)
        assert config == with_absolute_paths(OmegaConf.to_container(composed, resolve=True))


@pytest.mark.parametrize(
    ("line", "single"),
    [
        (["-m", "attack=finetune,retrain", "attack.samples=30"], ["attack.samples=30,30"]),
        (["table=unambiguity", "attack.keys=1"], ["attack.keys=1,1"]),
        (["-m", "attack=prune,none", "+attack.x={a: 1}"], ["+attack.x={a: 1},{a: 1}"]),
        (
            ["-m", "method/detector=mlp,linear", "method.detector.jitter=0"],
            ["method.detector.jitter=0,0"],
        ),
        (
            ["-m", "method=usp_margin,csp_margin", "method/detector@method.soft.detector=mlp"],
            ["method/detector@method.soft.detector=mlp,mlp"],
        ),
        (["-m", "seed=0,1", "attack=finetune", "attack.samples=30", "~attack.lr_factor"], []),
        (["-m", "attack=finetune,retrain", "attack.samples=3,30", "recipe.epochs=3"], []),
        (["-m", "attack=finetune,retrain", "attack.layers="], []),
        (["--help"], []),
    ],
)
def test_a_value_inside_of_a_swept_group_is_a_sweep_of_one(line, single):
    changed = [new for old, new in zip(line, to_hydra_arguments(line), strict=True) if new != old]
    assert changed == single


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return check_arguments(["attack=finetune", f"output_dir={tmp_path_factory.mktemp('outputs')}"])


def changed(config, key, value):
    """``config`` with another ``value`` of the dotted ``key``; without the key for ``...``."""
    config = copy.deepcopy(config)
    *above, last = key.split(".")
    node = config
    for part in above:
        node = node[part]
    node[last] = value
    if value is ...:
        del node[last]
    return config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("recipe.epochs", "abc", ["recipe.epochs=abc", "whole number"]),
        ("recipe.epochs", True, ["recipe.epochs=True", "whole number"]),
        ("recipe.epochs", 0, ["recipe.epochs=0", "above 0"]),
        ("recipe.lr", float("nan"), ["recipe.lr=nan", "a number"]),
        ("recipe.epoch", 1, ["recipe.epoch", "did you mean epochs"]),
        ("recipe.pad", ..., ["recipe.pad is missing"]),
        ("attack.recipe", {"epochs": 0}, ["attack.recipe", "Recipe is needed"]),
        ("attack.layers", "first", ["attack.layers=first", "all or last"]),
        ("attack.samples", "few", ["attack.samples=few", "a number or null"]),
        ("attack._target_", "no.such", ["attack._target_=no.such", "No module"]),
        ("attack._target_", None, ["attack._target_=None"]),
        ("attack._target_", "os.system", ["attack._target_=os.system"]),
        ("attack._recursive_", False, ["attack"]),
        ("method.message", ..., ["method.message is missing"]),
        ("method.message", "", ["method.message is empty"]),
        ("method.detector", None, ["method.detector=None", "_partial_"]),
        ("method.detector.hidden", "/dev/null", ["method.detector.hidden=/dev/null", "a list"]),
        ("method.detector.hidden", ["a"], ["method.detector.hidden", "a whole number"]),
        ("method.marking.foo", 1, ["method.marking.foo", "no such argument"]),
        ("method.marking._target_", "softmark.recipe.Recipe", ["method.marking", "Marking"]),
        ("method.simulated_attacks.foo", {"a": 1}, ["method.simulated_attacks", "Attack"]),
        ("verifier", 5, ["verifier", "a mapping"]),
    ],
)
def test_a_node_that_makes_nothing_is_named(config, key, value, words):
    top = key.split(".")[0]
    with pytest.raises(InputError) as error:
        make(changed(config, key, value)[top], top)
    for word in words:
        assert word in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("top", ["recipe", "model", "method", "attack", "verifier"])
def test_a_node_is_made_without_its_name(config, top):
    assert make(config[top], top) is not None


class Named:
    def __init__(self, *, name: str = "a", width: int = 1):
        pass


class Controlled:
    def __init__(self, *, control: object = None):
        pass


@pytest.mark.parametrize(("kind", "argument"), [(Named, "name"), (Controlled, "control")])
@pytest.mark.parametrize("given", [{}, {"name": "b", "control": "b"}])
def test_a_class_that_takes_what_tables_read_is_not_configurable(kind, argument, given):
    """Addresses leave these out, so that two objects would have one address."""
    node = {"_target_": f"{__name__}.{kind.__name__}", **given}
    for outer, place in ((node, "attack"), ({"_target_": "builtins.dict", "a": node}, "attack")):
        with pytest.raises(InputError) as error:
            make(outer, place)
        (line,) = str(error.value).splitlines()
        assert line.startswith("attack")
        assert f"argument called {argument}" in line


def test_no_class_of_a_config_takes_what_tables_read():
    folders = [ROOT / "conf", ROOT / "tests/sketches/conf"]
    texts = [path.read_text() for folder in folders for path in folder.rglob("*.yaml")]
    targets = {target for text in texts for target in re.findall(r"_target_: ([\w.]+)", text)}
    assert len(targets) > 90
    for target in targets:
        taken = inspect.signature(get_class(target)).parameters
        assert not set(DISPLAY_KEYS) & set(taken), target


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder ``mine`` of somebody's own configs; one attack has a name that ours once had."""
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "search"):
        path = tmp_path / f"mine/attack/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        node = f"name: {name}\n_target_: softmark.attacks.prune.Prune\nsparsity: 0.3\n"
        path.write_text(f"# Prunes less.\n{node}")
    (tmp_path / "mine/table").mkdir()
    table = (CONF / "table/prune.yaml").read_text().replace("attack: prune", "attack: mine")
    (tmp_path / "mine/table/mine.yaml").write_text(table)


@pytest.mark.parametrize(
    "line",
    [
        ["--config-dir", "mine", "-m", "attack=mine,prune"],
        ["hydra.searchpath=[mine]", "attack=mine"],
        ["-m", "hydra.searchpath=[file://mine]", "attack=glob(m*)"],
        ["--config-dir=mine", "table=mine", "method=csp", "attack.sparsity=0.3"],
    ],
)
def test_what_hydra_finds_is_found(line, mine):
    config = check_arguments(line, writes=False)
    assert (config["attack"]["name"], config["attack"]["sparsity"]) == ("mine", 0.3)


def test_others_attacks_are_explained_and_keep_their_names(mine, capsys):
    words = ["--config-dir", "mine", "--help", "attack=mine"]
    assert help_of_choices(words).startswith("attack=mine: ")
    assert "Prunes less." in help_of_choices(words)
    with configs(folders_of(words)):
        assert current(["attack=search"]) == ["attack=search"]
    with configs():
        assert current(["attack=search"]) == ["attack=adaptive_search"]


def test_hydras_own_word_for_a_sweep_makes_one():
    check_arguments(["hydra.mode=MULTIRUN", "method=usp,csp"], writes=False)
    with pytest.raises(InputError, match="add -m"):
        check_arguments(["hydra.mode=RUN", "method=usp,csp"], writes=False)


def test_what_is_swept_over_is_named_itself():
    with pytest.raises(InputError, match=r"hydra.sweeper.params.seed: .* seed=0,1"):
        check_arguments(["-m", "+hydra.sweeper.params.seed='0,1'"], writes=False)


def test_a_wrong_number_answers_without_torch(tmp_path):
    code = (
        "import sys; from softmark.sweep.command_line import check_arguments\n"
        "try: check_arguments(sys.argv[1:])\n"
        "except ValueError as error: print(error, 'torch' in sys.modules)"
    )
    line = [sys.executable, "-c", code, "recipe.lr=0", f"output_dir={tmp_path}"]
    process = subprocess.run(line, capture_output=True, text=True, check=True)
    assert process.stdout == "recipe.lr=0: it must be above 0 False\n"
