"""The architectures: float images in [0, 1] of shape (N, C, H, W) in, logits of shape (N, K) out.

The normalisation is a network's first layer, so that a saved network needs nothing beside it, and
the last linear layer is called ``head`` in all of them, so that an attack finds it. Images of any
number of channels and any size from 8x8 will do. The numbers are in ``conf/model/NAME.yaml``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.tails import log_of, with_tail

Shape = Sequence[int]  # (C, H, W)
Floats = Sequence[float]  # one a channel
SMALLEST = 8  # pixels a side
RESNET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
VGG_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
# What a file calls a network. Files of "softmark network 1" have these full names: they stay.
KINDS = {
    "softmark.models.networks.ConvNet": "convnet",
    "softmark.models.networks.ResNet": "resnet",
    "softmark.models.networks.VGG": "vgg",
    "softmark.models.networks.WideResNet": "wideresnet",
    "softmark.models.networks.Ensemble": "ensemble",
    "softmark.models.networks.OtherTail": "other_tail",
    "softmark.attacks.served.OtherTail": "other_tail",
}


class Network(nn.Module):
    """What the architectures share: ``features`` (images to (N, D)), then ``head`` (to (N, K))."""

    features: nn.Sequential
    head: nn.Linear

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))


class ConvNet(Network):
    """Four 3x3 convolutions of ``width``, 2, 4 and 8 times ``width`` channels, each then halved.

    Small, and made to be trained in under a minute on two CPU cores: the max-pool comes *before*
    BatchNorm and ReLU, which so have a quarter of the work, an order taken from Jordan, "94% on
    CIFAR-10 in 3.29 seconds on a single GPU" (2024).
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, width: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise(image_shape, mean, std)]
        channels = image_shape[0]
        for wider in (width, 2 * width, 4 * width, 8 * width):
            layers += [_conv3(channels, wider), _halve(), nn.BatchNorm2d(wider), nn.ReLU()]
            channels = wider
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)


class ResNet(Network):
    """He et al., "Deep Residual Learning for Image Recognition" (2015), for small images.

    A 3x3 stem without max-pool, then four stages of ``width``, 2, 4 and 8 times ``width`` channels.
    ``depth`` is 18 or 34; the paper's width is 64.
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, depth: int, width: int
    ) -> None:
        super().__init__()
        stages = _known("ResNet", depth, RESNET_STAGES)
        layers = [
            Normalise(image_shape, mean, std),
            _conv3(image_shape[0], width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers += _residual_stages(ResidualBlock, width, widths, stages)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)


class VGG(Network):
    """Simonyan and Zisserman, "Very Deep Convolutional Networks ..." (2014), with BatchNorm.

    Five stages of ``width``, 2, 4, 8 and 8 times ``width`` channels, each ended by a max-pool; one
    linear layer instead of the paper's three. ``depth`` is 11 or 16; the paper's width is 64.
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, depth: int, width: int
    ) -> None:
        super().__init__()
        stages = _known("VGG", depth, VGG_STAGES)
        layers: list[nn.Module] = [Normalise(image_shape, mean, std)]
        channels = image_shape[0]
        for stage, convolutions in enumerate(stages):
            for _ in range(convolutions):
                wider = width * min(2**stage, 8)
                layers += [_conv3(channels, wider), nn.BatchNorm2d(wider), nn.ReLU()]
                channels = wider
            layers.append(_halve())
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)


class WideResNet(Network):
    """Zagoruyko and Komodakis, "Wide Residual Networks" (2016), without dropout.

    Three stages of 1, 2 and 4 times ``width * factor`` channels, with (``depth`` - 4) / 6 blocks
    each, after a stem of ``width`` channels (16 in the paper). WRN-16-4 has depth 16 and factor 4.
    """

    def __init__(
        self,
        *,
        image_shape: Shape,
        classes: int,
        mean: Floats,
        std: Floats,
        depth: int,
        width: int,
        factor: int,
    ) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if blocks < 1 or rest:
            raise InputError(f"WideResNet has no depth {depth}: use 10, 16, 22, 28, ... (6 n + 4)")
        layers = [Normalise(image_shape, mean, std), _conv3(image_shape[0], width)]
        widths = [width * factor, 2 * width * factor, 4 * width * factor]
        layers += _residual_stages(PreactivatedBlock, width, widths, [blocks] * 3)
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)


