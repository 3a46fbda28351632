"""Networks as files: each says what it is, and none can do more than name networks.

What may stand in a file is tried at random in ``forger/test_files_are_data.py``.
"""

import functools
import json
import math
import resource
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from helpers import ROOT
from helpers.training import fit, recipe, samples
from softmark.errors import InputError
from softmark.experiment.context import StageContext
from softmark.experiment.interface import MODEL
from softmark.models.files import load_network, read_tensors, save_network
from softmark.models.kinds import LEVELS, TOGETHER
from softmark.models.networks import KINDS, ConvNet, Ensemble, build
from softmark.store.address import Stage
from softmark.store.store import Store
from softmark.training import Classifier, predict

NODES = sorted((ROOT / "conf" / "model").glob("*.yaml"))
WHOLE = build(functools.partial(ConvNet, width=4), samples(), 3)
# What files/network_1.safetensors answered when it was written.
ANSWERS_OF_1 = [
    [-0.030181825160980225, -0.1701052337884903, -0.43538716435432434],
    [-0.03398919105529785, 0.12210152298212051, -0.18535208702087402],
    [-0.034019291400909424, 0.12183129042387009, -0.1855490803718567],
    [-0.034076206386089325, 0.12132035195827484, -0.1859215497970581],
]


def written(path: Path, node=WHOLE.node, tensors=None, **about: str | None) -> Path:
    """A file as ``save_network`` writes it, but for what is told."""
    metadata = {"format": "softmark network 2", "node": json.dumps(node), **about}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    safetensors.torch.save_file(tensors or WHOLE.state_dict(), path, metadata)
    return path


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_every_architecture_is_rebuilt_from_its_file_alone(path, tmp_path):
    node = OmegaConf.load(path)
    node.width = 8
    node.pop("name")
    torch.manual_seed(0)
    network = build(instantiate(node), samples(), 3)
    save_network(network, tmp_path / "model")
    again = load_network(tmp_path / "model")
    assert type(again) is type(network)
    assert again.node == network.node
    assert not again.training
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    images = samples().inputs
    torch.testing.assert_close(predict(again, images), predict(network, images))


def test_an_ensemble_of_several_architectures_is_rebuilt(tmp_path):
    torch.manual_seed(0)
    nodes = [OmegaConf.load(path) for path in NODES]
    for node in nodes:
        node.width = 8
        node.pop("name")
    network = Ensemble.of([build(instantiate(node), samples(), 3) for node in nodes])
    inside = Ensemble.of([WHOLE, network])
    for outer in (network, inside):
        save_network(outer, tmp_path / "model")
        again = load_network(tmp_path / "model")
        assert again.node == outer.node
        images = samples(8).inputs
        torch.testing.assert_close(predict(again, images), predict(outer, images))


def test_a_network_that_was_trained_and_read_again_can_be_trained_on(tmp_path):
    torch.manual_seed(0)
    network = build(functools.partial(ConvNet, width=4), samples(), 3)
    trained = fit()(Classifier(network, recipe()), samples(), "classifier")
    save_network(trained, tmp_path / "first")  # channels last, as training leaves it
    again = load_network(tmp_path / "first")
    images = samples().inputs
    torch.testing.assert_close(predict(again, images), predict(trained, images))
    assert all(parameter.requires_grad for parameter in again.parameters())
    on = fit()(Classifier(again, recipe()), samples(), "classifier")
    save_network(on, tmp_path / "second")
    assert load_network(tmp_path / "second").node == network.node


def test_tensors_and_metadata_come_back(tmp_path):
    tensors = {"a": torch.arange(3), "b.c": torch.tensor(1.5), "empty": torch.empty(0, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "told", {"x": "1", "y": "ü"})
    safetensors.torch.save_file(tensors, tmp_path / "silent")
    for name, about in (("told", {"x": "1", "y": "ü"}), ("silent", {})):
        read, said = read_tensors(tmp_path / name)
        assert said == about
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], value) for key, value in tensors.items())


