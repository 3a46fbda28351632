"""What a suspect's answers show of a key, and what becomes of answers that can't be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softmark.verification.nulls import Null

# Rows whose entries sum to this much are probabilities that an interface rounded or cut short.
SUMS = (0.5, 1.5)


@dataclass(frozen=True)
class Evidence:
    """What the probes show. ``scores`` (N,): one number a probe, larger for more evidence.

    ``tests``: of the whole, by name; without any there is nothing to judge, and ``why`` says so.
    ``mark_recall``: the part of a trigger set or
    of a message that was found, for methods whose literature reports it. ``unusable``: answers that
    were no probabilities.
    """

    scores: Tensor
    tests: Mapping[str, Null] = field(default_factory=dict)
    why: str = ""
    mark_recall: float | None = None
    unusable: int = 0

    @classmethod
    def none(cls, why: str, unusable: int = 0) -> Evidence:
        return cls(torch.empty(0), {}, why, None, unusable)


def usable(answers: Tensor) -> tuple[Tensor, int]:
    """``answers`` (N, K) as probabilities, and how many rows were none.

    A row of finite numbers, none negative, that sum to nearly 1 is divided by its sum: interfaces
    round, and tell the likeliest classes alone. Any other row becomes 1/K everywhere, which is no
    evidence for any key. Nothing here depends on a key.
    """
    answers = answers.float()
    sums = answers.double().sum(1)
    good = answers.isfinite().all(1) & (answers >= 0).all(1) & (sums >= SUMS[0]) & (sums <= SUMS[1])
    flat = torch.full_like(answers, 1 / answers.shape[1])
    clean = torch.where(good[:, None], answers / sums[:, None].to(answers.dtype), flat)
    return clean, int((~good).sum())
