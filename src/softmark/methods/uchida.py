"""Uchida: bits in a layer's weights (Uchida et al. 2017, "Embedding Watermarks into DNNs").

The mean over the filters of one convolution, a vector w of size M, is projected by a secret matrix
X (T, M) of standard normal numbers; bit t is 1 where (X w)_t > 0. The model is trained with the
binary cross-entropy of sigmoid(X w) as a regulariser of weight ``strength``. X and the bits follow
from the key, so that an innocent matches each bit with chance 1/2. The evidence needs weights.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import longer
from softmark.methods.key import Key, generator, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class Regularised(Classifier):
    """Cross-entropy and ``strength`` times what is ``wrong`` with X w, which is to be ``wanted``.

    ``carrier``: the layer whose mean filter is w; ``matrix``: X (T, M); ``wanted``: (T,).
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        carrier: nn.Conv2d,
        matrix: Tensor,
        wanted: Tensor,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.strength = strength
        # A part of the network, which must not become a second submodule.
        self.carrier = [carrier]
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("wanted", wanted.float(), persistent=False)

    def wrong(self, read: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(read, self.wanted)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.inputs.device.type, enabled=False):
            read = self.matrix @ mean_filter(self.carrier[0]).float()
            wrong = self.wrong(read)
        return super().loss(batch) + self.strength * wrong


class Uchida(Watermark):
    """``bits``: the length of the message in the weights. ``layer``: the number of the convolution
    that carries it, from 0; a negative one counts from the last."""

    needs = "weights"
    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor", "method.strength")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        bits: int,
        layer: int,
        strength: float,
    ):
        if not bits >= 1:
            raise InputError(f"method.bits={bits}: at least 1")
        if not strength > 0:
            raise InputError(f"method.strength={strength}: it must be above 0")
        self.message = named(message)
        self.recipe = longer(recipe, epochs_factor)
        self.bits, self.layer, self.strength = bits, layer, strength

    def secret(self, key: Key, size: int) -> tuple[Tensor, Tensor]:
        """X (T, ``size``) and the bits (T,) of the key."""
        matrix = torch.randn(self.bits, size, generator=generator(key))
        drawn = torch.tensor(list(key.stream(self.bits)))
        return matrix, drawn.remainder(2)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        network = copy.deepcopy(victim)
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        carrier = carrier_in(network, self.layer)
        size = len(mean_filter(carrier))
        if self.bits > size:
            raise InputError(
                f"method.bits={self.bits}: the layer has {size} numbers to carry them; fewer bits, "
                "or another method.layer"
            )
        marking = Regularised(network, self.recipe, carrier, *self.secret(key, size), self.strength)
        return fit(marking, data, "marking"), key

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        carrier = convolution(suspect.network, self.layer)
        if carrier is None:
            return Evidence.none(f"no evidence: the suspect has no convolution {self.layer}")
        weights = mean_filter(carrier).detach()
        if self.bits > len(weights):
            return Evidence.none("no evidence: the suspect's layer is smaller than the message")
        matrix, bits = self.secret(key, len(weights))
        hits = int(((matrix @ weights > 0) == (bits > 0)).sum())
        test = Binomial(hits, self.bits, 0.5)
        return Evidence(torch.empty(0), {"bits": test}, mark_recall=hits / self.bits)


def convolution(network: nn.Module, number: int) -> nn.Conv2d | None:
    """The ``number``-th convolution with filters of more than one pixel; None where it isn't there.

    In a model that is made of several, the first one's are counted.
    """
    found = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1)
    ]
    return found[number] if -len(found) <= number < len(found) else None


def carrier_in(network: nn.Module, number: int) -> nn.Conv2d:
    """The ``convolution`` that is to carry a mark. Raises ``InputError`` where it isn't there."""
    found = convolution(network, number)
    if found is None:
        raise InputError(f"method.layer={number}: the model has no such convolution")
    return found


def mean_filter(layer: nn.Conv2d) -> Tensor:
    """The mean over a layer's filters, flat: (M,)."""
    return layer.weight.mean(0).flatten()
