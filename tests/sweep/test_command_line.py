"""Whatever is typed, no command line ends in a traceback before anything trains."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image

from softmark.errors import InputError
from softmark.experiment.plan import decode_data, plan
from softmark.nodes import make
from softmark.settings import CONF
from softmark.sweep.command_line import check_arguments

CHOICES = [
    [],
    [],
    ["attack=distill_finetune", "model=vgg11"],
    ["attack=collude_weights", "method/simulated_attacks=none"],
    ["method=csp", "attack=finetune", "data=imagefolder", "data.path=."],
]
GROUPS = [
    "data", "model", "innocents", "method", "attack", "verifier", "trainer", "logger", "scale",
    "table", "protocol", "method/detector", "method/marking", "method/simulated_attacks",
    "attack/student", "model@attack.network", "attack@method.simulated_attacks.more",
    "attack@attack", "model@recipe", "hydra", "hydra/launcher",
]  # fmt: skip
OTHERS = [
    "foo", "recipe.foo", "attack.recipe.lr", "attack.network.width", "method.marking.foo",
    "innocents.kinds.foo", "innocents.kinds.plain.party", "innocents.kinds.smoothed.recipe.lr",
    "data.roles.foo", "attack.name.foo", "method.detector.hidden.0", "attack.steps.2.lr_factor",
    "attack.layers", "attack.samples", "attack.colluders", "attack.steps.3", "data.path",
    "data.source.test_split", "attack._partial_", "method._recursive_", "model._args_",
]  # fmt: skip
VALUES = [
    "null", "true", "nan", "inf", "-inf", "1e400", "", "''", "' '", "0x10", "1_000", "-0",
    "[]", "[1]", "[null]", "[a,b]", "[[1]]", "[64,-1]", "{}", "{a: 1}", "{1: {}}", "{a: {b: 1}}",
    "{recipe: {lr: -1}}", "{party: owner}", "{attack: nothing}", "{_target_: x.y}",
    "/dev/null", "../up", "a/b", "'a b'", "'é\u2028☃'", "'a\\nb'", "a=b", "'${'", "\\${seed}", "~",
    "${seed}", "${recipe}", "${recipe.lr}", "${attack}", "${method}", "${nowhere}", "${..seed}",
    "${hydra:job.num}", "${oc.env:NOWHERE}", "${oc.decode:'['}", "${oc.dict.values:recipe}",
    "${foo:1}", "???", "1,2", "a,", "range(0,3)", "choice(1,nan)", "interval(0,1)", "glob(*)",
    "sort(2,1)", "int(3.5)",
    "softmark.recipe.Recipe", "os.system", "builtins.dict", "no.such", "softmark", "digits", "usp",
    "none", "prune", "csp", "vgg11", "smoke", "joblib", "linear", "32-true", "all", "owner",
]  # fmt: skip

NAMES = ["digits", "vgg11", "mixed", "usp", "csp", "prune", "standard", "csv", "smoke", "mlp"]


@functools.cache
def defaults() -> dict[str, Any]:
    """All dotted keys of the real config that name no group, and what they are."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("config"), resolve=True)
    return {key: value for key, value in _dotted(config) if not (CONF / key).is_dir()}


def _dotted(node: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        yield above + key, value
        if isinstance(value, dict):
            yield from _dotted(value, f"{above}{key}.")


def values(default: Any) -> st.SearchStrategy[str]:
    """Half of them have the type of ``default``."""
    number = st.integers(0, 300) | st.integers(-3, 3)
    word = st.sampled_from(["all", "last", "owner", "standard", "cpu", "csv", "x y", "plain"])
    right = {
        bool: st.booleans(),
        int: number,
        float: number | st.floats(-1, 2, width=16),
        str: word | word.map("'{}'".format),
        list: st.lists(number | word, max_size=2),
    }.get(type(default), number | word)
    odd = st.text("ab0 ,:=[]{}()'\"\\$~@+-.é\n\t", max_size=8)
    return st.one_of(right.map(str), right.map(str), right.map(str), st.sampled_from(VALUES), odd)


@st.composite
def lines(draw: st.DrawFn) -> str:
    """An override of a key that is there, or of one that isn't."""
    key = draw(st.sampled_from([*4 * list(defaults()), *OTHERS]))
    sign = draw(st.sampled_from(["", "", "", "", "+", "++", "++", "~", "~="]))
    if sign == "~":
        return sign + key
    return f"{sign.strip('=')}{key}={draw(values(defaults().get(key)))}"


@functools.lru_cache(maxsize=1000)
def _made(node: str, where: str) -> None:
    make(json.loads(node), where)


def _make_all(node: dict[str, Any], where: str = "") -> None:
    """Makes the objects of all nodes; one that was made before isn't made again."""
    for key, value in node.items():
        below = f"{where}.{key}" if where else key
        if isinstance(value, dict) and "_target_" in value:
            _made(json.dumps(value), below)
        elif isinstance(value, dict):
            _make_all(value, below)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder of pictures, in which the folders are made that an override names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        for kind in ("cat", "dog"):
            Path(kind).mkdir()
            Image.new("L", (8, 8)).save(f"{kind}/1.png")
        yield


def works_or_is_refused(line: list[str]) -> None:
    message = None
    try:
        config = check_arguments(line)
        decode_data(config)
        assert plan(config).record
        _make_all(config)
    except InputError as error:
        message = str(error)
    assert message is None or message.strip()


REPEATABLE = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@settings(REPEATABLE, max_examples=800)
@given(
    choices=st.sampled_from(CHOICES),
    line=st.lists(lines(), min_size=1, max_size=2),
    multirun=st.booleans(),
)
@example([], ["++attack.recipe.epochs=0"], False)
@example(["attack=prune"], ["++attack.recipe.epochs=0"], False)
@example([], ["++method.detector.hidden=/dev/null"], False)
@example([], ["++innocents.kinds=${seed}"], False)
@example([], ["~method.message=null"], False)
@example([], ["++trainer.accelerator=true"], False)
@example([], ["worker=inf"], False)
@example([], ["+seed=[null]"], False)
def test_a_value_works_or_is_refused(elsewhere, choices, line, multirun):
    works_or_is_refused([*["-m"] * multirun, *choices, *line])


# Few: composing takes a quarter of a second.
@settings(REPEATABLE, max_examples=50)
@given(
    sign=st.sampled_from(["", "+", "++", "~"]),
    group=st.sampled_from(GROUPS),
    choice=st.sampled_from(VALUES) | st.sampled_from(NAMES),
)
@example("~", "model", "true")
@example("~", "table", "nan")
def test_a_choice_works_or_is_refused(elsewhere, sign, group, choice):
    works_or_is_refused([f"{sign}{group}={choice}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["model.width=0"], r"^model\.width=0: a whole number from 1 to 100,000 is needed$"),
        (["-m", "model.width=8,0"], r"^model\.width=0: "),
        (["innocents.networks.vgg11.width=0"], r"^innocents\.networks\.vgg11\.width=0: a whole"),
        (["-m", "--cfg", "job"], r"^--multirun --cfg: one of them; --cfg job shows one cell's"),
        (["--info", "all", "--cfg", "job"], r"^--cfg --info: one of them"),
    ],
)
def test_what_hydra_or_torch_would_trip_over_is_told(elsewhere, line, message):
    with pytest.raises(InputError, match=message):
        check_arguments(line)
