"""A mark that is easy to see and to remove, for attackers who know the method."""

import copy
import functools

import torch
from torch import nn

from helpers.training import fit, network, recipe, samples
from softmark.attacks.attack import Attack, AttackResult
from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.training import Classifier
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class HeadSign(Watermark):
    """A mark that is easy to see and to remove: the head's biases are all positive."""

    needs = "weights"

    def embed(self, victim, data, fit):
        with torch.no_grad():
            victim.head.bias.abs_()
        return victim, self.draw(data, 3, fit.entropy)

    def draw(self, like, classes, entropy):
        return Key.draw("message", classes, entropy)

    def evidence(self, suspect, key, probes):
        hits = 40 * int((suspect.network.head.bias > 0).all())
        return Evidence(torch.zeros(len(probes)), {"bias": Binomial(hits, 40, 0.5)})


class Flip(Attack):
    """Removes HeadSign's mark where ``strength`` is above 2, and the task too above 8."""

    access = "weights"

    def __init__(self, strength: float):
        self.strength = strength

    def apply(self, target, data, fit):
        with torch.no_grad():
            if self.strength > 2:
                target.head.bias.copy_(-target.head.bias.abs())
            if self.strength > 8:
                target.head.weight.zero_()
        return AttackResult(target, queries=7)


@functools.cache
def _trained() -> nn.Module:
    torch.manual_seed(0)
    return fit()(Classifier(network(), recipe(epochs=6)), samples(300), "classifier")


def trained() -> nn.Module:
    """A network that carries the mark, each time another with the same weights."""
    return HeadSign().embed(copy.deepcopy(_trained()), samples(), fit())[0]
