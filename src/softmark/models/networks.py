"""The architectures: float images (N, C, H, W) in [0, 1] in, logits (N, K) out.

The normalisation is a network's first layer, so that a saved network needs nothing beside it, and
the last linear layer is called ``head`` in all of them, so that an attack finds it. Images of any
number of channels and any size from 8x8 will do. The numbers are in ``conf/model/NAME.yaml``.

All take ``image_shape`` (C, H, W), ``classes`` K, and ``mean`` and ``std``, a number a channel; the
rest is said in each class.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.layers import (
    Floats,
    Normalise,
    PreactivatedBlock,
    ResidualBlock,
    Shape,
    conv3,
    halve,
    residual_stages,
)
from softmark.models.sizes import check_sizes
from softmark.tails import log_of, with_tail

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
        """Return the logits (N, K) of float ``images`` (N, C, H, W) in [0, 1]."""
        return self.head(self.features(images))  # (N, C, H, W) -> (N, D) -> (N, K)


class ConvNet(Network):
    """Four 3x3 convolutions of ``width``, 2, 4 and 8 times ``width`` channels, each then halved.

    Small, and made to be trained in under a minute on two CPU cores: the max-pool comes *before*
    BatchNorm and ReLU, which so have a quarter of the work, an order taken from Jordan, "94% on
    CIFAR-10 in 3.29 seconds on a single GPU" (2024).

    Args:
        width: channels of the first convolution.

    Example:
        >>> node = {"image_shape": (3, 32, 32), "classes": 10, "mean": [0.5] * 3, "std": [0.2] * 3}
        >>> ConvNet(**node, width=4)(torch.rand(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, width: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [Normalise(image_shape, mean, std)]
        channels = image_shape[0]
        for wider in (width, 2 * width, 4 * width, 8 * width):
            layers += [conv3(channels, wider), halve(), nn.BatchNorm2d(wider), nn.ReLU()]
            channels = wider
        self.features = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)


class ResNet(Network):
    """He et al., "Deep Residual Learning for Image Recognition" (2015), for small images.

    A 3x3 stem without max-pool, then four stages of ``width``, 2, 4 and 8 times ``width`` channels.

    Args:
        depth: 18 or 34 layers.
        width: channels of the first stage; 64 in the paper.
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, depth: int, width: int
    ) -> None:
        super().__init__()
        stages = _stages_of("ResNet", depth, RESNET_STAGES)
        layers = [
            Normalise(image_shape, mean, std),
            conv3(image_shape[0], width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        widths = [width, 2 * width, 4 * width, 8 * width]
        layers += residual_stages(ResidualBlock, width, widths, stages)
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)


class VGG(Network):
    """Simonyan and Zisserman, "Very Deep Convolutional Networks ..." (2014), with BatchNorm.

    Five stages of ``width``, 2, 4, 8 and 8 times ``width`` channels, each ended by a max-pool; one
    linear layer instead of the paper's three.

    Args:
        depth: 11 or 16 layers in the paper's way of counting.
        width: channels of the first stage; 64 in the paper.
    """

    def __init__(
        self, *, image_shape: Shape, classes: int, mean: Floats, std: Floats, depth: int, width: int
    ) -> None:
        super().__init__()
        stages = _stages_of("VGG", depth, VGG_STAGES)
        layers: list[nn.Module] = [Normalise(image_shape, mean, std)]
        channels = image_shape[0]
        for stage, convolutions in enumerate(stages):
            for _ in range(convolutions):
                wider = width * min(2**stage, 8)
                layers += [conv3(channels, wider), nn.BatchNorm2d(wider), nn.ReLU()]
                channels = wider
            layers.append(halve())
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, classes)


class WideResNet(Network):
    """Zagoruyko and Komodakis, "Wide Residual Networks" (2016), without dropout.

    Three stages of 1, 2 and 4 times ``width * factor`` channels, with (``depth`` - 4) / 6 blocks
    each, after a stem. WRN-16-4 has depth 16 and factor 4.

    Args:
        depth: layers: 10, 16, 22, 28, ...
        width: channels of the stem; 16 in the paper.
        factor: how many times wider the first stage is.
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
        blocks, remainder = divmod(depth - 4, 6)
        if blocks < 1 or remainder:
            raise InputError(f"WideResNet has no depth {depth}: use 10, 16, 22, 28, ... (6 n + 4)")
        layers = [Normalise(image_shape, mean, std), conv3(image_shape[0], width)]
        widths = [width * factor, 2 * width * factor, 4 * width * factor]
        layers += residual_stages(PreactivatedBlock, width, widths, [blocks] * 3)
        layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)


def _stages_of(network: str, depth: int, depths: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the stages of ``depth``. Raise ``InputError`` where ``depths`` has no such."""
    if depth not in depths:
        raise InputError(f"{network} has no depth {depth}: use {' or '.join(map(str, depths))}")
    return depths[depth]


class Ensemble(nn.Module):
    """Several networks that answer as one: the logarithm of the mean of their probabilities.

    Args:
        networks: each images (N, C, H, W) to logits (N, K).
    """

    kind = "ensemble"

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    @classmethod
    def of(cls, networks: Sequence[nn.Module]) -> Ensemble:
        """Return one of ``networks``; it can be saved where ``build`` has made each of them."""
        ensemble = cls(networks)
        nodes = [getattr(network, "node", None) for network in networks]
        ensemble.node = {"kind": cls.kind, "networks": nodes}
        return ensemble

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K), whose softmax is the mean of the networks' probabilities."""
        answers = [network(images).float().softmax(1) for network in self.networks]  # (N, K) each
        return torch.stack(answers).mean(0).clamp_min(1e-30).log()  # (N, K)


class OtherTail(Ensemble):
    """The first network's likeliest class and its probability, with the second network's tail."""

    kind = "other_tail"

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K)."""
        first, second = (network(images).float().softmax(1) for network in self.networks)  # (N, K)
        return log_of(with_tail(first, log_of(second)))


def build(network: functools.partial[nn.Module], samples: Samples, classes: int) -> nn.Module:
    """Build a network for pictures like ``samples``, with new weights of torch's generator.

    Args:
        network: a class with its numbers, what ``nodes.make`` makes of a ``conf/model`` node.
        samples: their shape, and the mean and deviation of each channel, are the network's.
        classes: K, the number of its logits.

    Returns:
        The network. Its attribute ``node`` says how to build the same architecture without any
        data: its ``kind`` (of a class outside of ``KINDS`` the full name) and its arguments.

    Raises:
        InputError: a number can't be used.

    Example:
        >>> pictures = torch.randint(256, (8, 1, 16, 16), dtype=torch.uint8)
        >>> samples = Samples(pictures, torch.arange(8) % 4)
        >>> network = build(functools.partial(ConvNet, width=4), samples, classes=4)
        >>> network.node["kind"], network(pictures / 255).shape
        ('convnet', torch.Size([8, 4]))
    """
    if "kind" in network.keywords:
        raise InputError("a network can't take the argument 'kind': its file says so what it is")
    images = samples.inputs.float() / 255  # (N, C, H, W)
    arguments = {
        **network.keywords,
        "image_shape": list(images.shape[1:]),
        "classes": classes,
        "mean": images.mean((0, 2, 3)).tolist(),
        "std": images.std((0, 2, 3)).clamp_min(1e-3).tolist(),
    }
    if network.func.__module__ == __name__:  # a class of the user's own has numbers of its own
        check_sizes(arguments)
    built = network.func(**arguments)
    name = f"{network.func.__module__}.{network.func.__qualname__}"
    built.node = {"kind": KINDS.get(name, name), **arguments}
    return built
