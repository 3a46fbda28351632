"""DeepSigns: bits in the mean features of some classes (Rouhani et al. 2019, "DeepSigns ...").

The paper's mark in hidden layers: mu (S, D) are the mean features of S chosen classes, A (T, D) is
a secret matrix of standard normal numbers, and bit t of class s is 1 where sigmoid(A mu_s)_t > 1/2.
The model is trained on with the cross-entropy of these bits beside its own. The bits are read from
the features of pictures of these classes.

Taken from it: the loss, the matrix, the reading. What differs: the layer is always the last before
the classifier; mu is the mean over a batch's pictures, where the paper learns centres and keeps
them apart with two more terms; the pictures are the judge's and not from the training. Classes,
matrix and bits follow from the key, so that an innocent matches each bit with chance 1/2, whatever
its features are. A network of another feature size is read with a matrix of its own size: it can't
hold the mark, and its p-value is still right. The evidence needs weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import longer
from softmark.methods.features import class_means
from softmark.methods.key import Key, generator, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.models.networks import Network
from softmark.training import Batch, Classifier, Fit, Recipe, as_input
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class Signed(Classifier):
    """Cross-entropy and ``strength`` times the cross-entropy of the bits.

    ``chosen`` (S,): classes; ``matrix`` (T, D); ``bits`` (S, T).
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        chosen: Tensor,
        matrix: Tensor,
        bits: Tensor,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.strength = strength
        self.register_buffer("chosen", chosen, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("bits", bits.float(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        features = self.network.features(batch.inputs)
        logits = self.network.head(features)
        task = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        with torch.autocast(batch.inputs.device.type, enabled=False):
            means, there = class_means(features.float(), batch.labels, self.chosen)
            read = means @ self.matrix.T
            # Of classes that the batch holds no picture of, nothing is read.
            wrong = F.binary_cross_entropy_with_logits(read, self.bits, there[:, None].float())
        return task + self.strength * wrong


class DeepSigns(Watermark):
    """``bits``: of each marked class. ``marked``: how many classes carry bits."""

    needs = "weights"
    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor", "method.strength")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        bits: int,
        marked: int,
        strength: float,
    ):
        for name, value in (("bits", bits), ("marked", marked)):
            if not value >= 1:
                raise InputError(f"method.{name}={value}: at least 1")
        if not strength > 0:
            raise InputError(f"method.strength={strength}: it must be above 0")
        self.message = named(message)
        self.recipe = longer(recipe, epochs_factor)
        self.bits, self.marked, self.strength = bits, marked, strength

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        if self.marked > classes:
            raise InputError(f"method.marked={self.marked}: the model has {classes} classes")
        return Key.draw(self.message, classes, entropy)

    def secret(self, key: Key, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """The key's classes (S,), matrix (T, ``size``) and bits (S, T)."""
        draw = generator(key)
        chosen = torch.randperm(key.classes, generator=draw)[: self.marked]
        matrix = torch.randn(self.bits, size, generator=draw)
        drawn = torch.tensor(list(key.stream(self.marked * self.bits)))
        return chosen, matrix, drawn.remainder(2).reshape(self.marked, self.bits)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if not isinstance(victim, Network):
            raise InputError(f"{type(victim).__name__} has no features before a classifier to mark")
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        size = victim.head.in_features
        if self.bits > size:
            raise InputError(f"method.bits={self.bits}: the model has {size} features, fewer bits")
        secret = self.secret(key, size)
        marking = Signed(copy.deepcopy(victim), self.recipe, *secret, self.strength)
        return fit(marking, data, "marking"), key

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        """The pictures of the key's classes."""
        return pool[torch.isin(pool.labels, self.secret(key, 1)[0])]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        network = suspect.network
        if not isinstance(network, Network):
            return Evidence.none("no evidence: the suspect has no features before a classifier")
        if self.bits > network.head.in_features:
            return Evidence.none("no evidence: the suspect has fewer features than bits")
        chosen, matrix, bits = self.secret(key, network.head.in_features)
        features = features_of(network, probes.inputs)
        means, there = class_means(features, probes.labels, chosen)
        if not there.any():
            return Evidence.none("no evidence: no picture of a marked class was asked")
        right = (means[there] @ matrix.T > 0) == (bits[there] > 0)
        test = Binomial(int(right.sum()), right.numel(), 0.5)
        return Evidence(torch.empty(0), {"bits": test}, mark_recall=test.score)


@torch.no_grad()
def features_of(network: Network, images: Tensor) -> Tensor:
    """What the classifier of ``network`` reads of uint8 ``images``: (N, D), on the CPU."""
    was_training = network.training
    network.eval()
    parts = [network.features(as_input(part)).float() for part in images.split(500)]
    network.train(was_training)
    return torch.cat(parts)
