"""Attacks on a module of one's own, without any config."""

import copy
import dataclasses
import functools
import importlib
import inspect
import pkgutil
import subprocess
import sys
import threading
import typing

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import softmark.attacks
from helpers import ROOT
from helpers.cells import composed
from softmark import attacks
from softmark.attacks.answers import Change
from softmark.attacks.attack import Attack, EpochsAttack, TrainingAttack
from softmark.attacks.shadow import new_network, renewed
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.nodes import make
from softmark.recipe import Recipe

SHORT = Recipe(epochs=1, batch_size=16, lr=0.02, pad=1)


def defined(kind: type) -> list[type]:
    """Return the subclasses of ``kind`` that the modules of softmark.attacks define."""
    found = []
    for info in pkgutil.iter_modules(attacks.__path__):
        module = importlib.import_module(f"softmark.attacks.{info.name}")
        found += [
            one
            for one in vars(module).values()
            if isinstance(one, type) and issubclass(one, kind) and one.__module__ == module.__name__
        ]
    return found


ATTACKS = [one for one in defined(Attack) if one not in (Attack, EpochsAttack, TrainingAttack)]


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def data(count: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    labels = torch.arange(count) % 3
    images = torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    return images + (90 * labels).to(torch.uint8)[:, None, None, None], labels


def watermark():
    """A watermark of the attacker's, trained for a moment."""
    node = composed(("method=uchida", "~protocol", "method.bits=4"))["method"]
    recipe = {"_target_": "softmark.recipe.Recipe", **dataclasses.asdict(SHORT)}
    return make({**node, "recipe": recipe}, "method")


def quick(kind: type) -> Attack:
    """Return an attack of ``kind`` that takes no time."""
    small = {"recipe": SHORT, "epochs": 1, "rounds": 1, "keys": 2, "trials": 2, "copies": 2}
    small |= {"queries": 200, "batch_size": 16, "per_class": 4, "max_steps": 3}
    names = {one.name for one in dataclasses.fields(kind)}
    settings = {name: value for name, value in small.items() if name in names}
    if "method" in names:
        settings["method"] = watermark()
    if "distill" in names:
        settings["distill"] = attacks.Distill(recipe=SHORT)
    return kind(**settings)


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("floats", [False, True], ids=["uint8", "floats"])
def test_every_attack_takes_a_plain_module_and_tensors(kind, floats):
    given, (images, labels) = model(), data()
    inputs = images.float() / 255 if floats else images
    before = copy.deepcopy(given.state_dict())
    rest = [model(), given] if kind.merges else given
    suspect = quick(kind)(rest, (inputs, labels))
    assert isinstance(suspect, nn.Module)
    assert not suspect.training
    answers = suspect(images.float() / 255)
    assert answers.shape == (48, 3)
    assert answers.isfinite().all()
    assert suspect is not given
    assert all(torch.equal(before[name], value) for name, value in given.state_dict().items())
    # It can be attacked again.
    again = attacks.Keep()(suspect, (images.float() / 255, labels))
    torch.testing.assert_close(again(images.float() / 255), answers)


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_an_attack_is_a_keyword_only_dataclass_that_needs_no_argument(kind):
    assert dataclasses.is_dataclass(kind)
    assert vars(kind).get("__dataclass_fields__") is not None
    kind()
    assert all(one.kw_only for one in dataclasses.fields(kind))
    # Where types can't be told, numbers of a config would go unchecked.
    assert {"access", *(one.name for one in dataclasses.fields(kind))} <= set(
        typing.get_type_hints(kind)
    )


def test_every_attack_and_change_is_listed():
    public = {
        one.__name__ for kind in (Attack, Change, attacks.InputChange) for one in defined(kind)
    }
    assert public - {"EpochsAttack", "TrainingAttack", "Learnt"} <= set(attacks.__all__)
    for name in attacks.__all__:
        assert inspect.isclass(getattr(attacks, name))
    assert dir(softmark.attacks) == sorted(attacks.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = attacks.Nothing


def test_the_names_cost_no_torch():
    code = "import sys, softmark; dir(softmark.attacks); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- defaults ------------------------------------------------------------------------------------


def interpolated(node) -> bool:
    return isinstance(node, str) and node.startswith("${")


def config_of(name: str) -> dict:
    """Return the YAML of an attack with its groups, and ``None`` for what another key decides."""
    whole = composed((f"attack={name}", "~protocol", "scale=small", *PLAIN))
    return whole["attack"] if "_target_" in whole["attack"] else {}


def plain(value):
    """Return what an attack is made of, as containers that can be compared."""
    if isinstance(value, functools.partial):
        names = inspect.signature(value.func).parameters
        defaults = {
            name: one.default for name, one in names.items() if one.default is not one.empty
        }
        given = {**defaults, **value.keywords}
        return value.func, {name: plain(given[name]) for name in given if name not in OPEN}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.name not in OPEN]
        return type(value), {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    return list(value) if isinstance(value, list | tuple) else value


OPEN = ("network", "method")  # what a call finds by itself
PLAIN = ("recipe.pad=0", "recipe.flip=false")  # only a config says that pictures may be augmented
CONFIGS = sorted(path.stem for path in (ROOT / "conf/attack").glob("*.yaml"))


@pytest.mark.parametrize("kind", ATTACKS, ids=lambda kind: kind.__name__)
def test_the_defaults_are_those_of_the_config(kind):
    full = f"{kind.__module__}.{kind.__name__}"
    nodes = {name: config_of(name) for name in CONFIGS if names_class(name, kind.__name__)}
    made = [make(node, "attack") for node in nodes.values() if node["_target_"] == full]
    assert made
    assert plain(kind()) in [plain(one) for one in made]


def names_class(name: str, kind: str) -> bool:
    """Return whether the YAML ``name``, or one that it begins with, names the class."""
    node = OmegaConf.load(ROOT / f"conf/attack/{name}.yaml")
    if "_target_" in node:
        return node["_target_"].endswith(f".{kind}")
    return any(isinstance(one, str) and one in CONFIGS and names_class(one, kind)
               for one in node.get("defaults", []))  # fmt: skip


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "conf/attack/change").glob("*"))
)
def test_the_defaults_of_a_change_are_those_of_its_config(name):
    config = composed(("attack=serve", f"attack/change={name}", "~protocol", "scale=small", *PLAIN))
    made = make(config["attack"]["change"])
    assert plain(type(made)()) == plain(made)