# --- a file that isn't one --------------------------------------------------------------------


def test_a_broken_file_is_named(tmp_path):
    raw = written(tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(raw[:-10])
    (tmp_path / "short").write_bytes(raw[:-1])
    (tmp_path / "header").write_bytes(raw[:20])
    (tmp_path / "longer").write_bytes(raw + b"\0")
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("no safetensors at all")
    (tmp_path / "pickle").write_bytes(b"\x80\x04]q\x00.")
    torch.save(WHOLE.state_dict(), tmp_path / "torch")
    (tmp_path / "folder").mkdir()
    broken = {path.name for path in tmp_path.iterdir()} - {"whole"} | {"missing"}
    assert len(broken) == 10
    for name in broken:
        for read in (load_network, read_tensors):
            absent = name in ("missing", "folder")
            words = "it can't be read" if absent else "not a whole safetensors file"
            with pytest.raises(InputError, match=rf"/{name}: {words}"):
                read(tmp_path / name)
    load_network(tmp_path / "whole")


def test_weights_of_another_network_are_named(tmp_path):
    wider = {**WHOLE.node, "width": 8}
    other = {**WHOLE.node, "kind": "resnet", "depth": 18}
    for node in (wider, other):
        with pytest.raises(InputError, match=r"/model: weights of another network"):
            load_network(written(tmp_path / "model", node))
    fewer = {name: t for name, t in WHOLE.state_dict().items() if name != "head.bias"}
    more = {**WHOLE.state_dict(), "extra": torch.zeros(1)}
    typed = {**WHOLE.state_dict(), "head.bias": torch.zeros(3, dtype=torch.float64)}
    for tensors in (fewer, more, typed):
        with pytest.raises(InputError, match=r"/model: weights of another network"):
            load_network(written(tmp_path / "model", tensors=tensors))


@pytest.mark.parametrize("said", [None, "", "softmark network 3", "softmark key 2", "pt"])
def test_a_file_that_does_not_say_what_it_is_is_named(said, tmp_path):
    with pytest.raises(InputError, match=r"/model: it doesn't say which network it holds"):
        load_network(written(tmp_path / "model", format=said))


@pytest.mark.parametrize(
    "text",
    [None, "", "{", "null", "3", '"text"', "[]", "{}", '{"width": 4}', "[{}]", "[" * 9999],
    ids=lambda text: str(text)[:20],
)
def test_a_file_without_a_node_is_named(text, tmp_path):
    path = tmp_path / "model"
    for number in (1, 2):
        about = {"format": f"softmark network {number}"} | ({} if text is None else {"node": text})
        safetensors.torch.save_file(WHOLE.state_dict(), path, about)
        with pytest.raises(InputError, match=r"/model: "):
            load_network(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"width": -4},
        {"width": "four"},
        {"width": None},
        {"unknown": 1},
        {"width": 0},
        {"width": 100_001},
        {"width": 10**400},
        {"width": 4.0},
        {"width": True},
        {"classes": 1},
        {"classes": 1_000_001},
        {"image_shape": [1, 8]},
        {"image_shape": [1, 8, 10_001]},
        {"image_shape": [1, 7, 8]},
        {"image_shape": [10_001, 8, 8], "mean": [0.4] * 10_001, "std": [0.4] * 10_001},
        {"image_shape": "1x8x8"},
        {"mean": [0.4, 0.4]},
        {"mean": [math.nan]},
        {"mean": [math.inf]},
        {"mean": [10**400]},
        {"mean": ["0.4"]},
        {"std": [0.0]},
        {"std": {"0": 0.4}},
        {"kind": "resnet", "depth": 20},
        {"kind": "wideresnet", "depth": 256, "factor": 1},
        {"kind": "wideresnet", "depth": 10, "factor": 101},
        {"kind": "wideresnet", "depth": 10},
        {"kind": "ensemble"},
        {"networks": [WHOLE.node]},
        {"_partial_": True},
        {"_args_": [1, 2]},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_a_node_that_makes_no_network_is_named(changed, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", {**WHOLE.node, **changed}))


def test_an_ensemble_of_too_many_or_too_deep_is_named(tmp_path):
    deep = WHOLE.node
    for _ in range(LEVELS + 1):
        deep = {"kind": "ensemble", "networks": [deep]}
    many = {"kind": "ensemble", "networks": [WHOLE.node] * (TOGETHER + 1)}
    none = {"kind": "ensemble", "networks": []}
    one = {"kind": "other_tail", "networks": [WHOLE.node]}
    wrong = ((deep, "more than 4 levels"), (many, "of 65 netw"), (none, "of 0 netw"))
    for node, message in (*wrong, (one, "of 1 netw")):
        with pytest.raises(InputError, match=rf"/model: .*{message}"):
            load_network(written(tmp_path / "model", node))


@pytest.mark.parametrize(
    "name",
    [
        "softmark.models.networks.Nothing",
        "softmark.models.networks.ConvNet",  # the name of an older file
        "nowhere.Net",
        "ConvNet",
        "",
        None,
        ["a"],
        3,
    ],
)
def test_a_kind_that_there_is_none_of_is_named(name, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", {**WHOLE.node, "kind": name}))


def test_a_file_that_claims_too_much_costs_nothing(tmp_path):
    sizes = {"image_shape": [3, 32, 32], "mean": [0.4] * 3, "std": [0.2] * 3, "width": 100_000}
    node = {**sizes, "kind": "wideresnet", "classes": 1_000_000, "depth": 250, "factor": 100}
    node = {"kind": "ensemble", "networks": [node] * TOGETHER}
    path = written(tmp_path / "model", node)
    state = torch.get_rng_state()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"/model: weights of another network"):
        load_network(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000  # KiB
    assert torch.equal(torch.get_rng_state(), state)


def test_a_header_that_declares_too_much_costs_nothing(tmp_path):
    for shape, length in (([10**12], 0), ([10**12], 4 * 10**12), ([0, 2**63], 0), ([10**30], 0)):
        about = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, length]}}
        header = json.dumps(about).encode()
        (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(InputError, match="/a: not a whole safetensors file"):
            read_tensors(tmp_path / "a")


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":' * 50_000,
        b"[" * 50_000,
        b'{"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}',
        b'{"__metadata__": {"a": 3}}',
    ],
    ids=["deep", "a list", "a type of no torch", "metadata that isn't text"],
)
def test_a_header_that_is_none_is_named(header, tmp_path):
    (tmp_path / "a").write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(InputError, match="/a: not a whole safetensors file"):
        read_tensors(tmp_path / "a")


