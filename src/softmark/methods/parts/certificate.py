"""How far weights may move before a claim by triggers can be lost (Bansal et al. 2022).

"Certified Neural Network Watermarks with Randomized Smoothing" (ICML): normal noise of standard
deviation s on all weights W, and the number of triggers answered as the owner wants, h(W + noise).
For every W' within l2 distance e of W the median of h(W' + noise) is no less than the quantile of
h(W + noise) at Phi(-e / s) (percentile smoothing, Chiang et al. 2020): draws bound it from below.

So the certificate is of the smoothed count: a judge who holds W' adds the noise as well and takes
the median. An innocent's median reaches a count with at most twice the chance of a single count
(Markov), so that its p is that of a single count, doubled: the method's own test, with its chance.

Other than there, the model isn't trained with noise on its weights: the certificate is taken of the
marks as they are. Several s are tried, and share the failure probability. What isn't a parameter,
as the statistics of BatchNorm, is taken as it stands, and an attack that moves weights further than
e may still leave the mark: the certificate says what no attack within e can do.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from scipy import special
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.parts.checks import check_at_least_one
from softmark.training import predict
from softmark.verification.nulls import Null

TestOfHits = Callable[[Tensor], Null]

# Radii at which the bound of the count is noted, over the standard deviation of the noise.
STEPS = (0.25, 0.5, 1.0, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class WeightCertificate:
    """Bound from below how many triggers are answered within an l2 ball of weights.

    Source: Bansal et al. 2022, "Certified Neural Network Watermarks with Randomized Smoothing".

    Raises:
        InputError: for numbers outside of their ranges.

    Example:
        >>> certificate = WeightCertificate(draws=1000)
        >>> certificate.bound([100] * 1000, radius=0.05, sigma=0.05)
        100
    """

    sigmas: Sequence[float] = field(default_factory=lambda: [0.01, 0.02, 0.03, 0.05])
    """Standard deviations of the noise on each weight that are tried. Above 0."""
    draws: int = 500
    """Of the noise, for each standard deviation. At least 1."""
    confidence: float = 0.99
    """That every bound holds. Between 0 and 1."""

    def __post_init__(self) -> None:
        check_at_least_one(self, "draws")
        if not self.sigmas or not all(sigma > 0 for sigma in self.sigmas):
            raise InputError(f"certificate.sigmas={list(self.sigmas)}: numbers above 0")
        if not 0 < self.confidence < 1:
            raise InputError(f"certificate.confidence={self.confidence}: between 0 and 1")

    def certify(
        self, network: nn.Module, triggers: Samples, test: TestOfHits, level: float
    ) -> dict[str, Any]:
        """Return the largest radius within which a claim is certain, and what it rests on.

        Args:
            network: The watermarked model: inputs to logits (N, K).
            triggers: Of the key, T of them, with the labels that the owner wants.
            test: What a claim makes of which triggers are answered so: bool (T,) to a test.
            level: The p that a claim must reach.

        Returns:
            ``radius``, 0.0 where no radius is certain; ``needed``, the count that a claim needs, or
            None where all triggers aren't enough; ``norm``, of all weights; and for each standard
            deviation its own radius and the part of the triggers by radius.
        """
        norm = math.sqrt(
            sum(float(w.detach().double().square().sum()) for w in network.parameters())
        )
        needed = needed_hits(len(triggers), test, level)
        by_sigma: dict[str, Any] = {}
        radii = [0.0]
        for sigma in self.sigmas:
            counts = list(noisy_counts(network, triggers, sigma, self.draws))
            radius = self.radius(counts, sigma, needed) if needed is not None else 0.0
            radii.append(radius)
            by_sigma[f"{sigma:g}"] = {
                "radius": radius,
                "recall": {
                    f"{step * sigma:.4g}": self.bound(counts, step * sigma, sigma) / len(triggers)
                    for step in (0.0, *STEPS)
                },
            }
        return {"radius": max(radii), "needed": needed, "norm": norm, "sigmas": by_sigma}

    def bound(self, counts: Sequence[int], radius: float, sigma: float) -> int:
        """Return the count that the median at any weights within ``radius`` isn't below.

        Args:
            counts: Of each draw at the weights as they are.
            radius: In l2, over all parameters.
            sigma: Standard deviation of the noise.
        """
        quantile = float(special.ndtr(-radius / sigma))
        places = torch.arange(1, len(counts) + 1, dtype=torch.float64).numpy()
        # The chance that at least k draws fall below the quantile: then the k-th smallest does.
        certain = special.bdtrc(places - 1, len(counts), quantile) >= self.each_confidence
        place = int(certain.sum())
        return sorted(counts)[place - 1] if place else 0

    def radius(self, counts: Sequence[int], sigma: float, needed: int) -> float:
        """Return the largest radius at which ``bound`` is no less than ``needed``, to a thousandth.

        0.0 where it is less already at the weights as they are.
        """
        low, high = 0.0, 4.0 * sigma  # beyond it no feasible number of draws is enough
        if self.bound(counts, 0.0, sigma) < needed:
            return 0.0
        while high - low > 1e-3 * sigma:
            middle = (low + high) / 2
            fits = self.bound(counts, middle, sigma) >= needed
            low, high = (middle, high) if fits else (low, middle)
        return low

    @property
    def each_confidence(self) -> float:
        """The confidence of the bounds of one standard deviation."""
        return 1 - (1 - self.confidence) / len(self.sigmas)


def needed_hits(count: int, test: TestOfHits, level: float) -> int | None:
    """Return how many of ``count`` triggers a claim at ``level`` needs; None: more than there are.

    ``test``: of which triggers are answered as the owner wants, bool (``count``,).

    Example:
        >>> from softmark.verification.nulls import Binomial
        >>> def test(hits):
        ...     return Binomial(int(hits.sum()), len(hits), 1 / 10)
        >>> needed_hits(100, test, 1e-6), needed_hits(4, test, 1e-6)
        (28, None)
    """
    places = torch.arange(count)
    for needed in range(count + 1):
        if 2 * test(places < needed).p_value() <= level:
            return needed
    return None


def noisy_counts(network: nn.Module, triggers: Samples, sigma: float, draws: int) -> Iterator[int]:
    """Yield how many ``triggers`` are answered as wanted at each of ``draws`` noisy weights.

    The same draws each time, on one kind of device.
    """
    noisy = copy.deepcopy(network)
    pairs = list(zip(network.parameters(), noisy.parameters(), strict=True))
    draw = torch.Generator().manual_seed(0)
    for _ in range(draws):
        with torch.no_grad():
            for weight, moved in pairs:
                moved.copy_(weight + sigma * _normal(weight, draw))
        answered = predict(noisy, triggers.inputs).argmax(1)  # (T,)
        yield int((answered == triggers.labels).sum())


def _normal(like: Tensor, draw: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=draw, dtype=like.dtype).to(like.device)
