"""What a suspect shows of a key, and what becomes of answers that can't be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from softmark.verification.nulls import Null

# Rows whose entries sum to this much are probabilities that an interface rounded or cut short.
SUMS = (0.5, 1.5)
ROWS_AT_A_TIME = 1000  # that are held in float64


@dataclass(frozen=True)
class Evidence:
    """Hold what the probes show of a key.

    Example:
        >>> import torch
        >>> from softmark.verification.nulls import Binomial
        >>> evidence = Evidence(torch.empty(0), {"bits": Binomial(60, 64, 0.5)})
        >>> evidence.tests["bits"].p_value() < 1e-6
        True
        >>> Evidence.none("the suspect has no weights").why
        'the suspect has no weights'
    """

    scores: Tensor
    """One number for each probe, larger for more evidence: (N,), or (0,) without any."""
    tests: Mapping[str, Null] = field(default_factory=dict)
    """By name, each of all probes together; without any there is nothing to judge."""
    why: str = ""
    """Why there is no test, or what limits those that there are."""
    mark_recall: float | None = None
    """The part of a trigger set or of a message that was read, where the literature reports it."""
    unusable: int = 0
    """How many answers were no probabilities."""

    @classmethod
    def none(cls, why: str, unusable: int = 0) -> Evidence:
        """Return evidence without any test, and why."""
        return cls(torch.empty(0), {}, why, None, unusable)


def usable(answers: Tensor) -> tuple[Tensor, int]:
    """Return ``answers`` (N, K) as probabilities, and how many rows were none.

    A row of finite numbers, none negative, that sum to nearly 1 is divided by its sum: interfaces
    round, and tell the likeliest classes alone. Any other row becomes 1/K everywhere, which is no
    evidence for any key. Nothing here depends on a key.

    Example:
        >>> import torch
        >>> usable(torch.tensor([[0.5, 0.3], [2.0, 3.0]]))
        (tensor([[0.6250, 0.3750],
                [0.5000, 0.5000]]), 1)
    """
    answers = answers if answers.dtype == torch.float64 else answers.float()
    sums = torch.cat([part.double().sum(1) for part in answers.split(ROWS_AT_A_TIME)])  # (N,)
    # A sum within these bounds is one of finite numbers.
    good = (answers.amin(1) >= 0) & (sums >= SUMS[0]) & (sums <= SUMS[1])  # (N,)
    clean = answers / sums[:, None].to(answers.dtype)
    clean[~good] = 1 / answers.shape[1]
    return clean, int((~good).sum())
