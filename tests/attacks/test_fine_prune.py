"""Fine-pruning: how many inputs of the last layer go, and that they stay away."""

import copy

import torch

from helpers.training import fit, network, recipe, samples
from softmark.attacks.attack import worth
from softmark.attacks.fine_prune import FinePrune
from softmark.training import Classifier


def test_inputs_go_while_accuracy_allows_and_stay_away():
    torch.manual_seed(0)
    data = samples(200)
    model = fit()(Classifier(network(), recipe(epochs=4)), data, "classifier")
    attack = FinePrune(recipe=recipe(), epochs=1, min_steps=None, fraction=0.9, tolerance=0.02)
    order = torch.arange(32)
    given = copy.deepcopy(model)
    pruned = attack.prune(given, given.head, order, data)
    count = int(pruned.sum())
    assert 0 < count < 29
    assert worth(given, data) >= worth(model, data) - 0.02
    given.head.weight.data[:, order[: count + 1]] = 0
    assert worth(given, data) < worth(model, data) - 0.02
    tuned = attack.apply(model, data, fit())
    gone = int((tuned.network.head.weight == 0).all(0).sum())
    assert tuned.note == f"{gone} of 32 inputs of the last layer cut off"
    assert gone > 0
    assert worth(tuned.network, data) > 0.9


def test_no_more_than_a_fraction_goes():
    attack = FinePrune(recipe=recipe(), fraction=0.25, tolerance=1.0)
    model = network().eval()
    assert int(attack.prune(model, model.head, torch.arange(32), samples(20)).sum()) == 8
