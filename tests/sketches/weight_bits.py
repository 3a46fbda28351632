"""Bits in the last layer's weights, read through a keyed projection (after Uchida 2017)."""

import copy

import torch
from torch.nn import functional as F

from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.training import Classifier
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


def projection(key, bits, size):
    stream = bytearray(key.stream(bits * (1 + size)))
    signs = torch.frombuffer(stream, dtype=torch.uint8).remainder(2)
    return signs[:bits], 2.0 * signs[bits:].reshape(bits, size) - 1


class Marking(Classifier):
    def __init__(self, network, recipe, wanted, matrix, strength):
        super().__init__(network, recipe)
        self.strength = strength
        self.register_buffer("wanted", wanted.float())
        self.register_buffer("matrix", matrix)

    def loss(self, batch):
        read = self.matrix @ self.network.head.weight.flatten()
        bits = F.binary_cross_entropy_with_logits(read, self.wanted)
        return super().loss(batch) + self.strength * bits


class WeightBits(Watermark):
    needs = "weights"

    def __init__(self, message, recipe, bits, strength):
        self.message, self.recipe, self.bits, self.strength = message, recipe, bits, strength

    def draw(self, like, classes, entropy):
        return Key.draw(self.message, classes, entropy)

    def embed(self, victim, data, fit):
        key = self.draw(data, victim.head.out_features, fit.entropy)
        secret = projection(key, self.bits, victim.head.weight.numel())
        marking = Marking(copy.deepcopy(victim), self.recipe, *secret, self.strength)
        return fit(marking, data, "marking"), key

    def evidence(self, suspect, key, probes):
        if not hasattr(suspect.network, "head"):
            return Evidence.none("another architecture: it has no last layer of this name")
        weights = suspect.network.head.weight.detach().flatten()
        wanted, matrix = projection(key, self.bits, len(weights))
        hits = int(((matrix @ weights > 0) == (wanted > 0)).sum())
        return Evidence(
            torch.empty(0), {"bits": Binomial(hits, self.bits, 0.5)}, mark_recall=hits / self.bits
        )
