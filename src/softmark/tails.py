"""Tails: what is left of a probability vector beside its likeliest class.

``p`` is a probability vector over K classes, ``c`` its likeliest class, and the *tail* the other
K - 1 entries. A mark is a *pattern*, a (K, K) matrix: row c is the direction that the mark gives to
the tail of class c; the diagonal is 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-12  # what a probability or a norm of 0 counts as
FLAT = 1e-4  # a tail whose log-probabilities spread less than this has no direction
MAX_ENTRIES = 2**24  # whose ranks are held at a time
ROUNDING = 1e-5  # of a row's norm: what is smaller may be left by rounding alone


def log_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred log-tail (N, K), 0 at the likeliest class, and that class (N,).

    Example:
        >>> tail, top = log_tail(torch.tensor([[0.5, 0.4, 0.1]]).log())
        >>> int(top), bool(tail.sum().abs() < 1e-6)
        (0, True)
    """
    top = log_p.argmax(1)  # (N,)
    is_tail = torch.ones_like(log_p).scatter(1, top[:, None], 0.0)  # (N, K)
    mean = (log_p * is_tail).sum(1, keepdim=True) / (log_p.shape[1] - 1)  # (N, 1)
    return (log_p - mean) * is_tail, top


def unit_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``log_tail`` scaled to unit norm, (N, K) and (N,); all 0 where the tail is flat."""
    tail, top = log_tail(log_p)
    norm = tail.norm(dim=1, keepdim=True)  # (N, 1)
    return torch.where(norm > FLAT, tail / norm.clamp_min(FLAT), 0.0), top


def ranks(p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ranks of each answer's entries (N, K), and the likeliest class (N,).

    1 for the least probability, K for the likeliest class; entries that tie share the mean of
    their ranks.

    Example:
        >>> ranks(torch.tensor([[0.5, 0.4, 0.05, 0.05]]))[0].tolist()
        [[4.0, 3.0, 1.5, 1.5]]
    """
    top = p.argmax(1)
    top_last = p.scatter(1, top[:, None], 2.0)  # (N, K), 2 is above every probability
    return torch.from_numpy(_ranks(top_last.numpy())), top


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Return ``scipy.stats.rankdata`` of each row (N, K), as float32 and in a tenth of the time."""
    order = np.argsort(rows, axis=1)
    in_order = np.take_along_axis(rows, order, 1)
    places = np.broadcast_to(np.arange(1, rows.shape[1] + 1, dtype=np.float32), rows.shape)
    ranked = np.empty(rows.shape, np.float32)
    np.put_along_axis(ranked, order, places, 1)
    tied = in_order[:, 1:] == in_order[:, :-1]  # (N, K - 1)
    if len(some := np.flatnonzero(tied.any(1))):
        # The first and the last place of those that tie.
        first, last = places[some], places[some]
        first[:, 1:][tied[some]], last[:, :-1][tied[some]] = 0, np.inf
        last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
        shared = (np.maximum.accumulate(first, axis=1) + last) / 2
        with_ties = np.empty_like(shared)
        np.put_along_axis(with_ties, order[some], shared, 1)
        ranked[some] = with_ties
    ranked[np.isnan(in_order[:, -1])] = np.nan
    return ranked


def rank_tail(p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centred ranks of each tail at unit norm (N, K), and the likeliest class (N,).

    The exact tests stand on these. Ranks are blind to temperature, sharpening and rounding, and no
    single entry outweighs the others, as logarithms of 1e-9 do. Entries that tie share their rank:
    a flat tail is 0.
    """
    ranked, top = ranks(p)
    tail = (ranked - p.shape[1] / 2).scatter(1, top[:, None], 0.0)  # (N, K)
    return F.normalize(tail, dim=1), top


def log_of(p: Tensor) -> Tensor:
    """Return the logarithms of probabilities, of which 0 counts as ``FLOOR``."""
    return p.clamp_min(FLOOR).log()


def margin(log_p: Tensor, pattern: Tensor) -> Tensor:
    """Return the mean log-probability margin of each tail along its class's row: (N,).

    Weighted by the row: for signs, half the distance between the mean log-probability of the
    raised entries and that of the lowered ones, where both are as many.

    Args:
        log_p: log-probabilities, (N, K).
        pattern: (K, K).
    """
    tail, top = log_tail(log_p)
    return (tail * pattern[top]).sum(1) / (pattern.shape[1] - 1)


def margin_loss(log_p: Tensor, pattern: Tensor, target: float) -> Tensor:
    """Return the mean shortfall of ``margin`` below ``target``, as a fraction of it: a scalar.

    A hinge in logarithms is met by entries of tiny probability as well, which fine-tuning hardly
    has a gradient for.
    """
    return F.relu(1 - margin(log_p, pattern) / target).mean()


def class_tails(p: Tensor) -> Tensor:
    """Return the mean ``rank_tail`` of each class (K, K); 0 for one that is never answered."""
    total, count = _sum_of_tails(p)  # (K, K), (K,)
    return total / count.clamp_min(1)[:, None]


def tail_sums(answers: Tensor) -> Tensor:
    """Return the evidence of a suspect's answers (N, K): (K, K) with 0 on the diagonal.

    Entry (c, j) is the sum of t_j / sqrt(K - 1) over the probes answered c, for rank tails t.
    """
    return _sum_of_tails(answers)[0] / (answers.shape[1] - 1) ** 0.5


