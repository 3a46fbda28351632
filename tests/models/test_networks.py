"""Every network of conf/model: shapes, known sizes, normalisation, and what a wrong value says."""

import json
from functools import partial

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from helpers import ROOT
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.kinds import CLASSES, ENSEMBLES, build_node, check
from softmark.models.networks import KINDS, VGG, ConvNet, Ensemble, ResNet, WideResNet, build

NODES = sorted((ROOT / "conf" / "model").glob("*.yaml"))
COLOUR = {"image_shape": (3, 32, 32), "classes": 10, "mean": [0.5] * 3, "std": [0.25] * 3}


@pytest.fixture(autouse=True)
def one_thread():
    # Where other work keeps a core busy, two threads wait for each other 15 times as long.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def made(path, image_shape, classes, narrow=False):
    node = OmegaConf.load(path)
    if narrow:
        node.width = 8
    assert node.pop("name") == path.stem
    channels = image_shape[0]
    mean, std = [0.4] * channels, [0.2] * channels
    return instantiate(node)(image_shape=image_shape, classes=classes, mean=mean, std=std)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 37, 29)], ids=str)
@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_node_trains_and_answers(path, shape):
    torch.manual_seed(0)
    network = made(path, shape, classes=7, narrow=True)  # to be quick
    logits = network(torch.rand(2, *shape))
    assert logits.shape == (2, 7)
    logits.logsumexp(1).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    # An attack re-initialises the last layer by this name.
    assert isinstance(network.head, torch.nn.Linear)
    assert network.head.out_features == 7
    assert list(network.modules())[-1] is network.head


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_normalisation_is_the_first_layer(path):
    network = made(path, (3, 8, 8), classes=4).eval()
    first = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d))
    seen = []
    first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for level in (0.4, 0.6):
        network(torch.full((1, 3, 8, 8), level))
    torch.testing.assert_close(seen[0], torch.zeros(1, 3, 8, 8))
    torch.testing.assert_close(seen[1], torch.ones(1, 3, 8, 8))
    # It travels with the weights.
    assert {"features.0.mean", "features.0.std"} <= network.state_dict().keys()


def test_build_measures_the_pictures():
    images = torch.randint(0, 256, (50, 2, 8, 8), dtype=torch.uint8)
    images[:, 1] = 51  # a channel without any variation
    network = build(
        partial(ConvNet, width=4), Samples(images, torch.zeros(50, dtype=torch.int64)), classes=3
    ).eval()
    normalised = network.features[0](images.float() / 255)
    torch.testing.assert_close(normalised[:, 0].mean(), torch.tensor(0.0), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalised[:, 0].std(), torch.tensor(1.0))
    torch.testing.assert_close(normalised[:, 1], torch.zeros(50, 8, 8), atol=1e-3, rtol=0)
    assert network(images.float() / 255).shape == (50, 3)


def pictures(channels: int = 2) -> Samples:
    images = torch.randint(0, 256, (50, channels, 8, 8), dtype=torch.uint8)
    return Samples(images, torch.zeros(50, dtype=torch.int64))


@pytest.mark.parametrize("path", NODES, ids=lambda path: path.stem)
def test_a_built_network_says_how_to_build_it_without_any_data(path):
    node = OmegaConf.load(path)
    node.width = 8
    name = node.pop("name")
    network = build(instantiate(node), pictures(), classes=3)
    assert KINDS[node._target_] == network.node["kind"], name
    assert json.loads(json.dumps(network.node)) == network.node
    assert check(network.node) == {}
    again = build_node(network.node, {})
    assert type(again) is type(network)
    again.load_state_dict(network.state_dict())
    images = torch.rand(4, 2, 8, 8)
    torch.testing.assert_close(again.eval()(images), network.eval()(images))
    # The normalisation is in the node as well: it is the same before any weight is read.
    for buffer in ("mean", "std"):
        fresh = getattr(build_node(network.node, {}).features[0], buffer)
        torch.testing.assert_close(fresh, getattr(network.features[0], buffer))


