"""Which channels CLP and BNP prune, by hand."""

import pytest
import torch
from torch import nn

from helpers.training import network, samples
from softmark.attacks.outliers import PruneLipschitz, PruneShifted, lipschitz_bounds
from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.models.networks import ConvNet


def wide() -> ConvNet:
    torch.manual_seed(0)
    shape = {"image_shape": (1, 8, 8), "classes": 3, "mean": [0.4], "std": [0.3]}
    return ConvNet(**shape, width=12).eval()


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_bound_is_the_largest_singular_value_times_batchnorms_factor():
    convolution, norm = nn.Conv2d(2, 1, (1, 2), bias=False), nn.BatchNorm2d(1, eps=0.0)
    convolution.weight.data = torch.tensor([[[[3.0, 0.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2)
    norm.weight.data.fill_(-2.0)
    norm.running_var.fill_(4.0)
    assert lipschitz_bounds(convolution, norm).tolist() == [4.0]


def test_the_channel_that_changes_most_is_silenced():
    model = wide()
    model.features[1].weight.data[5] *= 50
    stolen = PruneLipschitz(deviations=3.0)
    result = stolen.apply(model, samples(), None)
    (first, *_) = norms_of(model)
    assert (first.weight == 0).nonzero().flatten().tolist() == [5]
    assert first.bias[5] == 0
    assert result.note == "1 of 180 channels pruned"


def test_the_channel_that_clean_pictures_leave_elsewhere_is_silenced():
    model, data = wide(), samples()
    model.train()
    for _ in range(60):
        model(as_input(data.inputs))
    model.eval()
    first = norms_of(model)[0]
    first.running_mean[7] += 3 * first.running_var[7].sqrt()
    PruneShifted(deviations=3.0).apply(model, data, None)
    assert (first.weight == 0).nonzero().flatten().tolist() == [7]


@pytest.mark.parametrize("kind", [PruneLipschitz, PruneShifted])
def test_what_cannot_be_is_named(kind):
    with pytest.raises(InputError, match=r"attack\.deviations=0\.0"):
        kind(deviations=0.0)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(InputError, match="Sequential has no BatchNorm"):
        kind().apply(flat, samples(), None)
    assert kind().apply(network(), samples(), None).note.endswith("channels pruned")
