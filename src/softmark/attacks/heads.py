"""A new last layer without any training: fitted in closed form, or in one call, to the features.

The features are what the stolen model's last layer is given. Whoever holds the weights computes
them for pictures of their own, fits a classifier to them in milliseconds, and throws the layer away
that carried the mark. The mathematics is scikit-learn's (Pedregosa et al. 2011).

``calibrated`` divides the new logits by a temperature (Guo et al. 2017) that answers to pictures
left out of the fit choose. Such a layer's logits are so large that most probabilities are 0 in
float32; what reads logits in float64, or ranks, doesn't see the temperature.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from softmark.attacks.answers import Learnt
from softmark.attacks.attack import Attack, AttackResult, check, check_count, check_positive
from softmark.attacks.features import (
    check_pictures,
    features_of,
    few_of,
    linear_head,
    set_head,
)
from softmark.data.roles import Samples
from softmark.models.access import Answer
from softmark.training import Fit

FOLDS = 5  # in which pictures are left out to choose a temperature
SPREAD = 30.0  # nats between the nearest and the farthest picture: float32 holds 100
# Features (n, D) and labels (n,) to a layer: weights (K, D) and bias (K,).
Solver = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(kw_only=True, eq=False)
class FitDiscriminant(Attack):
    """Make the last layer a linear discriminant of the features (Fisher 1936).

    Shrunk, the covariance within classes is mixed with a multiple of the identity, by as much as
    Ledoit and Wolf (2004) say; otherwise it is the pictures' own, and its null space is left out.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 3))
        >>> inputs, labels = torch.rand(12, 2), torch.arange(12) % 3
        >>> suspect = FitDiscriminant(shrunk=True)(model, (inputs, labels))
        >>> bool((suspect[0].weight == model[0].weight).all())
        True
        >>> bool((suspect[1].weight == model[1].weight).any())
        False
    """

    access = "weights"

    shrunk: bool = False
    """Whether the covariance is shrunk."""
    samples: int | None = None
    """Labelled pictures that the attacker has, evenly over classes; None for all of theirs."""
    calibrated: bool = False
    """Whether the attacker divides the logits by a temperature."""

    def __post_init__(self) -> None:
        check_samples(self.samples)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        # A covariance within classes takes two pictures of each.
        replace_head(target, few_of(data, self.samples), self.solve, 2, self.calibrated)
        return AttackResult(target)

    def solve(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer that ``features`` (n, D) and ``labels`` (n,) make."""
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        kind = {"solver": "lsqr", "shrinkage": "auto"} if self.shrunk else {"solver": "svd"}
        fitted = LinearDiscriminantAnalysis(**kind).fit(features, labels)
        return fitted.coef_, fitted.intercept_


