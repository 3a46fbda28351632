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


def without(sums: Tensor, usual: Tensor, *, towards: bool = False) -> Tensor:
    """``sums`` (K, K) without the part of each row along ``usual``; ``towards``: only if it agrees.

    What rounding leaves of a row that is nothing else is 0.
    """
    along = (sums * usual).sum(1, keepdim=True)
    rest = sums - (along.clamp_min(0) if towards else along) * usual
    return torch.where(rest.abs() < 1e-5 * sums.norm(dim=1, keepdim=True), 0.0, rest)


def centred(rows: Tensor) -> Tensor:
    """``rows`` (K, K), 0 on the diagonal, with the mean of each row's other entries taken off."""
    mean = rows.sum(1, keepdim=True) / (len(rows) - 1)
    return (rows - mean).fill_diagonal_(0)


def usual_of(answers: Tensor) -> Tensor:
    """What the model that gave ``answers`` (N, K) shows for each class: (2, K, K).

    First its mean ranks, ``class_tails`` at unit norm; then how its doubt is shared out: the mean
    probabilities of the other classes, each row's sum 1. Rows of 0 for a class that is never
    answered, whose tails cancel, or without any doubt.
    """
    top, classes = answers.argmax(1), answers.shape[1]
    doubt = torch.zeros(classes, classes).index_add(0, top, answers.float()).fill_diagonal_(0)
    total = doubt.sum(1, keepdim=True)
    shared = torch.where(total > FLOOR, doubt / total.clamp_min(FLOOR), 0.0)
    mean = class_tails(answers)
    # Tails that cancel leave what rounding does: no direction.
    mean = torch.where(mean.norm(dim=1, keepdim=True) < 1e-5, 0.0, mean)
    return torch.stack([F.normalize(mean, dim=1), shared])


def is_usual(usual: Tensor, classes: int) -> bool:
    """Whether ``usual`` may come from ``usual_of``."""
    if usual.shape != (2, classes, classes) or usual.dtype != torch.float32:
        return False
    mean_ranks, shared = usual
    sizes = torch.stack([mean_ranks.norm(dim=1), shared.sum(1)])
    whole = ((sizes == 0) | ((sizes - 1).abs() < 1e-3)).all()
    centred = (mean_ranks.sum(1).abs() < 1e-3).all() & (usual.diagonal(0, 1, 2) == 0).all()
    return bool(whole & centred & (shared >= 0).all())


def mistakes(answers: Tensor, labels: Tensor) -> Tensor:
    """How often a probe of label c is answered j: (K, K), 0 on the diagonal.

    ``answers`` (N, K), of which the likeliest class counts alone; where two are as likely there is
    none. ``labels`` (N,): below 0 where nobody knows it.
    """
    classes = answers.shape[1]
    known = is_clear(answers) & (labels >= 0)
    places = classes * labels[known] + answers[known].argmax(1)
    counts = places.bincount(minlength=classes**2).reshape(classes, classes).float()
    return counts.fill_diagonal_(0)


def is_clear(answers: Tensor) -> Tensor:
    """Which of ``answers`` (N, K) have a single likeliest class: (N,)."""
    return (answers == answers.amax(1, keepdim=True)).sum(1) == 1


def surprises(counts: Tensor, usual: Tensor | None) -> Tensor:
    """How far ``counts`` (K, K) of ``mistakes`` are from what an unmarked model lets expect.

    sqrt(N + 3/8) - sqrt(m + 3/8), whose variance hardly depends on N (Anscombe 1948); m shares out
    the mistakes of each row as the unmarked model's doubt, or evenly where it isn't known.
    """
    classes = len(counts)
    shared = torch.ones(classes, classes) / (classes - 1) if usual is None else usual[1]
    expected = counts.sum(1, keepdim=True) * shared
    return ((counts + 0.375).sqrt() - (expected + 0.375).sqrt()).fill_diagonal_(0)


def is_top(p: Tensor) -> Tensor:
    """Return (N, K): true at the likeliest class of each row of ``p`` (N, K)."""
    return F.one_hot(p.argmax(1), p.shape[1]).bool()


def with_tail(p: Tensor, log_tail: Tensor) -> Tensor:
    """Return ``p`` with the softmax of ``log_tail`` (N, K) as its tail, of the mass that it had.

    The likeliest class stays the likeliest: no tail's entry may exceed it.
    """
    top = is_top(p)
    mass = 1 - p.amax(1, keepdim=True)
    tail = mass * log_tail.masked_fill(top, -torch.inf).softmax(1)
    most = p.amax(1, keepdim=True)
    answer = torch.where(top, p, torch.minimum(tail, 0.999 * most))
    return answer / answer.sum(1, keepdim=True)
