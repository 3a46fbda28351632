"""Reconstructive neuron pruning: unlearnt, recovered by masks, pruned as far as accuracy allows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import network, recipe, samples
from softmark.attacks import neurons
from softmark.attacks.neurons import prune_lowest
from softmark.attacks.rnp import AscentModule, PruneReconstructive
from softmark.batches import Batch
from softmark.errors import InputError


def test_an_ascent_climbs_the_loss_up_to_a_bound():
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    batch = Batch(torch.rand(6, 2), torch.arange(6) % 3, torch.arange(6))
    plain = F.cross_entropy(model(batch.inputs), batch.labels)
    torch.testing.assert_close(AscentModule(model, recipe()).loss(batch), -plain)
    # Two of three classes are lost, and the third is still climbed.
    model.bias.data = torch.tensor([99.0, 0.0, 0.0])
    loss = AscentModule(model, recipe()).loss(batch)
    assert loss.item() == pytest.approx(-20 / 3)


class Bright(nn.Module):
    """Two channels: the first tells the classes apart, the second nothing."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)
        self.head.weight.data = torch.tensor([[-4.0, 0.0], [0.0, 0.0], [4.0, 0.0]])
        self.head.bias.data = torch.tensor([0.0, 0.8, 0.0])

    def forward(self, images):
        bright = images.mean((2, 3), keepdim=True) * 3 - 1.5
        return self.head(self.norm(torch.cat([bright, -bright], 1)).mean((2, 3)))


def test_channels_of_low_masks_are_pruned_until_accuracy_falls():
    model, data = Bright().eval(), samples()
    masks = [torch.tensor([0.6, 0.1])]
    note = prune_lowest(model, [model.norm], masks, data, tolerance=0.05)
    assert model.norm.weight.tolist() == [1.0, 0.0]
    assert note == "1 of 2 channels pruned, masks up to 0.10"


def test_accuracy_that_rises_again_is_no_end(monkeypatch):
    model, data = Bright().eval(), samples()
    answers = iter([1.0, 0.5, 0.99])
    monkeypatch.setattr(neurons, "worth", lambda network, data: next(answers))
    note = prune_lowest(model, [model.norm], [torch.tensor([0.2, 0.1])], data, tolerance=0.05)
    assert note == "2 of 2 channels pruned, masks up to 0.20"


def test_unlearning_comes_first_and_masks_are_learnt_on_what_it_leaves():
    names, target, data = [], network().eval(), samples()

    def training(module, shown, name):
        names.append(name)
        return module.network

    PruneReconstructive(recipe=recipe(), rounds=2, bound=0.0).apply(target, data, training)
    assert names == ["unlearn-1", "unlearn-2", "masks"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"lr_factor": 0.0},
        {"bound": 2.0},
        {"epochs": 0},
        {"alpha": 0.0},
        {"tolerance": -1},
    ],
)
def test_what_cannot_be_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"attack\.{name}={value}"):
        PruneReconstructive(recipe=recipe(), **wrong)
    with pytest.raises(InputError, match="has no BatchNorm"):
        PruneReconstructive().apply(nn.Sequential(nn.Linear(2, 3)), samples(), None)
