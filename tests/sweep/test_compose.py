"""A cell's config: its job's, whatever the overrides are, and shared between seeds."""

import os
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf, open_dict

import softmark.settings
from helpers.cells import described, write_record
from softmark.experiment.plan import decode_data, plan
from softmark.report.sweep_table import gather
from softmark.settings import configs, with_absolute_paths
from softmark.sweep.command_line import cells_of, expand_sweep, to_hydra_arguments
from softmark.sweep.compose import CellComposer, _follows_seed
from softmark.sweep.spelling import folders_of, spelled

# Few files, of which Hydra makes a config in a quarter of the time, with all that conf/ has: groups
# inside of groups, files that set something elsewhere, defaults that follow others.
FILES = {
    "config": "defaults: [_self_, {data: digits}, {method: a}, {attack: x}, {scale: small},"
    " {optional protocol: '${data}_${scale}'}]\n"
    "seed: 0\nrecipe: {epochs: 3, lr: 0.1}\noutput_dir: outputs\n",
    "data/digits": "name: d\npath: null\nsource: {path: '${..path}'}\nroles: {split_seed: 0}\n",
    "method/a": "defaults: [_self_, detector: mlp]\nname: a\nepochs: '${recipe.epochs}'\n"
    "message: hi\n",
    "method/b": "name: b\nmessage: ho\n",
    "method/detector/mlp": "hidden: [3]\nlr: 0.1\n",
    "method/detector/linear": "hidden: []\nlr: '${seed}'\n",
    "attack/x": "name: x\nrecipe: '${recipe}'\np: 0.5\n",
    "attack/y": "name: y\np: 0.1\nsteps: {a: 1, b: '${..p}'}\n",
    "scale/small": "name: small\n",
    "scale/large": "# @package _global_\nscale: {name: large}\nrecipe: {epochs: 90}\n"
    "method: {message: of the scale}\n",
    "protocol/digits_small": "# @package _global_\nrecipe: {lr: 0.3}\n",
}


@pytest.fixture
def small_conf(tmp_path, monkeypatch):
    """A folder in which to run, and beside it a conf/ of FILES instead of softmark's."""
    for name, text in FILES.items():
        path = tmp_path / f"conf/{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    mine = tmp_path / "run/mine/attack/mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: mine\np: ${seed}\nrecipe: ${recipe}\n")
    monkeypatch.setattr(softmark.settings, "CONF", tmp_path / "conf")
    monkeypatch.chdir(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def composed_sweep(words: list[str]) -> DictConfig:
    """The config of a sweep, as Hydra has it before it launches jobs."""
    hydra = GlobalHydra.instance().hydra
    sweep = hydra.compose_config(
        "config", to_hydra_arguments(words), RunMode.MULTIRUN, with_log_configuration=False
    )
    str(OmegaConf.select(sweep, "output_dir"))  # as in hydra.sweep.dir
    return sweep


def configs_of_jobs(sweep: DictConfig, overrides: list[str]) -> list[dict]:
    """What Hydra's own sweeper and launchers compose for each job."""
    parsed = OverridesParser.create(GlobalHydra.instance().config_loader()).parse_overrides(
        overrides
    )
    (jobs,) = BasicSweeper.split_arguments(parsed, None)
    # Of many cells the first and the last.
    return [config_of_job(sweep, job) for job in (jobs[0], jobs[-1])]


def config_of_job(sweep: DictConfig, overrides: list[str]) -> dict:
    config = GlobalHydra.instance().config_loader().load_sweep_config(sweep, overrides)
    with open_dict(config):
        del config["hydra"]
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return with_absolute_paths(plain)


def outcome(make, *arguments):
    try:
        return make(*arguments)
    except Exception as error:
        return type(error)


QUOTED = st.sampled_from(["'{}'", '"{}"', "{}"])
VALUES = {
    "seed": ["0", "0,1", "0,1", "range(0,2)", "1,${recipe.epochs}"],
    "recipe.epochs": ["2", "2,4", "${seed}", "'${seed}',5", "${attack.p}", "${oc.env:N,7}"],
    "recipe.lr": ["0.5", "${data.roles.split_seed}", "choice(${seed},${recipe.epochs})"],
    "data.roles.split_seed": ["${seed}", "4,${seed}", "${..split_seed}", "${oc.select:seed}"],
    "data.path": ["~/x", "größe", "a b,/c", "'${method.name}/d'", "null", "~/ä (1)"],
    "data.source.path": ["e", "${output_dir}/f"],
    "method": ["a,b", "b", "glob(*)"],
    "method/detector": ["linear", "mlp,linear"],
    "method.message": ["'a,b','${seed}'", "${attack.name}", "x\\,y", "'it\\'s'", "ö!,z"],
    "++method.epochs": ["${recipe.epochs}", "1,2", "${seed}"],
    "attack": ["x,y", "y", "mine", "x,mine", "glob([m*,x])"],
    "attack.p": ["0.2,0.3", "${recipe.lr}", "${seed}", "'${seed}'"],
    "+attack.more": ["[1,${seed}]", "{k: ${seed}}", "${method}"],
    "scale": ["large", "small,large"],
    "output_dir": ["by/${method.name}", "~/o", "'~/o/${seed}'", "'o ö'", "${now:%f}", "o,p"],
    "+data@method.other": ["digits"],
    "hydra.job.chdir": ["true"],
    "hydra.searchpath": ["[mine]", "['mine']"],
}
LINES = [(key, value) for key, values in VALUES.items() for value in values]


# Few: each composes a sweep and its jobs three times.
@settings(
    max_examples=int(os.environ.get("SOFTMARK_EXAMPLES", "2")),
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.sampled_from(LINES), min_size=2, max_size=6, unique_by=lambda line: line[0]))
@example([("seed", "0,1"), ("data.roles.split_seed", "${seed}"), ("output_dir", "${now:%f}")])
@example([("method", "glob(*)"), ("method.message", "'it\\'s'"), ("attack.p", "0.2")])
@example([("method", "a,b"), ("output_dir", "by/${method.name}"), ("attack", "x,y")])
@example([("attack", "x,mine"), ("hydra.searchpath", "[mine]"), ("attack.p", "${seed}")])
def test_a_cells_config_is_its_jobs(small_conf, lines):
    words = spelled([f"{key}={value}" for key, value in lines])
    with configs(folders_of(words)):
        sweep = outcome(composed_sweep, words)
        if isinstance(sweep, type):
            return
        task = [word for word in words if not word.startswith("hydra.")]
        wanted = outcome(configs_of_jobs, sweep, task)
        composer = CellComposer(sweep)
        # All of them, as one may be put together from what another has left.
        got = outcome(lambda: [composer.compose(cell) for cell in cells_of(sweep)])
        if isinstance(got, list):
            got = [got[0], got[-1]]
        assert got == wanted