def test_every_network_has_a_kind():
    made = (*CLASSES.values(), *ENSEMBLES.values())
    named = {f"{each.__module__}.{each.__qualname__}" for each in made}
    # OtherTail lay beside the attack that uses it, and stands so in older files.
    assert {*named, "softmark.attacks.served.OtherTail"} == set(KINDS)
    assert set(KINDS.values()) == {*CLASSES, "ensemble", "other_tail"}


class Named(ConvNet):
    """Of a user's own."""

    def __init__(self, *, kind: str = "", **rest) -> None:
        super().__init__(**rest)


def test_a_class_of_ones_own_is_named_in_full():
    network = build(partial(Named, width=4), pictures(), classes=3)
    assert network.node["kind"] == f"{__name__}.Named"
    with pytest.raises(InputError, match="can't take the argument 'kind'"):
        build(partial(Named, width=4, kind="a"), pictures(), classes=3)


def test_an_ensemble_answers_with_the_mean_of_probabilities():
    torch.manual_seed(0)
    three = [build(partial(ConvNet, width=4), pictures(), classes=3).eval() for _ in range(3)]
    images = 5 * torch.rand(20, 2, 8, 8)
    ensemble = Ensemble.of(three).eval()
    logits = ensemble(images)
    assert not torch.allclose(three[0](images), three[1](images), atol=0.01)
    expected = torch.stack([network(images).softmax(1) for network in three]).mean(0)
    torch.testing.assert_close(logits.softmax(1), expected)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(20))
    assert ensemble.node["networks"] == [network.node for network in three]


def test_an_ensemble_that_is_sure_has_finite_logits():
    class Sure(nn.Module):
        def forward(self, images):
            return torch.tensor([[500.0, 0.0, -500.0]]).expand(len(images), 3)

    logits = Ensemble([Sure(), Sure()])(torch.rand(2, 1, 8, 8))
    assert logits.isfinite().all()
    torch.testing.assert_close(logits.softmax(1)[:, 0], torch.ones(2))


@pytest.mark.parametrize(
    ("network", "numbers", "known"),
    [
        (ResNet, {"depth": 18, "width": 64}, 11_173_962),
        (ResNet, {"depth": 34, "width": 64}, 21_282_122),
        # The usual count less the convolutions' biases, which BatchNorm makes idle.
        (VGG, {"depth": 11, "width": 64}, 9_231_114 - 2_752),
        (VGG, {"depth": 16, "width": 64}, 14_728_266 - 4_224),
        (WideResNet, {"depth": 16, "width": 16, "factor": 4}, 2_748_890),
        (WideResNet, {"depth": 40, "width": 16, "factor": 2}, 2_243_546),
        (WideResNet, {"depth": 28, "width": 16, "factor": 10}, 36_479_194),
    ],
)
def test_size_is_the_published_one(network, numbers, known):
    with torch.device("meta"):  # counts without filling memory
        built = network(**COLOUR, **numbers)
    assert sum(p.numel() for p in built.parameters()) == known


@pytest.mark.parametrize(
    ("network", "numbers", "message"),
    [
        (ResNet, {"depth": 20, "width": 8}, "no depth 20.*18 or 34"),
        (VGG, {"depth": 18, "width": 8}, "no depth 18.*11 or 16"),
        (WideResNet, {"depth": 18, "width": 8, "factor": 1}, "no depth 18.*10, 16, 22"),
        (WideResNet, {"depth": 4, "width": 8, "factor": 1}, "no depth 4:"),
    ],
)
def test_unknown_depth(network, numbers, message):
    with pytest.raises(InputError, match=message):
        network(**COLOUR, **numbers)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image_shape": (3, 7, 32)}, "7x32.*8x8"),
        ({"image_shape": (1, 32, 32)}, "3 means and 3 deviations for images of 1"),
        ({"std": [0.25, 0.0, 0.25]}, "deviation is 0.0"),
    ],
)
def test_unusable_images(wrong, message):
    with pytest.raises(InputError, match=message):
        ConvNet(**{**COLOUR, **wrong}, width=4)


@pytest.mark.parametrize("width", [0, -1, 200_000, 1.5, True])
def test_a_size_that_no_network_has_is_named_before_one_is_built(width):
    data = Samples(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=rf"width={width}: a whole number from 1 to 100,000"):
        build(partial(ConvNet, width=width), data, 2)
