"""Pruning: which weights, channels and filters go, and what stays."""

import copy

import pytest
import torch
from torch import nn

from helpers.networks import NETWORKS, Flat, built, layers
from helpers.training import fit, network, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks.attention import AttentionDistillation
from softmark.attacks.fine_prune import FinePrune
from softmark.attacks.neurons import PruneNeurons
from softmark.attacks.prune import (
    Prune,
    PruneFilters,
    PruneInactive,
    PruneLayers,
    PruneToLimit,
    inputs_of,
    prunable_channels,
    pruned,
)
from softmark.errors import InputError
from softmark.training import Classifier, predict


def zeros(model: nn.Module) -> float:
    size = torch.cat([weight.flatten() for weight in weights(model)])
    return float((size == 0).float().mean())


def test_pruning_leaves_the_largest_weights_and_the_original():
    torch.manual_seed(0)
    old = network()
    before = copy.deepcopy(old.state_dict())
    new = pruned(old, 0.7)
    assert zeros(new) == pytest.approx(0.7, abs=1e-3)
    assert all(torch.equal(before[name], value) for name, value in old.state_dict().items())
    old_size, new_size = (torch.cat([w.flatten().abs() for w in weights(m)]) for m in (old, new))
    assert old_size[new_size == 0].max() <= new_size[new_size != 0].min()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.3])
def test_pruning_to_the_limit_stops_before_the_tolerance_is_passed(tolerance):
    torch.manual_seed(0)
    trained = fit()(Classifier(network(), recipe(epochs=8)), samples(), "classifier")
    data = samples(600)

    def worth(model):
        return accuracy(predict(model, data.inputs), data.labels)

    suspect = PruneToLimit(tolerance=tolerance).apply(copy.deepcopy(trained), data, fit()).network
    assert worth(suspect) >= worth(trained) - tolerance
    sparsity = round(zeros(suspect) * 20) / 20
    if sparsity < 0.95:
        assert worth(pruned(trained, sparsity + 0.05)) < worth(trained) - tolerance


@pytest.mark.parametrize("wrong", [(Prune, "sparsity"), (PruneToLimit, "tolerance")])
def test_fractions_of_pruning_are_checked(wrong):
    kind, name = wrong
    with pytest.raises(InputError, match=rf"attack\.{name}=1\.5"):
        kind(**{name: 1.5})


@pytest.mark.parametrize("name", NETWORKS)
def test_each_layer_loses_the_same_share_and_its_smallest(name):
    old = built(name)
    new = PruneLayers(sparsity=0.6).apply(copy.deepcopy(old), samples(), fit()).network
    for before, after in zip(layers(old), layers(new), strict=True):
        gone = after.weight == 0
        assert int(gone.sum()) == round(0.6 * gone.numel())
        assert before.weight[gone].abs().max() <= before.weight[~gone].abs().min()
        assert torch.equal(before.weight[~gone], after.weight[~gone])


def test_a_trained_network_lies_channels_last_and_is_pruned_all_the_same():
    model = network().to(memory_format=torch.channels_last)
    PruneLayers(sparsity=0.5).apply(model, samples(), fit())
    assert all(float((m.weight == 0).float().mean()) == 0.5 for m in layers(model))


@pytest.mark.parametrize(
    ("name", "count"), [("convnet", 4), ("vgg", 8), ("resnet", 1 + 8), ("wideresnet", 3)]
)
def test_a_channel_that_is_pruned_answers_nothing(name, count):
    model, data = built(name), samples()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
    pairs = prunable_channels(model)
    assert len(pairs) == count
    small = [c.weight.abs().sum((1, 2, 3)).argsort()[: c.out_channels // 2] for c, _ in pairs]
    untouched = [m for m in layers(model) if m not in [c for c, _ in pairs]]
    before = [m.weight.clone() for m in untouched]
    PruneFilters(fraction=0.5).apply(model, data, fit())
    seen = {}
    for _, norm in pairs:
        norm.register_forward_hook(lambda m, inputs, output: seen.update({m: output.relu()}))
    predict(model, data.inputs)
    for (_, norm), gone in zip(pairs, small, strict=True):
        assert (seen[norm][:, gone] == 0).all()
        left = torch.ones(norm.num_features, dtype=torch.bool)
        left[gone] = False
        assert (norm.weight[left] != 0).all()
    assert all(torch.equal(m.weight, w) for m, w in zip(untouched, before, strict=True))


def test_pruned_filters_stay_dead_when_the_rest_is_tuned():
    model, data = built("convnet"), samples()
    PruneFilters(fraction=0.5).apply(model, data, fit())
    dead = [norm.weight == 0 for _, norm in prunable_channels(model)]
    fit()(Classifier(model, recipe(epochs=2)), data, "finetune")
    for (_, norm), gone in zip(prunable_channels(model), dead, strict=True):
        assert gone.sum() == norm.num_features // 2
        assert (norm.weight[gone] == 0).all()
        assert (norm.bias[gone] == 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_layer_reads_its_least_active_inputs_no_more(name):
    model, data = built(name), samples()
    seen = []
    handle = model.head.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0]))
    predict(model, data.inputs)
    handle.remove()
    mean = seen[0].abs().mean(0)  # (D,)
    torch.testing.assert_close(inputs_of(model, model.head, data), seen[0])
    before = copy.deepcopy(model.state_dict())
    PruneInactive(fraction=0.25).apply(model, data, fit())
    gone = (model.head.weight == 0).all(0)
    assert int(gone.sum()) == round(0.25 * len(mean))
    assert mean[gone].max() <= mean[~gone].min()
    assert torch.equal(model.head.weight[:, ~gone], before["head.weight"][:, ~gone])
    assert all(
        torch.equal(value, before[name])
        for name, value in model.state_dict().items()
        if name != "head.weight"
    )


def test_a_network_without_convolutions_is_refused():
    with pytest.raises(InputError, match="Flat has no convolution"):
        PruneFilters(fraction=0.5).apply(Flat(), samples(), fit())
    with pytest.raises(InputError, match="Flat has no map"):
        AttentionDistillation(recipe=recipe()).apply(Flat(), samples(), fit())
    with pytest.raises(InputError, match="Flat has no BatchNorm"):
        PruneNeurons(recipe=recipe()).apply(Flat(), samples(), fit())


def test_inputs_of_a_last_layer_that_is_not_linear_are_refused():
    model = Flat()
    model.head = nn.Sequential(model.head)
    for attack in (PruneInactive(), FinePrune(recipe=recipe())):
        with pytest.raises(InputError, match="the last layer of Flat is a Sequential"):
            attack.apply(model, samples(), fit())
