"""Losses and statistics on a few numbers, against figures that the authors' code gives for them.

The figures were computed once, outside of this repository: CosWM's by its own functions, with
astropy 8.0.2; the others by NumPy from the lines that are named, since TensorFlow 1 and Keras 1 no
longer run, or the loss stands in the middle of a training.
"""

import pytest
import torch
from torch import nn

from helpers.training import recipe
from softmark.methods.coswm import CosWM, lomb_scargle_power
from softmark.methods.ewe import soft_nearest_neighbour_loss
from softmark.methods.ipguard import boundary_loss
from softmark.methods.margin import margin_loss
from softmark.methods.mea_defender import divergence_to_sources
from softmark.methods.uchida import UchidaModule, mean_filter


def test_uchidas_loss_is_the_sum_over_the_bits():
    """yu4u/dnn-watermark 00e89e4, watermark_regularizers.py, lines 55-63."""
    layer = nn.Conv2d(1, 3, 2, bias=False)
    filters = [[0.2, -0.4, 0.1, 0.3], [-0.5, 0.6, 0.7, -0.1], [0.3, 0.0, -0.2, 0.4]]
    layer.weight.data = torch.tensor(filters).reshape(3, 1, 2, 2)
    matrix = torch.tensor([[1.0, 0.5, -2.0, 1.5], [-1.0, 2.0, 0.25, -0.5], [0.5, -1.0, 1.0, -0.75]])
    module = UchidaModule(layer, recipe(), layer, matrix, torch.tensor([1, 0, 1]), 0.01)
    found = module.mark_loss(matrix @ mean_filter(layer).detach())
    assert float(found) == pytest.approx(2.164232854)


@pytest.mark.parametrize(
    ("temperature", "figure"), [(0.5, 0.905503391), (2.0, 0.902696909), (100.0, 0.915916571)]
)
def test_ewes_soft_nearest_neighbours(temperature, figure):
    """cleverhans-lab/entangled-watermark 4514825, models.py, lines 25-44, cosine distance.

    There 1e-5 is added below the fraction and inside of the logarithm.
    """
    outputs = torch.tensor(
        [[1, 2, 0], [2, 1, 0.5], [0, 1, 1], [0.5, -1, 2], [1, 1, 1], [3, 0, 1]]
    )  # (6, 3)
    kinds = torch.tensor([1, 1, 1, 0, 0, 0]).bool()
    found = soft_nearest_neighbour_loss(outputs, kinds, torch.zeros(6), temperature)
    assert float(found) == pytest.approx(figure, abs=5e-5)


def test_ipguards_distance_to_the_boundary():
    """Testing4AI/DeepJudge 4a59866, fingerprinting-blackbox/generation.py, lines 38-45."""
    logits = torch.tensor([[3.0, 1.0, 2.5, -1.0], [0.0, 4.0, 1.0, 4.5], [1.0, 7.0, 0.5, 0.2]])
    found = boundary_loss(logits, torch.tensor([[0], [1], [0]]), torch.tensor([[1], [3], [1]]), 5.0)
    assert found.flatten().tolist() == [7.0, 4.5, 0.0]


def test_margins_loss_weighs_the_triggers():
    """matbambbang/margin-based-watermarking 61d01c1, train.py, lines 40 and 79-82, a = .1."""
    data = [[2.0, 0.0, -1.0], [0.5, 1.5, 0.0], [0.0, 0.0, 3.0]]
    triggers = [[1.0, -1.0, 0.0], [0.2, 0.4, 0.1]]
    labels = torch.tensor([0, 2, 2, 1, 0])
    found = margin_loss(torch.tensor(data + triggers), labels, 3, 0.1)
    assert float(found) == pytest.approx(0.516776293)


def test_mea_defenders_combination():
    """lvpeizhuo/MEA-Defender 103504c, utils/trainer.py, lines 131-134."""
    logits = torch.tensor([[3.0, 0, -1, 0.5], [0, 2, 1, -1], [1, 0.5, 2, 0], [0, 0, 4, 1]])
    members = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    is_trigger = torch.tensor([False, False, True, True])
    sources = torch.tensor([[0, 1]] * 4)
    found = divergence_to_sources(logits.log_softmax(1), members, sources, is_trigger)
    assert float(found) == pytest.approx(3.655123612)


def test_coswms_power_and_its_ratio():
    """vbdai/coswm 6f4b089, utils.py, lines 79-124: density of power, half of what a wave explains.

    Theirs is the mean of 200,000 frequencies up to 251, ours of the hundred that are the default.
    """
    number = torch.arange(40, dtype=torch.float64)
    places = (3 * (0.6180339887 * number).frac()).mul(1e4).round() / 1e4
    scores = 0.9 + 0.05 * (30 * places + 1).cos() + 0.03 * (7 * number**2).sin()
    scores = scores.mul(1e4).round() / 1e4
    found = lomb_scargle_power(places, scores, torch.tensor([0.5, 7.0, 30.0]).double()) / 2
    figures = [8.584474609e-4, 1.126752281e-3, 2.342792530e-2]
    assert found.tolist() == pytest.approx(figures)
    dense = CosWM(others=4000).power_ratio(places, scores)
    assert dense == pytest.approx(14.03738600, rel=0.01)
    assert CosWM().power_ratio(places, scores) == pytest.approx(14.03738600, rel=0.1)
