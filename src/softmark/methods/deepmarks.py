"""DeepMarks: a code for each customer in the weights (Chen et al. 2019, "DeepMarks ...").

The paper takes the columns of a balanced incomplete block design: customer j's code is -1 at the k
points of block j and 1 elsewhere, v entries in all. Two blocks share one point, so that the mean of
several codes still tells whose they are (an AND anti-collusion code). The mean filter w of one
convolution is projected by a secret matrix X (v, M), and the training minimises
cross-entropy + ``strength`` * mean((X w - code)^2).

Taken from it: codes, projection, loss, and the correlation with a code. What differs: the blocks
are the lines of a projective plane of prime order q (v = q^2 + q + 1, k = q + 1; the paper's
(31, 6, 1) is q = 5). The paper's orthogonal basis U is left out, since U'X is as Gaussian as X is.
No threshold makes a code of what is read: each customer's code is tested exactly. The mean is taken
away first, since all codes share it; what is left of two codes is nearly orthogonal, so that one
customer's copy says nothing against another. The mean of n copies has cosine 1 / sqrt(n) to each.

The message names the customer: it chooses the code, and two messages share one with chance 1 / v.
Secret and salt are the owner's and the same for all customers. For a suspect that knows nothing of
the key, X w is N(0, |w|^2 I): its direction is uniform. The evidence needs weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import longer
from softmark.methods.key import Key, generator, named
from softmark.methods.uchida import Regularised, carrier_in, convolution, mean_filter
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, Recipe
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Direction, Null


class Coded(Regularised):
    """Cross-entropy and ``strength`` times the mean square of X w - code."""

    def wrong(self, read: Tensor) -> Tensor:
        return F.mse_loss(read, self.wanted)


class DeepMarks(Watermark):
    """``order``: of the projective plane, a prime. ``layer``: the number of the convolution that
    carries the code, from 0; a negative one counts from the last."""

    needs = "weights"
    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor", "method.strength")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        order: int,
        layer: int,
        strength: float,
    ):
        if order < 2 or any(order % n == 0 for n in range(2, math.isqrt(max(order, 0)) + 1)):
            raise InputError(f"method.order={order}: a prime number, such as 5, 7 or 11")
        if not strength > 0:
            raise InputError(f"method.strength={strength}: it must be above 0")
        self.message = named(message)
        self.recipe = longer(recipe, epochs_factor)
        self.order, self.layer, self.strength = order, layer, strength
        self.codes = codebook(order)

    def code(self, key: Key) -> Tensor:
        """The code of the key's message: (v,), 1 or -1."""
        return self.codes[int.from_bytes(key.stream(8), "big") % len(self.codes)]

    def matrix(self, key: Key, size: int) -> Tensor:
        """X (v, ``size``): the owner's, the same for each message."""
        return torch.randn(len(self.codes), size, generator=generator(key))

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        network = copy.deepcopy(victim)
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        carrier = carrier_in(network, self.layer)
        size = len(mean_filter(carrier))
        if len(self.codes) > size:
            raise InputError(
                f"method.order={self.order}: codes of {len(self.codes)} entries, and the layer has "
                f"{size} numbers to carry them; a smaller order, or another method.layer"
            )
        secret = self.matrix(key, size), self.code(key)
        return fit(
            Coded(network, self.recipe, carrier, *secret, self.strength), data, "marking"
        ), key

    def read(self, suspect: Suspect, key: Key) -> Tensor | None:
        """X w (v,) of the suspect; None where it has no layer that could carry a code."""
        carrier = convolution(suspect.network, self.layer)
        if carrier is None or len(mean_filter(carrier)) < len(self.codes):
            return None
        weights = mean_filter(carrier).detach().nan_to_num()
        return self.matrix(key, len(weights)) @ weights

    def exact(self, read: Tensor, key: Key) -> Direction:
        """The cosine of ``read`` (v,) and the code, both without their means."""
        ours, theirs = (each - each.mean() for each in (self.code(key).double(), read.double()))
        cosine = ours @ theirs / (ours.norm() * theirs.norm()).clamp_min(1e-30)
        return Direction(float(cosine), len(read) - 1)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        read = self.read(suspect, key)
        if read is None:
            return Evidence.none(
                f"no evidence: no convolution {self.layer} large enough for a code"
            )
        found = ((read > 0) == (self.code(key) > 0)).float().mean()
        test = self.exact(read, key)
        return Evidence(torch.empty(0), {"code": test}, mark_recall=float(found))

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        read = self.read(suspect, key)
        if read is None:
            return {}
        return {message: self.exact(read, key.for_message(message)) for message in messages}


def codebook(order: int) -> Tensor:
    """Each row a customer's code: (v, v), -1 where the point lies on the line, 1 elsewhere.

    Points and lines have the same coordinates modulo ``order``: the first that isn't 0 is 1.
    """
    below = range(order)
    points = [(1, *rest) for rest in itertools.product(below, below)]
    points += [(0, 1, last) for last in below] + [(0, 0, 1)]
    places = torch.tensor(points)
    return 1.0 - 2.0 * ((places @ places.T) % order == 0)
