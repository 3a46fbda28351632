"""Networks as files: each says what it is, and none can do more than name networks."""

import functools
import json
import subprocess
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from softmark.errors import InputError
from softmark.models.files import load_network, read_tensors, save_network
from softmark.models.networks import ConvNet, Ensemble, build
from softmark.training import Classifier, predict
from test_training import fit, recipe, samples

NODES = sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml"))
WHOLE = build(functools.partial(ConvNet, width=4), samples(), 3)


def written(path: Path, node=WHOLE.node, tensors=None, **about: str | None) -> Path:
    """A file as ``save_network`` writes it, but for what is told."""
    told = {"format": "softmark network 1", "node": json.dumps(node), **about}
    told = {name: value for name, value in told.items() if value is not None}
    safetensors.torch.save_file(tensors or WHOLE.state_dict(), path, told)
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
    for whole in (network, inside):
        save_network(whole, tmp_path / "model")
        again = load_network(tmp_path / "model")
        assert again.node == whole.node
        images = samples(8).inputs
        torch.testing.assert_close(predict(again, images), predict(whole, images))


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
            wanted = "it can't be read" if absent else "not a whole safetensors file"
            with pytest.raises(InputError, match=rf"/{name}: {wanted}"):
                read(tmp_path / name)
    load_network(tmp_path / "whole")


def test_weights_of_another_network_are_named(tmp_path):
    wider = {**WHOLE.node, "width": 8}
    other = {**WHOLE.node, "_target_": "softmark.models.networks.ResNet", "depth": 18}
    for node in (wider, other):
        with pytest.raises(InputError, match=r"/model: weights of another network"):
            load_network(written(tmp_path / "model", node))
    fewer = {name: t for name, t in WHOLE.state_dict().items() if name != "head.bias"}
    more = {**WHOLE.state_dict(), "extra": torch.zeros(1)}
    for tensors in (fewer, more):
        with pytest.raises(InputError, match=r"/model: weights of another network"):
            load_network(written(tmp_path / "model", tensors=tensors))


@pytest.mark.parametrize("said", [None, "", "softmark network 2", "softmark key 2", "pt"])
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
    about = {"format": "softmark network 1", **({} if text is None else {"node": text})}
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
        {"mean": [0.4, 0.4]},
        {"_partial_": True},
        {"_args_": [1, 2]},
    ],
    ids=str,
)
def test_a_node_that_makes_no_network_is_named(changed, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", {**WHOLE.node, **changed}))


@pytest.mark.parametrize(
    "name", ["softmark.models.networks.Nothing", "nowhere.Net", "ConvNet", "", None, ["a"], 3]
)
def test_a_class_that_is_not_there_is_named(name, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", {**WHOLE.node, "_target_": name}))


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


BAD = {"_target_": "subprocess.Popen", "args": ["touch", "here"]}


def hidden_in(node) -> dict[str, dict]:
    """``node`` at every place of a network's node that Hydra would build."""
    good = WHOLE.node
    ensemble = {"_target_": "softmark.models.networks.Ensemble", "networks": [good]}
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


@pytest.mark.parametrize("place", hidden_in(BAD))
def test_a_file_that_names_a_class_that_is_no_network_is_refused(place, called, tmp_path):
    with pytest.raises(InputError, match=r"/model: subprocess\.Popen is not a network"):
        load_network(written(tmp_path / "model", hidden_in(BAD)[place]))
    assert called == []


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "numpy.savetxt", "torch.load", "softmark.models.files"]
)
@pytest.mark.parametrize("place", ["itself", "an argument", "positional"])
def test_a_file_that_names_a_function_is_refused(name, place, tmp_path):
    with pytest.raises(InputError, match=r"/model: "):
        load_network(written(tmp_path / "model", hidden_in({"_target_": name})[place]))


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