def test_a_wrapped_model_is_attacked_as_the_plain_one():
    wrapped = nn.DataParallel(model())
    attacked = attacks.FineTune(recipe=SHORT, layers="all")(wrapped, data())
    assert set(attacked.state_dict()) == set(model().state_dict())


def locked() -> nn.Module:
    """A model that can't be copied."""
    given = model()
    given.lock = threading.Lock()
    return given


# --- what can't be attacked so --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "given", "words"),
    [
        (attacks.Keep(), (model(), data()[0]), "two tensors"),
        (attacks.Keep(), (model(), (data()[0], data()[1][:3])), "labels: 48 whole numbers"),
        (attacks.Keep(), (model(), (data()[0], data()[1].float())), "whole numbers"),
        (attacks.Keep(), ([model()], data()), "Keep takes one model"),
        (attacks.AverageWeights(), (model(), data()), "AverageWeights takes a list of models"),
        (attacks.AverageWeights(), ([], data()), "a list of models"),
        (attacks.Inputs(), (model(), (3 * data()[0].float(), data()[1])), "changes pictures"),
        (attacks.FineTune(), (nn.Flatten(), data()), "no last layer called head"),
        (attacks.Keep(), (locked(), data()), r"it can't be copied \(cannot pickle"),
        (attacks.Keep(), (nn.Linear(5, 3), data()), r"it can't take data of shape \(1, 8, 8\)"),
        (attacks.Keep(), (nn.Sequential(model(), nn.Softmax(1)), data()), "gives probabilities"),
    ],
)
def test_what_cannot_be_attacked_is_said_in_one_line(attack, given, words):
    with pytest.raises(InputError, match=words) as error:
        attack(*given)
    assert "\n" not in str(error.value)


class Scaled(nn.Module):
    """A layer whose weights nobody else can draw anew."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))
        self.layer = nn.Linear(2, 3)

    def forward(self, rows):
        return self.factor * self.layer(rows)


ROWS = (torch.rand(40, 2), torch.arange(40) % 3)


def test_a_network_that_cannot_be_drawn_anew_is_asked_for():
    with pytest.raises(InputError, match=r"network=.*a module, or a function"):
        attacks.Distill(recipe=SHORT)(Scaled(), ROWS)
    flat = dataclasses.replace(SHORT, pad=0, flip=False)
    for network in (nn.Linear(2, 3), lambda: nn.Linear(2, 3), functools.partial(nn.Linear, 2, 3)):
        student = attacks.Distill(recipe=flat, network=network)(Scaled(), ROWS)
        assert isinstance(student, nn.Linear)


def test_a_student_has_new_weights_and_the_same_architecture():
    given = model()
    torch.manual_seed(5)
    fresh = renewed(given)
    torch.manual_seed(6)
    assert not torch.equal(renewed(given)[0].weight, fresh[0].weight)
    assert not torch.equal(fresh[5].weight, given[5].weight)
    assert [type(one) for one in fresh] == [type(one) for one in given]


def test_a_student_begins_with_the_weights_that_a_function_gives():
    public = model()
    assert new_network(lambda: public, Samples(*ROWS), 3) is public


def test_rows_get_no_crops_unless_somebody_says_so():
    student = attacks.Distill()(nn.Linear(2, 3), ROWS)
    assert student(ROWS[0]).shape == (40, 3)
    with pytest.raises(InputError, match="no pictures"):
        attacks.Distill(recipe=SHORT)(nn.Linear(2, 3), ROWS)


def test_the_result_tells_how_often_was_asked():
    result = attacks.Distill(recipe=SHORT).run(model(), data())
    assert (result.queries, result.key) == (48, None)
    result = attacks.Forge(method=watermark(), keys=2).run(model(), data())
    assert result.key is not None


def test_served_answers_are_log_probabilities():
    images, labels = data()
    suspect = attacks.Serve(change=attacks.Flatten())(model(), (images, labels))
    p = suspect(images.float() / 255).exp()
    torch.testing.assert_close(p.sum(1), torch.ones(48))
    two = p.sort(1).values[:, :2]
    torch.testing.assert_close(two[:, 0], two[:, 1])
    torch.testing.assert_close(suspect(images), suspect(images.float() / 255))