# --- a file of an older version ---------------------------------------------------------------


def test_a_file_of_the_older_format_answers_as_it_did(tmp_path):
    network = load_network(ROOT / "tests/files" / "network_1.safetensors")
    images = torch.linspace(0, 1, 4 * 64).view(4, 1, 8, 8)
    torch.testing.assert_close(network(images), torch.tensor(ANSWERS_OF_1))
    assert network.node["kind"] == "convnet"
    save_network(network, tmp_path / "model")
    assert read_tensors(tmp_path / "model")[1]["format"] == "softmark network 2"
    torch.testing.assert_close(load_network(tmp_path / "model")(images), network(images))


def old(node):
    """``node`` as the older format has it."""
    names = {kind: name for name, kind in KINDS.items()}
    if node["kind"] == "ensemble":
        node = {**node, "networks": [old(inner) for inner in node["networks"]]}
    return {"_target_": names[node["kind"]]} | {k: v for k, v in node.items() if k != "kind"}


def test_an_ensemble_of_the_older_format_is_rebuilt(tmp_path):
    ensemble = Ensemble.of([Ensemble.of([WHOLE, WHOLE]), WHOLE])
    tensors = {name: tensor.clone() for name, tensor in ensemble.state_dict().items()}
    about = {"format": "softmark network 1"}
    path = written(tmp_path / "model", old(ensemble.node), tensors, **about)
    assert load_network(path).node == ensemble.node
    for name in ("softmark.models.networks.Network", "torch.nn.Linear", "", None, ["a"], 3):
        path = written(tmp_path / "model", {**old(WHOLE.node), "_target_": name}, **about)
        with pytest.raises(InputError, match=r"/model: "):
            load_network(path)
    path = written(tmp_path / "model", {**old(WHOLE.node), "kind": "convnet"}, **about)
    with pytest.raises(InputError, match=r"/model: "):
        load_network(path)


