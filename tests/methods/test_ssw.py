"""SSW: its loss by loops, and that moving pictures lowers it."""

import math

import pytest
import torch

from helpers.training import network, samples
from softmark.methods.ssw import SSW, transfer_loss


def models():
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        made.append(network().eval())
    return made


def test_the_loss_is_that_of_products_of_probabilities_as_logits():
    pictures, labels = samples(4).inputs.float() / 255, torch.tensor([2, 2, 0, 1])
    told = [model(pictures).softmax(1).tolist() for model in models()]
    losses = []
    for i, label in enumerate(labels.tolist()):
        fused = [told[0][i][k] * told[1][i][k] * (1 - told[2][i][k]) for k in range(3)]
        losses.append(-math.log(math.exp(fused[label]) / sum(map(math.exp, fused))))
    found = transfer_loss(models(), pictures, labels).item()
    assert found == pytest.approx(sum(losses) / 4, rel=1e-5)


def test_pictures_are_moved_down_the_loss():
    pictures, labels, made = samples(6).inputs, torch.full((6,), 2), models()
    moved = SSW(iterations=10, pixel_lr=0.05).move(made, pictures, labels)
    before, after = (transfer_loss(made, one.float() / 255, labels) for one in (pictures, moved))
    assert moved.dtype == torch.uint8
    assert after.item() < before.item()
