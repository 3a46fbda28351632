"""One small network of each kind."""

import functools

import torch
from torch import nn

from helpers.training import samples
from softmark.attacks.collude import renew_statistics
from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.models.networks import VGG, ConvNet, ResNet, WideResNet, build

# With 4 channels torch 2.13 corrupts memory (double free) when a ResNet's gradients are computed on
# a processor without AVX-512.
NETWORKS = {
    "convnet": functools.partial(ConvNet, width=4),
    "resnet": functools.partial(ResNet, depth=18, width=8),
    "vgg": functools.partial(VGG, depth=11, width=8),
    "wideresnet": functools.partial(WideResNet, depth=10, width=8, factor=2),
}


def built(name: str, classes: int = 3) -> nn.Module:
    """With statistics of its data, so that deep layers answer something before any training."""
    data = samples()
    return renew_statistics(build(NETWORKS[name], data, classes), data)


def layers(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


class Flat(nn.Module):
    """A network without convolutions."""

    def __init__(self):
        super().__init__()
        self.flatten, self.head = nn.Flatten(), nn.Linear(64, 3)

    def forward(self, images):
        return self.head(self.flatten(images))


def batch_of(data: Samples) -> Batch:
    return Batch(as_input(data.inputs), data.labels, torch.arange(len(data)))