# --- a class of a user's own ------------------------------------------------------------------

OWN = """
from softmark.models.networks import ConvNet

class Net(ConvNet):
    def __init__(self, *, layout, **rest):
        super().__init__(**rest)
        self.layout = layout

def function(**arguments):
    raise AssertionError("a function was called")
"""


@pytest.fixture
def own_file(tmp_path, monkeypatch):
    """A file of a network whose class lies in a module of one's own, which isn't imported yet."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "own_package.py").write_text("from own_networks import Net as Renamed")
    monkeypatch.syspath_prepend(tmp_path)
    node = {**WHOLE.node, "kind": "own_networks.Net", "layout": {"rows": [1, "two"]}}
    yield written(tmp_path / "model", node)
    for name in ("own_networks", "own_package"):
        sys.modules.pop(name, None)


def test_a_class_of_ones_own_is_imported_only_where_it_is_allowed(own_file):
    for allowed in ((), ("gone.own_networks.Net",), ("softmark.models.networks.ConvNet",)):
        with pytest.raises(InputError, match=r"/model: it needs 'own_networks\.Net'.*MODULE:FUNC"):
            load_network(own_file, allowed)
        assert "own_networks" not in sys.modules
    network = load_network(own_file, {"own_networks.Net"})
    assert type(network).__name__ == "Net"
    assert network.layout == {"rows": [1, "two"]}
    assert torch.equal(network.head.weight, WHOLE.head.weight)
    again = own_file.with_name("again")
    save_network(network, again)
    assert load_network(again, {"own_networks.Net"}).node == network.node
    with pytest.raises(InputError, match="own_networks"):
        load_network(again)


def test_a_config_may_name_a_class_of_ones_own_by_another_name(own_file):
    network = load_network(own_file, {"gone.Net", "own_networks.function", "own_package.Renamed"})
    assert type(network).__name__ == "Net"


def test_a_stage_takes_the_classes_of_its_config_and_its_ancestors(own_file, tmp_path):
    config = {
        "model": {"_target_": "own_networks.Net"},
        "layers": [{"_target_": "json.JSONDecoder"}],
    }
    first = Stage("victim", config, ())
    other, second = Stage("victim", {}, ()), Stage("suspect", {}, (), (first,))
    assert second.targets == {"own_networks.Net", "json.JSONDecoder"}
    store = Store.under(tmp_path)
    for stage in (other, second):
        folder = store.folder(stage)
        folder.mkdir(parents=True)
        shutil.copy(own_file, folder / MODEL)
    roles = types.SimpleNamespace(classes=("a", "b", "c"))

    def context(parent):
        return StageContext(Stage("suspect", {}, (), (parent,)), None, roles, None, store)

    assert type(context(second).network()).__name__ == "Net"
    (target,) = context(second).targets("weights")
    assert type(target).__name__ == "Net"
    with pytest.raises(InputError, match="it needs 'own_networks"):
        context(other).network()


def test_what_a_config_names_is_called_only_if_it_is_a_network(own_file, tmp_path):
    for name in ("own_networks.function", "own_package", "subprocess.Popen", "os.system"):
        path = written(tmp_path / "model", {**WHOLE.node, "kind": name})
        with pytest.raises(InputError, match=r"/model: it needs"):
            load_network(path, {name})


def test_a_class_of_ones_own_gets_data_alone(own_file):
    node = {**WHOLE.node, "kind": "own_networks.Net"}
    for layout in ("${oc.env:HOME}", {"_target_": "os.system"}, [{"a": {"_args_": []}}]):
        path = written(own_file.with_name("other"), {**node, "layout": layout})
        with pytest.raises(InputError, match=r"/other: .*(data|argument)"):
            load_network(path, {"own_networks.Net"})


def test_weights_of_another_network_of_ones_own_are_named(own_file):
    node = {**WHOLE.node, "kind": "own_networks.Net", "layout": 1, "width": 8}
    path = written(own_file.with_name("other"), node)
    with pytest.raises(InputError, match="/other: weights of another network"):
        load_network(path, {"own_networks.Net"})
    ensemble = {"kind": "ensemble", "networks": [WHOLE.node, {**node, "width": 4}]}
    tensors = Ensemble([WHOLE, WHOLE]).state_dict()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    load_network(written(path, ensemble, tensors), {"own_networks.Net"})
    with pytest.raises(InputError, match="is none of its tensors"):
        load_network(
            written(path, ensemble, {**tensors, "networks.2.a": torch.zeros(1)}),
            {"own_networks.Net"},
        )


# --- a file that would do something -----------------------------------------------------------


@pytest.fixture
def called(monkeypatch):
    """What was called of all that a file shouldn't call."""
    seen = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            seen.append(args)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    return seen


