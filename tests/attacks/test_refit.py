"""REFIT: what holds the weights, and what labels the others get."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import network, recipe, samples
from softmark.attacks.refit import ElasticModule, Refit, fisher_information
from softmark.batches import Batch
from softmark.errors import InputError


def rows() -> Batch:
    torch.manual_seed(3)
    return Batch(torch.rand(6, 2), torch.arange(6) % 3, torch.arange(6))


def test_fisher_information_is_the_mean_squared_gradient_over_the_largest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    model[2].bias.data = torch.tensor([50.0, 0.0])  # so that class 0 is drawn each time
    model[2].weight.data *= 1e-3
    inputs = rows().inputs
    found = fisher_information(model, inputs)
    sums = [torch.zeros_like(weight) for weight in model.parameters()]
    for one in inputs:
        log_p = model(one[None]).log_softmax(1)[0, 0]
        for total, slope in zip(
            sums, torch.autograd.grad(log_p, list(model.parameters())), strict=True
        ):
            total += slope.square()
    largest = max(float(total.max()) for total in sums)
    for value, total in zip(found.values(), sums, strict=True):
        torch.testing.assert_close(value, total / max(largest, 1e-30))


def test_weights_that_moved_cost_as_much_as_the_answers_depend_on_them():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3))
    fisher = {name: torch.full_like(weight, 0.5) for name, weight in model.named_parameters()}
    module = ElasticModule(model, recipe(lr=0.01), fisher, elastic=10.0)
    batch = rows()
    plain = F.cross_entropy(model(batch.inputs), batch.labels)
    torch.testing.assert_close(module.loss(batch), plain)
    for weight in model.parameters():
        weight.data += 0.1
    plain = F.cross_entropy(model(batch.inputs), batch.labels)
    # 8 weights and 4 biases of the first layer; the last layer is free.
    torch.testing.assert_close(module.loss(batch), plain + 5 * 0.5 * 12 * 0.01)
    # At a rate of 1 the information counts as 1 / 10 at most.
    bounded = ElasticModule(model, recipe(lr=1.0), fisher, elastic=10.0)
    for weight in model.parameters():
        weight.data += 0.1
    plain = F.cross_entropy(model(batch.inputs), batch.labels)
    torch.testing.assert_close(bounded.loss(batch), plain + 5 * 0.1 * 12 * 0.01)


@pytest.mark.parametrize("unlabelled", [False, True])
def test_few_labels_are_used_and_the_others_are_the_stolen_models(unlabelled):
    seen, data = [], samples(90)

    def training(module, shown, name):
        seen.append((type(module).__name__, shown, len(module.batches(shown)) * module.epochs))
        return module.network

    torch.manual_seed(0)
    target = network().eval()
    attack = Refit(recipe=recipe(epochs=6), unlabelled=unlabelled, elastic=0.0, epochs_factor=1.0)
    attack.apply(target, data, training)
    ((_, shown, steps),) = seen
    if not unlabelled:
        assert torch.equal(shown.labels, data.labels[:18])
    else:
        answers = target(data.inputs[18:] / 255).argmax(1)
        assert torch.equal(shown.labels, torch.cat([data.labels[:18].repeat(8), answers]))
    assert abs(steps - 30) <= 7  # six epochs of five batches


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"labelled": 0.0}, r"attack\.labelled=0\.0"),
        ({"elastic": -1.0}, r"attack\.elastic=-1\.0"),
        ({"fisher_samples": 0}, r"attack\.fisher_samples=0"),
        ({"lr_factor": 0.0}, r"attack\.lr_factor=0\.0"),
    ],
)
def test_what_cannot_be_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        Refit(recipe=recipe(), **wrong)


def test_others_are_needed_where_they_are_to_be_learnt():
    attack = Refit(recipe=recipe(), labelled=64, unlabelled=True)
    with pytest.raises(InputError, match=r"attack\.labelled=64: no picture is left"):
        attack.apply(network(), samples(64), None)
