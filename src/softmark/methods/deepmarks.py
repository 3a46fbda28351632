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
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero
from softmark.methods.uchida import UchidaModule, carrier_of, convolution, mean_filter
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Direction, Null


class DeepMarksModule(UchidaModule):
    """Train with cross-entropy and ``strength`` times the mean square of X w - code."""

    def mark_loss(self, projected: Tensor) -> Tensor:
        return F.mse_loss(projected, self.targets)


@dataclass(frozen=True, kw_only=True)
class DeepMarks(TrainedWatermark):
    """Write a code for each customer into the weights of a convolution.

    The message names the customer: it chooses the code.

    Source: Chen et al. 2019, "DeepMarks: A Secure Fingerprinting Framework for Digital Rights
    Management of Deep Learning Models" (arXiv 1804.03648).

    Example:
        >>> DeepMarks(order=5).codes.shape
        torch.Size([31, 31])
    """

    needs = "weights"
    strengthened_by = (*TrainedWatermark.strengthened_by, "method.strength")

    order: int = 11
    """q, a prime: q^2 + q + 1 customers at most, each with a code of so many entries."""
    layer: int = -1
    """Which convolution carries it, from 0; a negative number counts from the last."""
    strength: float = 1.0
    """Of the mean square, above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        most = math.isqrt(max(self.order, 0))
        if self.order < 2 or any(self.order % n == 0 for n in range(2, most + 1)):
            raise InputError(f"method.order={self.order}: a prime number, such as 5, 7 or 11")
        check_above_zero(self, "strength")

    @functools.cached_property
    def codes(self) -> Tensor:
        """The code of each customer: (v, v)."""
        return codebook(self.order)

    def code(self, key: Key) -> Tensor:
        """Return the code of the key's message: (v,), 1 or -1."""
        return self.codes[int.from_bytes(key.stream(8), "big") % len(self.codes)]

    def matrix(self, key: Key, size: int) -> Tensor:
        """Return X (v, ``size``): the owner's, the same for each message."""
        return torch.randn(len(self.codes), size, generator=generator(key))

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        network = copy.deepcopy(victim)
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        carrier = carrier_of(network, self.layer)
        size = len(mean_filter(carrier))
        if len(self.codes) > size:
            raise InputError(
                f"method.order={self.order}: codes of {len(self.codes)} entries, and the layer has "
                f"{size} numbers to carry them; a smaller order, or another method.layer"
            )
        secret = self.matrix(key, size), self.code(key)
        module = DeepMarksModule(network, self.marking_recipe, carrier, *secret, self.strength)
        return fit(module, data, "marking"), key

    def project(self, suspect: Suspect, key: Key) -> Tensor | None:
        """Return X w (v,) of the suspect; None where it has no layer that could carry a code."""
        carrier = convolution(suspect.network, self.layer)
        if carrier is None or len(mean_filter(carrier)) < len(self.codes):
            return None
        weights = mean_filter(carrier).detach().nan_to_num()
        return self.matrix(key, len(weights)) @ weights

    def exact(self, projected: Tensor, key: Key) -> Direction:
        """Return the test of ``projected`` (v,): its cosine to the code, both without their
        means, which all codes share."""
        code, projected = (
            values - values.mean() for values in (self.code(key).double(), projected.double())
        )
        cosine = code @ projected / (code.norm() * projected.norm()).clamp_min(1e-30)
        return Direction(float(cosine), len(projected) - 1)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        projected = self.project(suspect, key)
        if projected is None:
            return Evidence.none(
                f"no evidence: no convolution {self.layer} large enough for a code"
            )
        recall = ((projected > 0) == (self.code(key) > 0)).float().mean()
        test = self.exact(projected, key)
        return Evidence(torch.empty(0), {"code": test}, mark_recall=float(recall))

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        projected = self.project(suspect, key)
        if projected is None:
            return {}
        return {message: self.exact(projected, key.for_message(message)) for message in messages}


def codebook(order: int) -> Tensor:
    """Return the codes of all customers, one a row: (v, v).

    An entry is -1 where the point lies on the line, 1 elsewhere. Points and lines have the same
    coordinates modulo ``order``: the first that isn't 0 is 1.
    """
    residues = range(order)
    points = [(1, *others) for others in itertools.product(residues, residues)]
    points += [(0, 1, last) for last in residues] + [(0, 0, 1)]
    places = torch.tensor(points)  # (v, 3)
    return 1.0 - 2.0 * ((places @ places.T) % order == 0)