def _sum_of_tails(p: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of each class's rank tails (K, K), and how often it is answered (K,)."""
    classes = p.shape[1]
    total, count = torch.zeros(classes, classes), torch.zeros(classes, dtype=torch.int64)
    for part in p.split(max(1, MAX_ENTRIES // classes)):  # (n, K)
        tail, top = rank_tail(part)
        total.index_add_(0, top, tail)
        count += top.bincount(minlength=classes)
    return total, count


def project_out(sums: Tensor, victim_tails: Tensor, *, only_agreeing: bool = False) -> Tensor:
    """Return ``sums`` without the part of each row along ``victim_tails``, all (K, K).

    What rounding leaves of a row that is nothing else is 0.

    Args:
        sums: of a suspect, as ``tail_sums`` gives them.
        victim_tails: rows of unit norm or 0.
        only_agreeing: leave a part in that points against the victim's tail.
    """
    remainder = torch.empty_like(sums)
    num_rows = max(1, MAX_ENTRIES // len(sums))
    for rows, tails, rest in zip(
        *(matrix.split(num_rows) for matrix in (sums, victim_tails, remainder)), strict=True
    ):
        along = (rows * tails).sum(1, keepdim=True)  # (n, 1)
        along = along.clamp_min(0) if only_agreeing else along
        torch.sub(rows, along * tails, out=rest)
        is_rounding = rest.abs() < ROUNDING * rows.norm(dim=1, keepdim=True)
        rest.masked_fill_(is_rounding, 0.0)
    return remainder


def centred(rows: Tensor) -> Tensor:
    """Return ``rows`` (K, K), 0 on the diagonal, less the mean of each row's other entries."""
    mean = rows.sum(1, keepdim=True) / (len(rows) - 1)  # (K, 1)
    return (rows - mean).fill_diagonal_(0)


def compute_victim_stats(answers: Tensor) -> Tensor:
    """Return what the model that gave ``answers`` (N, K) shows for each class: (2, K, K).

    First its mean tails, ``class_tails`` at unit norm; then how its doubt is shared out: the mean
    probabilities of the other classes, each row's sum 1. Rows of 0 for a class that is never
    answered, whose tails cancel, or without any doubt.
    """
    top, classes = answers.argmax(1), answers.shape[1]
    doubt = torch.zeros(classes, classes).index_add(0, top, answers.float()).fill_diagonal_(0)
    total = doubt.sum(1, keepdim=True)  # (K, 1)
    shared = torch.where(total > FLOOR, doubt / total.clamp_min(FLOOR), 0.0)  # (K, K)
    mean = class_tails(answers)  # (K, K)
    # Tails that cancel leave what rounding does: no direction.
    mean = torch.where(mean.norm(dim=1, keepdim=True) < ROUNDING, 0.0, mean)
    return torch.stack([F.normalize(mean, dim=1), shared])


def is_victim_stats(values: Tensor, classes: int) -> bool:
    """Return whether ``values`` may come from ``compute_victim_stats`` of a model's answers."""
    if values.shape != (2, classes, classes) or values.dtype != torch.float32:
        return False
    mean_tails, shared = values
    sizes = torch.stack([mean_tails.norm(dim=1), shared.sum(1)])  # (2, K)
    is_unit = ((sizes == 0) | ((sizes - 1).abs() < 1e-3)).all()
    is_centred = (mean_tails.sum(1).abs() < 1e-3).all() & (values.diagonal(0, 1, 2) == 0).all()
    return bool(is_unit & is_centred & (shared >= 0).all())


def confusion_counts(answers: Tensor, labels: Tensor) -> Tensor:
    """Return how often a probe of label c is answered j: (K, K), 0 on the diagonal.

    Args:
        answers: (N, K), of which the likeliest class counts alone; where two are as likely there
            is none.
        labels: (N,), below 0 where nobody knows it.

    Example:
        >>> answers = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
        >>> confusion_counts(answers, torch.tensor([0, 0, 0])).tolist()
        [[0.0, 2.0], [0.0, 0.0]]
    """
    classes = answers.shape[1]
    if not (labels >= 0).any():
        return torch.zeros(classes, classes)
    known = is_clear(answers) & (labels >= 0)  # (N,)
    places = classes * labels[known] + answers[known].argmax(1)
    counts = places.bincount(minlength=classes**2).reshape(classes, classes).float()
    return counts.fill_diagonal_(0)


def is_clear(answers: Tensor) -> Tensor:
    """Return which of ``answers`` (N, K) have a single likeliest class: bool (N,)."""
    return (answers == answers.amax(1, keepdim=True)).sum(1) == 1


def anscombe_residuals(counts: Tensor, victim_stats: Tensor | None) -> Tensor:
    """Return how far counts are from what an unmarked model lets expect: (K, K).

    sqrt(N + 3/8) - sqrt(m + 3/8), whose variance hardly depends on N (Anscombe 1948); m shares out
    the mistakes of each row as the unmarked model's doubt, or evenly where it isn't known.

    Args:
        counts: of ``confusion_counts``, (K, K).
        victim_stats: of ``compute_victim_stats``, (2, K, K), or None.
    """
    classes = len(counts)
    even = torch.ones(classes, classes) / (classes - 1)
    shared = even if victim_stats is None else victim_stats[1]  # (K, K)
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
    mass = 1 - p.amax(1, keepdim=True)  # (N, 1)
    tail = mass * log_tail.masked_fill(top, -torch.inf).softmax(1)  # (N, K)
    most = p.amax(1, keepdim=True)
    answer = torch.where(top, p, torch.minimum(tail, 0.999 * most))
    return answer / answer.sum(1, keepdim=True)
