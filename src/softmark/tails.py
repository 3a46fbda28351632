"""Tails: what is left of a probability vector beside its likeliest class.

``p`` is a probability vector over K classes, ``c`` its likeliest class, and the *tail* the other
K - 1 entries. A mark is a *pattern*, a (K, K) matrix: row c is the direction that the mark gives to
the tail of class c; the diagonal is 0.
"""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-12  # what a probability of 0 counts as
FLAT = 1e-4  # a tail whose log-probabilities spread less than this has no direction


def log_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The centred log-tail (N, K), 0 at the likeliest class, and that class (N,)."""
    top = log_p.argmax(1)
    tail = torch.ones_like(log_p).scatter(1, top[:, None], 0.0)
    mean = (log_p * tail).sum(1, keepdim=True) / (log_p.shape[1] - 1)
    return (log_p - mean) * tail, top


def unit_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """``log_tail`` scaled to unit norm; all 0 where the tail is flat."""
    tail, top = log_tail(log_p)
    norm = tail.norm(dim=1, keepdim=True)
    return torch.where(norm > FLAT, tail / norm.clamp_min(FLAT), 0.0), top


def ranks(p: Tensor) -> tuple[Tensor, Tensor]:
    """The ranks of each answer's entries (N, K), and the likeliest class (N,), whose rank is K.

    1 for the least probability; entries that tie share the mean of their ranks.
    """
    top = p.argmax(1)
    last = p.scatter(1, top[:, None], 2.0)  # above every probability
    return torch.from_numpy(stats.rankdata(last.numpy(), axis=1)), top


def rank_tail(p: Tensor) -> tuple[Tensor, Tensor]:
    """The centred ranks of each tail at unit norm (N, K), and the likeliest class (N,).

    What the exact tests stand on. Ranks are blind to temperature, sharpening and rounding, and no
    single entry outweighs the others, as logarithms of 1e-9 do. Entries that tie share their rank:
    a flat tail is 0.
    """
    ranked, top = ranks(p)
    tail = (ranked.float() - p.shape[1] / 2).scatter(1, top[:, None], 0.0)
    return F.normalize(tail, dim=1), top


def log_of(p: Tensor) -> Tensor:
    return p.clamp_min(FLOOR).log()


def margin(log_p: Tensor, pattern: Tensor) -> Tensor:
    """The mean log-probability margin of each tail along its class's row of the pattern: (N,).

    Weighted by the row: for signs, half the distance between the mean log-probability of the
    raised entries and that of the lowered ones, where both are as many.
    """
    tail, top = log_tail(log_p)
    return (tail * pattern[top]).sum(1) / (pattern.shape[1] - 1)


def margin_loss(log_p: Tensor, pattern: Tensor, wanted: float) -> Tensor:
    """The mean shortfall of ``margin`` below ``wanted``, as a fraction of it: a scalar.

    A hinge in logarithms is met by entries of tiny probability as well, which fine-tuning hardly
    has a gradient for.
    """
    return F.relu(1 - margin(log_p, pattern) / wanted).mean()


def class_tails(p: Tensor) -> Tensor:
    """The mean ``rank_tail`` of each class (K, K); 0 for a class that is never answered."""
    tail, top = rank_tail(p)
    classes = p.shape[1]
    total = torch.zeros(classes, classes).index_add(0, top, tail)
    return total / top.bincount(minlength=classes).clamp_min(1)[:, None]


def tail_sums(answers: Tensor) -> Tensor:
    """The evidence of a suspect's answers (N, K): a matrix (K, K) with 0 on the diagonal.

    A_cj is the sum of t_j / sqrt(K - 1) over the probes answered c.
    """
    tail, top = rank_tail(answers)
    classes = answers.shape[1]
    return torch.zeros(classes, classes).index_add(0, top, tail) / (classes - 1) ** 0.5


def usual_tails(answers: Tensor) -> Tensor:
    """What the model that gave ``answers`` (N, K) shows for each class: (K, K), unit rows."""
    return F.normalize(class_tails(answers), dim=1)


def is_usual(rows: Tensor, classes: int) -> bool:
    """Whether ``rows`` may come from ``usual_tails``: each is 0, or centred and of unit norm."""
    if rows.shape != (classes, classes) or not rows.is_floating_point():
        return False
    norms = rows.norm(dim=1)
    fits = (norms == 0) | ((norms - 1).abs() < 1e-3)
    return bool((fits & (rows.sum(1).abs() < 1e-3) & (rows.diagonal() == 0)).all())
