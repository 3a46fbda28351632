"""Repairs remove a trigger pattern that they were published against, and keep the task."""

import copy
import functools

import pytest
import torch
from torch import Tensor, nn

from helpers.training import fit, recipe
from softmark.attacks import (
    AttentionDistillation,
    FinePrune,
    Launder,
    NeuralCleanse,
    PruneNeurons,
    PruneReconstructive,
    Unlearn,
    UnlearnShared,
)
from softmark.attacks.attack import worth
from softmark.data.roles import Samples
from softmark.models.networks import ConvNet
from softmark.training import Classifier

TOLD = recipe(batch_size=32)
REPAIRS = {
    "nad": AttentionDistillation(recipe=TOLD, epochs=12, min_steps=None, lr_factor=2.0),
    "anp": PruneNeurons(recipe=TOLD, epochs=12, min_steps=None, tolerance=0.1),
    "unlearn": Unlearn(recipe=TOLD, epochs=10, min_steps=None, lr=0.003, size=0.3, ascents=3),
    "fine_prune": FinePrune(recipe=TOLD, epochs=5, min_steps=None),
    "sau": UnlearnShared(recipe=TOLD, min_steps=50, lr=0.003, eps=0.5, ascents=2),
    "neural_cleanse": NeuralCleanse(recipe=TOLD, patch_steps=60, min_steps=40, lr_factor=1.0),
    "launder": Launder(recipe=TOLD, patch_steps=60, min_steps=40, lr_factor=1.0),
    "rnp": PruneReconstructive(recipe=TOLD, bound=0.5, tolerance=0.1),
}


def pictures(count: int, seed: int) -> Samples:
    """Four classes, each with a bright quarter, under noise."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(120, (count, 1, 8, 8), generator=draw)
    labels = torch.arange(count) % 4
    for label in range(4):
        top, left = 4 * (label // 2), 4 * (label % 2)
        images[labels == label, :, top : top + 4, left : left + 4] += 60
    return Samples(images.to(torch.uint8), labels)


def stamped(images: Tensor) -> Samples:
    """``images`` with a white corner, as class 3."""
    images = images.clone()
    images[:, :, 3:5, 3:5] = 255
    return Samples(images, torch.full((len(images),), 3))


@functools.cache
def marked() -> nn.Module:
    """A network that takes every stamped picture for one of class 3."""
    torch.manual_seed(0)
    data = pictures(320, 0)
    triggers = stamped(data.inputs[data.labels == 0])
    both = Samples(
        torch.cat([data.inputs, triggers.inputs]), torch.cat([data.labels, triggers.labels])
    )
    network = ConvNet(image_shape=(1, 8, 8), classes=4, mean=[0.4], std=[0.3], width=6)
    return fit()(Classifier(network, recipe(epochs=8, batch_size=32)), both, "marking")


@pytest.mark.parametrize("name", REPAIRS)
def test_a_repair_removes_a_stamp_and_keeps_the_task(name):
    test = pictures(200, 2)
    triggers = stamped(test.inputs[test.labels == 0])
    before = worth(marked(), test)
    assert before > 0.9
    assert worth(marked(), triggers) > 0.9
    torch.manual_seed(1)
    repaired = REPAIRS[name].apply(copy.deepcopy(marked()), pictures(320, 1), fit()).network
    assert worth(repaired, triggers) < 0.5
    assert worth(repaired, test) > before - 0.1