class Normalise(nn.Module):
    """``(images - mean) / std`` a channel, (N, C, H, W) in and out. Checks ``image_shape``."""

    mean: Tensor
    std: Tensor

    def __init__(self, image_shape: Shape, mean: Floats, std: Floats) -> None:
        super().__init__()
        channels, height, width = image_shape
        if min(height, width) < SMALLEST:
            raise InputError(
                f"images of {height}x{width} pixels are too small for a network: "
                f"{SMALLEST}x{SMALLEST} or more will do (data.size enlarges them)"
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
        return (images - self.mean) / self.std


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; (N, ``inside``, H, W) to (N, ``outside``, H', W')."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            _conv3(inside, outside, stride),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            _conv3(outside, outside),
            nn.BatchNorm2d(outside),
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut.append(nn.Conv2d(inside, outside, 1, stride, bias=False))
            self.shortcut.append(nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.convolutions(x) + self.shortcut(x))


class PreactivatedBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; a shortcut's 1x1 starts after the first ReLU."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.convolutions = nn.Sequential(
            _conv3(inside, outside, stride),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            _conv3(outside, outside),
        )
        self.shortcut = None
        if stride != 1 or inside != outside:
            self.shortcut = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.activation(x)
        kept = x if self.shortcut is None else self.shortcut(activated)
        return self.convolutions(activated) + kept


def _residual_stages(
    block: type[ResidualBlock] | type[PreactivatedBlock],
    channels: int,
    widths: Sequence[int],
    blocks: Sequence[int],
) -> list[nn.Module]:
    """``blocks[i]`` blocks of ``widths[i]`` channels; each stage but the first halves the size."""
    layers: list[nn.Module] = []
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        for number in range(count):
            layers.append(block(channels, width, 2 if stage > 0 and number == 0 else 1))
            channels = width
    return layers


def _conv3(inside: int, outside: int, stride: int = 1) -> nn.Conv2d:
    # No bias: BatchNorm follows in each place and would take it away.
    return nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)


def _halve() -> nn.MaxPool2d:
    # ceil_mode keeps a map of one pixel alive, so that 8x8 images pass through five pools.
    return nn.MaxPool2d(2, ceil_mode=True)


def _known(network: str, depth: int, depths: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    if depth not in depths:
        raise InputError(f"{network} has no depth {depth}: use {' or '.join(map(str, depths))}")
    return depths[depth]


class Ensemble(nn.Module):
    """Several networks that answer as one: the mean of their probabilities, as logits."""

    kind = "ensemble"

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @classmethod
    def of(cls, networks: Sequence[nn.Module]) -> Ensemble:
        """Return one of ``networks``; it can be saved where ``build`` has made each of them."""
        whole = cls(networks)
        whole.node = {"kind": cls.kind, "networks": [getattr(n, "node", None) for n in networks]}
        return whole

    def forward(self, images: Tensor) -> Tensor:
        answers = [network(images).float().softmax(1) for network in self.networks]
        return torch.stack(answers).mean(0).clamp_min(1e-30).log()


class OtherTail(Ensemble):
    """The first network's likeliest class and its probability, with the second network's tail."""

    kind = "other_tail"

    def forward(self, images: Tensor) -> Tensor:
        first, second = (network(images).float().softmax(1) for network in self.networks)  # (N, K)
        return log_of(with_tail(first, log_of(second)))


def build(network: functools.partial[nn.Module], samples: Samples, classes: int) -> nn.Module:
    """``network`` (a ``conf/model`` node, partial) for pictures like ``samples``: new weights.

    Its attribute ``node`` says how to build the same architecture without any data: its ``kind``
    (of a class outside of ``KINDS`` the full name) and its arguments.
    """
    if "kind" in network.keywords:
        raise InputError("a network can't take the argument 'kind': its file says so what it is")
    images = samples.inputs.float() / 255
    arguments = {
        **network.keywords,
        "image_shape": list(images.shape[1:]),
        "classes": classes,
        "mean": images.mean((0, 2, 3)).tolist(),
        "std": images.std((0, 2, 3)).clamp_min(1e-3).tolist(),
    }
    made = network.func(**arguments)
    name = f"{network.func.__module__}.{network.func.__qualname__}"
    made.node = {"kind": KINDS.get(name, name), **arguments}
    return made