BAD = {"kind": "subprocess.Popen", "args": ["touch", "here"]}
OLD_BAD = {"_target_": "subprocess.Popen", "args": ["touch", "here"]}


def hidden_in(node) -> dict[str, dict]:
    """``node`` at every place of a network's node that Hydra would build."""
    good = WHOLE.node
    ensemble = {"kind": "ensemble", "networks": [good]}
    return {
        "itself": node,
        "an argument": {**good, "mean": node},
        "an unknown argument": {**good, "extra": node},
        "in a list": {**good, "mean": [node]},
        "in a list of a list": {**good, "mean": [[0.4, [node]]]},
        "deep": {**good, "mean": {"a": {"b": [{"c": node}]}}},
        "positional": {**good, "_args_": [node]},
        "an ensemble's": {**ensemble, "networks": [good, node]},
        "an ensemble's argument": {**ensemble, "networks": [{**good, "std": node}]},
        "partial": {**node, "_partial_": True} if isinstance(node, dict) else node,
    }


@pytest.mark.parametrize("bad", [BAD, OLD_BAD], ids=["kind", "_target_"])
@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("place", hidden_in(BAD))
def test_a_file_that_names_a_class_that_is_no_network_is_refused(
    place, number, bad, called, tmp_path
):
    node = hidden_in(bad)[place]
    if number == 1 and isinstance(node, dict) and node.get("kind") in KINDS.values():
        node = {**node, "_target_": old({"kind": node["kind"], "networks": []})["_target_"]}
        del node["kind"]
    path = written(tmp_path / "model", node, format=f"softmark network {number}")
    with pytest.raises(InputError, match=r"/model: "):
        load_network(path)
    assert called == []


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "numpy.savetxt", "torch.load", "softmark.models.files"]
)
@pytest.mark.parametrize("place", ["itself", "an argument", "positional"])
def test_a_file_that_names_a_function_is_refused(name, place, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", hidden_in({"kind": name})[place]))


@pytest.mark.parametrize("place", ["an argument", "in a list", "deep", "an ensemble's argument"])
def test_text_of_a_file_that_would_become_an_object_calls_nothing(place, tmp_path):
    """OmegaConf resolves ``${...}``, and Hydra builds what comes out of it."""
    target = tmp_path / "touched"
    text = f"${{oc.create:{{_target_: numpy.savetxt, fname: '{target}', X: [1.0]}}}}"
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", hidden_in(text)[place]))
    assert not target.exists()


def test_a_file_cannot_read_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "4")
    node = {**WHOLE.node, "width": "${oc.decode:${oc.env:SECRET}}"}
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", node))
