"""A curve between two models, their mean, and training with rounded weights."""

import copy
import functools

import pytest
import torch
from torch import nn

from helpers.training import NETWORK, fit, network, recipe, samples
from softmark.attacks.connect import AverageIndependent, Connect, CurveModule
from softmark.attacks.weights import QuantiseAware, QuantiseModule, quantised
from softmark.batches import Batch
from softmark.errors import InputError
from softmark.models.networks import VGG


def noting(seen: list):
    """A trainer that trains nothing and notes what it was asked for."""

    def training(module, data, name):
        seen.append((name, module, data))
        return module.network.eval()

    return training


def batch(count: int = 16) -> Batch:
    data = samples(count)
    return Batch(data.inputs / 255, data.labels, torch.arange(count))


def test_a_curve_begins_and_ends_at_the_two_models():
    torch.manual_seed(0)
    start, middle, end = network(), network(), network()
    module = CurveModule(middle, recipe(), (start, end))
    for t, model in ((0.0, start), (1.0, end)):
        for name, weight in model.named_parameters():
            torch.testing.assert_close(module.at(t)[name], weight)
    halfway = (start.head.bias + 2 * middle.head.bias + end.head.bias) / 4
    torch.testing.assert_close(module.at(0.5)["head.bias"], halfway)
    module.loss(batch()).backward()
    assert middle.head.weight.grad is not None
    assert start.head.weight.grad is None
    assert end.head.weight.grad is None


def test_one_half_tunes_the_copy_and_the_other_one_the_curve():
    seen, data, target = [], samples(50), network()
    before = copy.deepcopy(target.state_dict())
    told = recipe(epochs=4, lr=0.2)
    attack = Connect(
        recipe=told, epochs_factor=0.5, lr_factor=0.5, curve_epochs_factor=2.0, curve_lr_factor=0.1
    )
    stolen = attack.apply(target, data, noting(seen)).network
    (first, tuned, one), (second, curve, other) = seen
    assert (first, second) == ("finetune", "curve")
    assert (tuned.recipe.epochs, tuned.recipe.lr) == (2, 0.1)
    assert (curve.recipe.epochs, curve.recipe.lr) == (8, pytest.approx(0.02))
    assert one.fingerprint == data[:25].fingerprint
    assert other.fingerprint == data[25:].fingerprint
    # Nothing was trained: all three models are the stolen one.
    torch.testing.assert_close(
        dict(stolen.named_parameters())["head.weight"], before["head.weight"]
    )
    assert all(weight.requires_grad for weight in stolen.parameters())
    with pytest.raises(InputError, match="3 pictures are too few: two for each half"):
        attack.apply(network(), samples(3), noting([]))
    with pytest.raises(InputError, match=r"attack\.t=1\.0"):
        Connect(t=1.0)


@pytest.mark.parametrize("match", [False, True])
def test_the_mean_with_a_model_of_the_attackers_own(match):
    torch.manual_seed(0)
    seen, target = [], network()
    before = copy.deepcopy(target.state_dict())
    attack = AverageIndependent(recipe=recipe(), network=NETWORK, weight=0.25, match=match)
    stolen = attack.apply(target, samples(), noting(seen)).network
    ((name, module, _),) = seen
    assert name == "shadow"
    own = module.network.state_dict()  # permuted in place, where it is matched
    for each in ("head.weight", "head.bias", "features.1.weight"):
        expected = 0.75 * before[each] + 0.25 * own[each]
        torch.testing.assert_close(stolen.state_dict()[each], expected)
    with pytest.raises(InputError, match="of other layers than the stolen ConvNet"):
        AverageIndependent(
            recipe=recipe(), network=functools.partial(VGG, depth=11, width=4)
        ).apply(network(), samples(), noting([]))


def test_training_sees_rounded_weights_and_moves_those_behind_them():
    torch.manual_seed(0)
    model = network()
    module = QuantiseModule(model, recipe(), bits=3)
    layers = [one for one in model.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    assert len(module.names) == len(layers)
    rounded = copy.deepcopy(model)
    for layer in rounded.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.data = quantised(layer.weight.data, 3)
    loss = module.loss(batch())
    expected = nn.functional.cross_entropy(rounded(batch().inputs), batch().labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(layer.weight.grad.abs().sum() > 0 for layer in layers)
    stolen = QuantiseAware(recipe=recipe(), epochs=1, bits=3).apply(model, samples(), fit())
    for layer in stolen.network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert len(layer.weight.unique()) <= 7
    with pytest.raises(InputError, match=r"attack\.bits=1"):
        QuantiseAware(bits=1)