def test_a_sweeps_table_reads_the_records_of_its_jobs(tmp_path, monkeypatch):
    """Each cell's own folder and split: what its job has written, and no other cell's figures."""
    monkeypatch.chdir(tmp_path)
    words = spelled(
        [
            "method=csp",
            "attack=prune",
            "seed=0,1",
            "recipe.lr=0.05,${recipe.momentum}",
            "data.roles.split_seed=${seed}",
            "output_dir=ö o/${method.name}",
            "scale=smoke",
        ]
    )
    with configs():
        sweep = composed_sweep(words)
        cells = cells_of(sweep)
        for cell in (cells[0], cells[3]):
            config = config_of_job(sweep, cell)
            decode_data(config)
            write_record(Path(config["output_dir"]), described(plan(config), cell))
        rows, varied, problems = gather(cells, sweep)
    assert varied == ["method", "attack", "recipe.lr"]
    assert [row.name[2] for row in rows] == ["0.05", "${recipe.momentum}"]
    splits = [
        [record and record["config"]["data"]["roles"]["split_seed"] for record in row.records]
        for row in rows
    ]
    assert splits == [[0, None], [None, 1]]
    assert [problem.reason for problem in problems] == ["missing"] * 2
    assert len(list((tmp_path / "ö o/csp/records").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (["a=1,${seed}"], [["a=1"], ["a=${seed}"]]),
        (["a=choice('17',b)"], [["a='17'"], ["a=b"]]),
        (["a=choice('it\\'s',1)"], [["a='it\\'s'"], ["a=1"]]),
        (
            ["a=true,'true',null,'null'"],
            [["a=True"], ["a='true'"], ["a=null"], ["a='null'"]],
        ),
        (["a='1,2',[1,${b}],{c:1}"], [["a='1,2'"], ["a=[1,${b}]"], ["a={c:1}"]]),
        (["a=x\\,y,z"], [["a=x\\,y"], ["a=z"]]),
        (["a=0,0", "b=1", "a=2"], [["a=2", "b=1"]]),
    ],
)
def test_a_cell_is_told_what_was_given(words, cells):
    assert expand_sweep(words) == cells


def test_a_text_inside_of_a_swept_group_stays_a_text():
    given = ["method.message='17'", "method.x='it\\'s'", "method.y=null", "method.z=[a,'1']"]
    words = to_hydra_arguments(["-m", "method=usp,csp", *given])
    assert expand_sweep(words[1:]) == [[f"method={name}", *given] for name in ("usp", "csp")]


@pytest.mark.parametrize(
    ("text", "follows"),
    [("${seed}", True), ("a ${..seed}", True), ("${oc.env:${x}}", True), ("seed", False)],
)
def test_what_follows_from_the_seed_is_seen(text, follows):
    assert _follows_seed(OmegaConf.create({"roles": [{"split": text}]})) == follows


def test_a_config_that_follows_the_seed_is_no_other_seeds(monkeypatch):
    with configs():
        composer = CellComposer()
        plain = composer.compose(["method=csp", "seed=1"])
        assert composer.compose(["method=csp", "seed=2"])["data"] is plain["data"]
        monkeypatch.setattr("softmark.sweep.compose._follows_seed", lambda config: True)
        composer = CellComposer()
        first, second = (composer.compose(["method=csp", f"seed={n}"]) for n in (1, 2))
        assert (first["seed"], second["seed"]) == (1, 2)
        assert first["data"] is not second["data"]
