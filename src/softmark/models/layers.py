"""Layers and blocks that the architectures are built of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from softmark.data.pictures import MIN_SIDE
from softmark.errors import InputError

Shape = Sequence[int]  # (C, H, W)
Floats = Sequence[float]  # one a channel


class Normalise(nn.Module):
    """Normalise each channel: ``(images - mean) / std``, (N, C, H, W) in and out.

    Raises:
        InputError: the images are too small, or mean and std don't fit them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, image_shape: Shape, mean: Floats, std: Floats) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < MIN_SIDE:
            raise InputError(
                f"images of {height}x{width} pixels are too small for a network: "
                f"{MIN_SIDE}x{MIN_SIDE} or more will do (data.size enlarges them)"
            )
        if not len(mean) == len(std) == channels:
            raise InputError(
                f"{len(mean)} means and {len(std)} deviations for images of {channels} channels: "
                "give one of each a channel"
            )
        if min(std) <= 0:
            raise InputError(f"a channel's standard deviation is {min(std)}: it has to be above 0")
        self.register_buffer("mean", torch.tensor([float(m) for m in mean]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([float(s) for s in std]).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised ``images``, of the same shape."""
        return (images - self.mean) / self.std


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; (N, ``inside``, H, W) to (N, ``outside``, H', W')."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            conv3(inside, outside, stride),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            conv3(outside, outside),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut.append(nn.Conv2d(inside, outside, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features of ``x`` (N, ``inside``, H, W)."""
        return relu(self.convolutions(x) + self.shortcut(x))


class PreactivatedBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; a shortcut's 1x1 starts after the first ReLU."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.convolutions = nn.Sequential(
            conv3(inside, outside, stride),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            conv3(outside, outside),
        )
        self.shortcut = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's features of ``x`` (N, ``inside``, H, W)."""
        activated = self.activation(x)  # (N, inside, H, W)
        skipped = x if self.shortcut is None else self.shortcut(activated)  # (N, outside, H', W')
        return self.convolutions(activated) + skipped


def residual_stages(
    block: type[ResidualBlock] | type[PreactivatedBlock],
    channels: int,
    widths: Sequence[int],
    blocks: Sequence[int],
) -> list[nn.Module]:
    """Return ``blocks[i]`` blocks of ``widths[i]`` channels; stages but the first halve the size.

    Args:
        block: its class.
        channels: of what comes in.
        widths: the channels of each stage.
        blocks: how many each stage has.
    """
    layers: list[nn.Module] = []
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for number in range(count):
            layers.append(block(channels, width, 2 if stage > 0 and number == 0 else 1))
            channels = width
    return layers


def conv3(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size at stride 1."""
    # No bias: BatchNorm follows in each place and would take it away.
    return nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)


def halve() -> nn.MaxPool2d:
    """Return the max-pool that halves height and width, rounded up."""
    # ceil_mode keeps a map of one pixel alive, so that 8x8 images pass through five pools.
    return nn.MaxPool2d(2, ceil_mode=True)