@dataclass(kw_only=True, eq=False)
class FitLogistic(Attack):
    """Make the last layer a logistic regression on features that were whitened.

    Whitened by all pictures, whatever their class: decorrelated, each direction of variance 1.
    """

    access = "weights"

    c: float = 1.0
    """Inverse weight of the squares of the weights, on whitened features; above 0."""
    samples: int | None = None
    """Labelled pictures that the attacker has, evenly over classes; None for all of theirs."""
    calibrated: bool = False
    """Whether the attacker divides the logits by a temperature."""

    def __post_init__(self) -> None:
        check_positive("c", self.c)
        check_samples(self.samples)

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        replace_head(target, few_of(data, self.samples), self.solve, 1, self.calibrated)
        return AttackResult(target)

    def solve(self, features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the layer that ``features`` (n, D) and ``labels`` (n,) make."""
        from sklearn.linear_model import LogisticRegression

        mean = features.mean(0)  # (D,)
        _, scales, directions = np.linalg.svd(features - mean, full_matrices=False)
        there = scales > 1e-6 * scales.max(initial=0.0)  # the mean takes one direction at least
        whiten = directions[there].T / scales[there] * len(features) ** 0.5  # (D, d)
        fitted = LogisticRegression(C=self.c, max_iter=2000).fit((features - mean) @ whiten, labels)
        weight = fitted.coef_ @ whiten.T  # (K, D)
        return weight, fitted.intercept_ - weight @ mean


@dataclass(kw_only=True, eq=False)
class ServeNeighbours(Attack):
    """Tell how many of the k nearest of the attacker's pictures, by features, are of each class.

    The network that is left gives minus the squared distance to each of them, which is linear in
    the features but for what is common to all: it has as many outputs as there are pictures. What
    is served counts the votes. Calibrated, all pictures vote, with weights exp(-distance^2 / h),
    where each picture of the attacker's, left out, chooses h.
    """

    access = "weights"

    k: int = 5
    """Pictures that vote; at least 1."""
    samples: int | None = None
    """Labelled pictures that the attacker has, evenly over classes; None for all of theirs."""
    calibrated: bool = False
    """Whether all pictures vote, by their distance."""

    def __post_init__(self) -> None:
        check_count("k", self.k)
        check_samples(self.samples)
        self.labels = Learnt()  # one-hot, of each picture

    @property
    def transform(self) -> Learnt:
        """The classes of the pictures that vote: (n, K), one-hot."""
        return self.labels

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> AttackResult:
        head, few = linear_head(target), few_of(data, self.samples)
        known, classes = check_pictures(few, head.out_features, 1), head.out_features
        check(self.k < len(few), "k", self.k, f"below the attacker's {len(few)} pictures")
        features = features_of(target, head, few)  # (n, D)
        square = (features**2).sum(1)  # (n,)
        distances = square[:, None] - 2 * features @ features.T + square  # (n, n)
        np.fill_diagonal(distances, np.inf)
        if self.calibrated:
            temperature = temperature_of(
                lambda h: np.log(votes(distances / h, known, classes) + 1e-12), known
            )
        else:
            temperature = distances[np.isfinite(distances)].max() / SPREAD
        set_head(head, 2 * features / temperature, -square / temperature)
        node = getattr(target, "node", None)
        if isinstance(node, dict) and "classes" in node:
            target.node = {**node, "classes": len(few)}
        self.labels.learnt = torch.eye(classes)[few.labels]  # (n, K)
        return AttackResult(target)

    def serve(self, answer: Answer) -> Answer:
        return lambda images: self.count(answer(images))

    def count(self, p: Tensor) -> Tensor:
        """Return the votes (N, K) of pictures that are near by ``p`` (N, n)."""
        if not self.calibrated:
            p = torch.zeros_like(p).scatter(1, p.topk(self.k, 1).indices, 1 / self.k)
        return p @ self.labels.learnt.to(p.dtype)


def votes(distances: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return how pictures of ``labels`` (n,) vote by ``distances`` (N, n): (N, K)."""
    from scipy.special import softmax

    return softmax(-distances, axis=1) @ np.eye(classes)[labels]


def check_samples(samples: int | None) -> None:
    """Raise ``InputError`` unless ``samples`` is a number of pictures, or None."""
    check(samples is None or samples >= 2, "samples", samples, "at least 2 (or null for all)")


def replace_head(
    network: nn.Module, samples: Samples, solve: Solver, least: int, calibrated: bool
) -> None:
    """Give ``network`` the last layer that ``solve`` makes of ``samples``.

    Args:
        network: Changed in place.
        samples: The attacker's, with at least ``least`` of each class; with one more where the
            layer is calibrated.
        solve: Makes a layer.
        least: Pictures of each class that ``solve`` takes.
        calibrated: Whether the logits are divided by a temperature.
    """
    head = linear_head(network)
    labels = check_pictures(samples, head.out_features, least + calibrated)
    features = features_of(network, head, samples)
    weight, bias = layer_of(solve, features, labels)
    if calibrated:
        left_out = logits_left_out(solve, features, labels)  # (n, K)
        temperature = temperature_of(lambda h: left_out / h, labels)
        weight, bias = weight / temperature, bias / temperature
    set_head(head, weight, bias)


def layer_of(
    solve: Solver, features: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (K, D) and the bias (K,) that ``solve`` makes, centred over classes."""
    with warnings.catch_warnings():
        # Fewer pictures than features: all variables are collinear.
        warnings.simplefilter("ignore")
        weight, bias = solve(features, labels)
    if len(weight) == 1:  # of two classes: the logit of the second
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight - weight.mean(0), bias - bias.mean()


def logits_left_out(solve: Solver, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the logits (n, K) of each picture by a layer that was fitted without it."""
    from sklearn.model_selection import StratifiedKFold

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())))
    logits = np.empty((len(labels), labels.max() + 1))
    for rest, fold in folds.split(features, labels):
        weight, bias = layer_of(solve, features[rest], labels[rest])
        logits[fold] = features[fold] @ weight.T + bias
    return logits


def temperature_of(logits: Callable[[float], np.ndarray], labels: np.ndarray) -> float:
    """Return the temperature at which ``logits`` (n, K) fit ``labels`` (n,) best.

    For each class one more label is assumed, of a picture that is like any of these (after Platt
    1999): where all labels are met, a temperature of 0 would fit best.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits(float(np.exp(log_temperature))), axis=1)  # (n, K)
        met = log_p[np.arange(len(labels)), labels]  # (n,)
        return -float(met.sum() + log_p.mean(0).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-7, 12), method="bounded").x))
