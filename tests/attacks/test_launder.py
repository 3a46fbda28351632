"""Neural laundering: which channels are reset."""

import pytest
import torch
from torch import nn

from helpers.training import recipe, samples
from softmark.attacks.launder import Launder
from softmark.errors import InputError


class Bright(nn.Module):
    """Two BatchNorms; a channel of each follows the picture, the other its opposite."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)

    def forward(self, images):
        both = self.first(torch.cat([images, 1 - images], 1))
        return self.head(self.last(both).mean((2, 3)))


def test_channels_that_a_patch_raises_are_reset():
    model, data = Bright().eval(), samples()
    data.inputs.zero_()
    patch = torch.zeros(1, 2, 8, 8)
    patch[:, :, 0, 0] = 1  # one white pixel
    attack = Launder(recipe=recipe(), threshold=0.5)
    assert attack.reset(model, [model.last], data, patch) == 1
    assert model.last.weight.tolist() == [0.0, 1.0]
    assert model.first.weight.tolist() == [1.0, 1.0]
    assert attack.reset(model, [model.first], data, 0.4 * patch) == 0


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match=r"attack\.threshold=0\.0"):
        Launder(recipe=recipe(), threshold=0.0)
    with pytest.raises(InputError, match="has no BatchNorm"):
        Launder().apply(nn.Sequential(nn.Linear(2, 3)), samples(), None)
