"""Methods without any config: their defaults are the config's, and they take plain tensors."""

import dataclasses
import functools
import inspect
import typing

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import nn

import softmark.methods
from helpers import ROOT
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods import CSP, Adi, Fit, Key, Unmarked, Watermark
from softmark.models.access import Suspect
from softmark.nodes import make
from softmark.recipe import Recipe

METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))


def check_defaults(made: typing.Any, node: dict) -> None:
    """Compare the numbers of ``made`` with ``node``, whose interpolations are resolved."""
    for field in dataclasses.fields(made):
        value, wanted = getattr(made, field.name), node[field.name]
        if field.name in ("recipe", "simulated_attacks"):
            continue  # recipes are compared elsewhere; nothing is simulated without a config
        if isinstance(value, functools.partial):
            parameters = inspect.signature(value).parameters.values()
            numbers = {one.name: one.default for one in parameters if one.default != one.empty}
            wanted = {name: number for name, number in wanted.items() if name[0] != "_"}
            assert {**numbers, "hidden": list(numbers["hidden"])} == wanted
        elif dataclasses.is_dataclass(value):
            assert type(value) is get_class(wanted["_target_"])
            check_defaults(value, wanted)
        else:
            assert value == wanted, field.name


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_defaults_are_those_of_its_config(name, cell):
    node = cell(f"method={name}", "scale=small")["method"]
    kind = get_class(node["_target_"])
    # Several configs share a class: those of its defaults are its own.
    variants = {"noise", "unrelated", "csp_margin", "dawn_often", "mat_released"}
    if dataclasses.is_dataclass(kind) and name not in variants:
        check_defaults(kind(), node)


@pytest.mark.parametrize("name", METHODS)
def test_a_control_is_named_with_all_its_numbers(name, cell):
    control = cell(f"method={name}")["method"].get("control")
    if control:
        kind = get_class(control["_target_"])
        assert {field.name for field in dataclasses.fields(kind)} == set(control) - {"_target_"}


@pytest.mark.parametrize("name", METHODS)
def test_every_number_of_a_method_is_checked_by_its_type_and_has_a_sentence(name, cell):
    kind = get_class(cell(f"method={name}")["method"]["_target_"])
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        assert {field.name for field in dataclasses.fields(kind)} <= set(hints)


@pytest.mark.parametrize("name", softmark.methods.__all__)
def test_every_public_name_is_there(name):
    assert getattr(softmark.methods, name) is not None
    assert name in dir(softmark.methods)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        softmark.methods.Nothing  # noqa: B018


def test_plain_modules_and_tensors_give_the_same_evidence_as_ours():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    inputs, labels = torch.randint(256, (60, 1, 8, 8), dtype=torch.uint8), torch.arange(60) % 10
    method = Adi(num_triggers=30, recipe=Recipe(epochs=1, batch_size=16, pad=0, flip=False))
    marked, key = method.embed(model, (inputs, labels), Fit("cpu"))
    ours = method.evidence(
        Suspect.of(marked).seen_by("labels"), key, method.probes(key, Samples(inputs, labels))
    )
    for probes in (method.probes(key, inputs), method.probes(key, pool=(inputs, labels))):
        plain = method.evidence(marked, key, probes)
        assert torch.equal(plain.scores, ours.scores)
        assert plain.tests == ours.tests


def test_a_plain_model_is_seen_no_further_than_the_method_needs():
    seen = []

    class Noting(Watermark):
        needs = "labels"

        def evidence(self, suspect, key, probes):
            seen.append((suspect, probes))

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    Noting().evidence(model, Key.draw("a", 10, bytes), torch.zeros(3, 1, 8, 8))
    ((suspect, probes),) = seen
    assert suspect.network is None
    assert set(suspect.answers(probes).unique().tolist()) <= {0.0, 1.0}
    assert probes.labels.tolist() == [-1, -1, -1]


def test_a_method_cant_be_changed_after_it_was_made():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CSP().epochs_factor = 3.0
    longer = CSP().scale_epochs(2)
    assert (CSP().epochs, longer.epochs) == (20, 40)
    assert longer.scale_epochs(0.5) == CSP()


def test_a_method_that_no_owner_can_use_does_nothing_for_one():
    method, like = Unmarked(), Samples(torch.zeros(3, 2), torch.zeros(3).long())
    assert not method.supports_owner
    assert method.scale_epochs(2) is method.with_numbers({}, 0) is method
    assert method.marking_numbers == {}
    assert len(method.trigger_probes(None, like)) == method.num_triggers == method.epochs == 0
    method.check_inputs(like.inputs)
    with pytest.raises(NotImplementedError):
        method.mark(None, None, None, like, None)


def test_a_yaml_that_leaves_a_number_out_is_refused(cell):
    node = cell("method=csp")["method"]
    del node["marking"]["gamma"]
    with pytest.raises(InputError, match=r"method\.marking\.gamma is missing"):
        make(node, "method")


def test_the_markings_of_both_papers_differ_where_their_configs_do():
    numbers = {
        name: OmegaConf.to_container(OmegaConf.load(ROOT / f"conf/method/marking/{name}.yaml"))
        for name in ("csp", "usp")
    }
    assert numbers["usp"].pop("detector_weight") == 0.1
    for node in numbers.values():
        del node["_target_"]
    assert {n for n, v in numbers["usp"].items() if numbers["csp"][n] != v} == {"eps"}
