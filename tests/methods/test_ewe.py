"""EWE: the soft nearest neighbour loss, and what it does in training."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.training import recipe
from helpers.triggers import batch_of, judge, network, owner
from softmark.data.roles import Samples
from softmark.methods.ewe import EWEModule, layer_outputs, soft_nearest_neighbour_loss
from softmark.methods.parts.trigger_set import with_triggers


def by_loops(outputs, kinds, asked, temperature):
    unit = F.normalize(outputs.relu(), dim=1)
    losses = []
    for i in range(len(outputs)):
        own = every = 0.0
        for j in range(len(outputs)):
            if i != j and asked[i] and asked[j]:
                near = math.exp(((unit[i] @ unit[j]).item() - 1) / temperature)
                every += near
                own += near * bool(kinds[i] == kinds[j])
        if own:
            losses.append(-math.log(own / every))
    return sum(losses) / max(1, len(losses))


@pytest.mark.parametrize("temperature", [0.05, 0.5, 100.0])
def test_soft_nearest_is_what_loops_say(temperature):
    draw = torch.manual_seed(0)
    outputs = torch.randn(12, 5, generator=draw)
    kinds, asked = (torch.rand(12, generator=draw) < part for part in (0.4, 0.8))
    found = soft_nearest_neighbour_loss(outputs, kinds, asked.long() - 1, temperature)
    assert float(found) == pytest.approx(by_loops(outputs, kinds, asked, temperature), rel=1e-4)


def test_soft_nearest_of_points_at_one_place():
    kinds = torch.tensor([0, 0, 0, 1, 1]).bool()
    found = soft_nearest_neighbour_loss(torch.ones(5, 3), kinds, torch.zeros(5), 0.3)
    assert float(found) == pytest.approx(-(3 * math.log(2 / 4) + 2 * math.log(1 / 4)) / 5)


def test_neighbours_are_those_of_the_same_target():
    outputs, kinds = torch.randn(10, 4, generator=torch.manual_seed(2)), torch.arange(10) % 2 == 0
    groups = torch.tensor([3, 3, 3, 3, 7, 7, 7, 7, 7, 7])
    both = soft_nearest_neighbour_loss(outputs, kinds, groups, 0.5)
    alone = [by_loops(outputs, kinds, groups == target, 0.5) for target in (3, 7)]
    assert float(both) == pytest.approx((4 * alone[0] + 6 * alone[1]) / 10, rel=1e-4)


def test_points_without_a_neighbour_leave_the_gradient_a_number():
    outputs = torch.randn(4, 3, requires_grad=True)
    kinds = torch.tensor([True, False, False, False])
    for asked in (torch.tensor([True, True, False, False]), torch.zeros(4).bool()):
        loss = soft_nearest_neighbour_loss(outputs, kinds, asked.long() - 1, 0.1)
        (slope,) = torch.autograd.grad(loss, outputs)
        assert loss.item() == 0
        assert (slope == 0).all()
    loss = soft_nearest_neighbour_loss(outputs, kinds, torch.zeros(4), 0.01)
    assert torch.autograd.grad(loss, outputs)[0].isfinite().all()


def test_entangling_takes_the_loss_of_the_last_layers_off():
    torch.manual_seed(0)
    data = with_triggers(owner()[:20], Samples(judge().inputs[:6], torch.full((6,), 2)), 0.2)
    batch = batch_of(data, [2, 12, 3, 4, 20, 21, 22, 23])
    marking = EWEModule(network().eval(), recipe(), 20, torch.tensor([2]), 2, 0.5, 0.7)
    hidden = layer_outputs(marking.network.features, batch.inputs)
    logits = marking.network(batch.inputs)
    torch.testing.assert_close(marking.network.head(hidden[-1]), logits)
    assert [len(each[0]) for each in hidden] == [12 * 64, 24 * 16, 48 * 4, 96]
    kinds = batch.index >= 20
    near = sum(by_loops(each, kinds, batch.labels == 2, 0.5) for each in hidden[-2:])
    expected = F.cross_entropy(logits, batch.labels) - 0.7 * near
    torch.testing.assert_close(marking.loss(batch), expected)
