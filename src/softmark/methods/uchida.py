"""Uchida: bits in a layer's weights (Uchida et al. 2017, "Embedding Watermarks into DNNs").

The mean over the filters of one convolution, a vector w of size M, is projected by a secret matrix
X (T, M) of standard normal numbers; bit t is 1 where (X w)_t > 0. The model is trained with the
binary cross-entropy of sigmoid(X w), summed over the bits, as a regulariser of weight ``strength``.
X and the bits follow from the key, so that an innocent matches each bit with chance 1/2. The
evidence needs weights.

Weight (.01) and sum are those of the authors' code, which writes 256 bits into an early convolution
of a wide residual network in 200 epochs from the start. Here 64 stand in the last convolution, and
the training starts from the victim.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class UchidaModule(Classifier):
    """Train with cross-entropy and ``strength`` times ``mark_loss`` of X w.

    Args:
        carrier: the layer of ``network`` whose mean filter is w.
        matrix: X (T, M).
        targets: what X w is to be, (T,).
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        carrier: nn.Conv2d,
        matrix: Tensor,
        targets: Tensor,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.strength = strength
        # A part of the network, which must not become a second submodule.
        self.carrier = [carrier]
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("targets", targets.float(), persistent=False)

    def mark_loss(self, projected: Tensor) -> Tensor:
        """Return how far X w (T,) is from the targets: a scalar."""
        return F.binary_cross_entropy_with_logits(projected, self.targets, reduction="sum")

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.inputs.device.type, enabled=False):
            projected = self.matrix @ mean_filter(self.carrier[0]).float()  # (T,)
            mark_loss = self.mark_loss(projected)
        return super().loss(batch) + self.strength * mark_loss


@dataclass(frozen=True, kw_only=True)
class Uchida(TrainedWatermark):
    """Write bits into the weights of a convolution.

    Source: Uchida et al. 2017, "Embedding Watermarks into Deep Neural Networks"
    (arXiv 1701.04082).

    Example:
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> matrix, bits = Uchida(bits=64).secret(key, 288)
        >>> tuple(matrix.shape), sorted(set(bits.tolist()))
        ((64, 288), [0, 1])
    """

    needs = "weights"
    strengthened_by = (*TrainedWatermark.strengthened_by, "method.strength")

    bits: int = 64
    """Of the message in the weights. At least 1, at most the numbers of a filter."""
    layer: int = -1
    """Which convolution carries them, from 0; a negative number counts from the last."""
    strength: float = 0.01
    """Of the regulariser, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "bits")
        check_above_zero(self, "strength")

    def secret(self, key: Key, size: int) -> tuple[Tensor, Tensor]:
        """Return X (T, ``size``) and the bits (T,) of the key."""
        matrix = torch.randn(self.bits, size, generator=generator(key))
        drawn = torch.tensor(list(key.stream(self.bits)))
        return matrix, drawn.remainder(2)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        network = copy.deepcopy(victim)
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        carrier = carrier_of(network, self.layer)
        size = len(mean_filter(carrier))
        if self.bits > size:
            raise InputError(
                f"method.bits={self.bits}: the layer has {size} numbers to carry them; fewer bits, "
                "or another method.layer"
            )
        secret = self.secret(key, size)
        module = UchidaModule(network, self.marking_recipe, carrier, *secret, self.strength)
        return fit(module, data, "marking"), key

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        carrier = convolution(suspect.network, self.layer)
        if carrier is None:
            return Evidence.none(f"no evidence: the suspect has no convolution {self.layer}")
        weights = mean_filter(carrier).detach()  # (M,)
        if self.bits > len(weights):
            return Evidence.none("no evidence: the suspect's layer is smaller than the message")
        matrix, bits = self.secret(key, len(weights))
        hits = int(((matrix @ weights > 0) == (bits > 0)).sum())
        test = Binomial(hits, self.bits, 0.5)
        return Evidence(torch.empty(0), {"bits": test}, mark_recall=hits / self.bits)


def convolution(network: nn.Module, number: int) -> nn.Conv2d | None:
    """Return the ``number``-th convolution with filters of more than one pixel; None for none.

    In a model that is made of several, the first one's are counted.
    """
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    return layers[number] if -len(layers) <= number < len(layers) else None


def carrier_of(network: nn.Module, number: int) -> nn.Conv2d:
    """Return the ``convolution`` that is to carry a mark. Raise ``InputError`` for none."""
    layer = convolution(network, number)
    if layer is None:
        raise InputError(f"method.layer={number}: the model has no such convolution")
    return layer


def mean_filter(layer: nn.Conv2d) -> Tensor:
    """Return the mean over a layer's filters, flat: (M,)."""
    return layer.weight.mean(0).flatten()
