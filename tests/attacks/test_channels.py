"""Other weights, the same function: channels permuted, rescaled, widened and matched."""

import copy
import functools

import pytest
import torch
from torch import nn

from helpers.training import fit, samples
from softmark.attacks.channels import channel_groups
from softmark.attacks.connect import activations, match_channels
from softmark.attacks.rescale import Obfuscate, Rescale, wider
from softmark.errors import InputError
from softmark.models.kinds import build_node
from softmark.models.networks import VGG, ConvNet, ResNet, WideResNet, build
from softmark.training import predict

NETWORKS = {
    "convnet": functools.partial(ConvNet, width=4),
    "vgg": functools.partial(VGG, depth=11, width=4),
    "resnet": functools.partial(ResNet, depth=18, width=4),
    "wideresnet": functools.partial(WideResNet, depth=10, width=4, factor=2),
}


@functools.cache
def built(name: str) -> nn.Module:
    """A network whose BatchNorms have statistics of their own."""
    torch.manual_seed(0)
    network = build(NETWORKS[name], samples(), 3).train()
    for _ in range(3):
        network(samples().inputs / 255)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.uniform_(layer.bias, -1, 1)
    return network.eval()


def same_answers(network, other) -> bool:
    images = samples().inputs
    return torch.allclose(predict(network, images), predict(other, images), atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_permuted_and_rescaled_channels_change_no_answer(name):
    target = built(name)
    torch.manual_seed(1)
    suspect = Rescale().apply(copy.deepcopy(target), samples(), fit()).network
    assert same_answers(suspect, target)
    before, after = target.state_dict(), suspect.state_dict()
    assert all(after[name].shape == value.shape for name, value in before.items())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    written = {
        f"{each}.weight"
        for each, layer in suspect.named_modules()
        if any(layer is one for group in channel_groups(suspect) for one, _ in group.writers)
    }
    assert written
    assert written <= moved


@pytest.mark.parametrize("name", ["convnet", "vgg", "resnet"])
@pytest.mark.parametrize("factor", [2, 3])
def test_new_channels_change_no_answer_and_the_file_says_how_wide(name, factor):
    target = built(name)
    torch.manual_seed(1)
    suspect = Obfuscate(factor=factor).apply(copy.deepcopy(target), samples(), fit()).network
    assert same_answers(suspect, target)
    assert suspect.node == {**target.node, "width": factor * 4}
    again = build_node(suspect.node, {})
    again.load_state_dict(suspect.state_dict())
    assert same_answers(again.eval(), target)
    # No two channels of a layer are alike, up to a factor.
    rows = nn.functional.normalize(channel_groups(suspect)[0].writers[0][0].weight.flatten(1))
    assert len(rows) == 4 * factor


def test_more_channels_can_be_added_again_and_trained():
    target = built("convnet")
    suspect = Obfuscate().apply(copy.deepcopy(target), samples(), fit()).network
    suspect = Obfuscate().apply(suspect, samples(), fit()).network
    assert suspect.node["width"] == 16
    assert same_answers(suspect, target)
    suspect.train()(samples().inputs / 255).sum().backward()
    assert all(weight.grad is not None for weight in suspect.parameters())


def test_what_holds_no_more_channels_is_one_line():
    with pytest.raises(InputError, match="no wideresnet holds 2 times as many channels"):
        Obfuscate().apply(copy.deepcopy(built("wideresnet")), samples(), fit())
    with pytest.raises(InputError, match=r"no mine\.Net holds"):
        wider({"kind": "mine.Net", "width": 3}, 2, nn.Linear(1, 1))
    with pytest.raises(InputError, match="Linear has no layers one after another"):
        Rescale().apply(nn.Linear(2, 3), samples(), fit())
    with pytest.raises(InputError, match=r"attack\.factor=1: at least 2"):
        Obfuscate(factor=1)
    with pytest.raises(InputError, match=r"attack\.spread=-1"):
        Rescale(spread=-1.0)


def test_what_does_not_commute_is_left_alone():
    """A GELU, and channels that a layer reads in groups."""
    torch.manual_seed(0)
    target = nn.Sequential(
        *(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    )
    groups = channel_groups(target)
    assert [group.size for group in groups] == [6]
    suspect = Rescale().apply(copy.deepcopy(target), samples(), fit()).network
    inputs = torch.randn(20, 4)
    torch.testing.assert_close(suspect(inputs), target(inputs))
    assert torch.equal(suspect[0].weight, target[0].weight)


@pytest.mark.parametrize("name", ["convnet", "resnet"])
def test_matching_finds_a_permutation_again(name):
    target = built(name)
    torch.manual_seed(2)
    moved = Rescale(spread=0.0).apply(copy.deepcopy(target), samples(), fit()).network
    assert not torch.allclose(moved.head.weight, target.head.weight)
    match_channels(moved, target, samples())
    # Two channels that are never active may change places.
    found, expected = moved.state_dict(), target.state_dict()
    for group in channel_groups(target):
        alive = activations(target, [group], samples().inputs)[0].std(0) > 1e-3  # (C,)
        name = next(n for n, one in target.named_modules() if one is group.writers[0][1])
        assert torch.equal(found[f"{name}.bias"][alive], expected[f"{name}.bias"][alive])
    assert same_answers(moved, target)
