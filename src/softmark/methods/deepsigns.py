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
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.parts.feature_mark import class_means
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of
from softmark.models.networks import Network
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class DeepSignsModule(Classifier):
    """Train with cross-entropy and ``strength`` times the cross-entropy of the bits.

    Args:
        marked: the classes that carry bits, (S,).
        matrix: A (T, D).
        bits: of each marked class, (S, T).
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        marked: Tensor,
        matrix: Tensor,
        bits: Tensor,
        strength: float,
    ):
        super().__init__(network, recipe)
        self.strength = strength
        self.register_buffer("marked", marked, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)
        self.register_buffer("bits", bits.float(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        features = self.network.features(batch.inputs)
        logits = self.network.head(features)
        task = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        with torch.autocast(batch.inputs.device.type, enabled=False):
            means, is_present = class_means(features.float(), batch.labels, self.marked)
            projected = means @ self.matrix.T  # (S, T)
            # Of classes that the batch holds no picture of, nothing is read.
            weights = is_present[:, None].float()  # (S, 1)
            mark_loss = F.binary_cross_entropy_with_logits(projected, self.bits, weights)
        return task + self.strength * mark_loss


@dataclass(frozen=True, kw_only=True)
class DeepSigns(TrainedWatermark):
    """Write bits into the mean features of some classes.

    Source: Rouhani et al. 2019, "DeepSigns: An End-to-End Watermarking Framework for Ownership
    Protection of Deep Neural Networks" (arXiv 1804.00750).

    Example:
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> marked, matrix, bits = DeepSigns(bits=32, marked=2).secret(key, 256)
        >>> tuple(marked.shape), tuple(matrix.shape), tuple(bits.shape)
        ((2,), (32, 256), (2, 32))
    """

    needs = "weights"
    strengthened_by = (*TrainedWatermark.strengthened_by, "method.strength")

    bits: int = 32
    """Of each marked class. At least 1, at most the model's features."""
    marked: int = 2
    """Classes that carry bits; the key draws which. At least 1."""
    strength: float = 0.1
    """Of the bits' cross-entropy, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "bits", "marked")
        check_above_zero(self, "strength")

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        if self.marked > classes:
            raise InputError(f"method.marked={self.marked}: the model has {classes} classes")
        return Key.draw(self.message, classes, entropy)

    def secret(self, key: Key, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the key's classes (S,), matrix (T, ``size``) and bits (S, T)."""
        draw = generator(key)
        marked = torch.randperm(key.classes, generator=draw)[: self.marked]
        matrix = torch.randn(self.bits, size, generator=draw)
        drawn = torch.tensor(list(key.stream(self.marked * self.bits)))
        return marked, matrix, drawn.remainder(2).reshape(self.marked, self.bits)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if not isinstance(victim, Network):
            raise InputError(f"{type(victim).__name__} has no features before a classifier to mark")
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        size = victim.head.in_features
        if self.bits > size:
            raise InputError(f"method.bits={self.bits}: the model has {size} features, fewer bits")
        secret = self.secret(key, size)
        network = copy.deepcopy(victim)
        module = DeepSignsModule(network, self.marking_recipe, *secret, self.strength)
        return fit(module, data, "marking"), key

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        """Return the pictures of the key's classes."""
        return pool[torch.isin(pool.labels, self.secret(key, 1)[0])]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        network = suspect.network
        if not isinstance(network, Network):
            return Evidence.none("no evidence: the suspect has no features before a classifier")
        if self.bits > network.head.in_features:
            return Evidence.none("no evidence: the suspect has fewer features than bits")
        marked, matrix, bits = self.secret(key, network.head.in_features)
        features = features_of(network, probes.inputs)
        means, is_present = class_means(features, probes.labels, marked)  # (S, D), (S,)
        if not is_present.any():
            return Evidence.none("no evidence: no picture of a marked class was asked")
        hits = (means[is_present] @ matrix.T > 0) == (bits[is_present] > 0)
        test = Binomial(int(hits.sum()), hits.numel(), 0.5)
        return Evidence(torch.empty(0), {"bits": test}, mark_recall=test.score)


@torch.no_grad()
def features_of(network: Network, pictures: Tensor) -> Tensor:
    """Return what the classifier of ``network`` reads of uint8 ``pictures``: (N, D), on the CPU."""
    was_training = network.training
    network.eval()
    parts = [network.features(as_input(part)).float() for part in pictures.split(500)]
    network.train(was_training)
    return torch.cat(parts)
