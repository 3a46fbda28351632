"""Watermark accuracy: how often a decision on a few probes is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def group_means(scores: Tensor, group: int) -> np.ndarray:
    """Return the mean score of each run of ``group`` probes; what is left over is dropped.

    Example:
        >>> import torch
        >>> group_means(torch.tensor([1.0, 3.0, 2.0, 4.0, 9.0]), 2).tolist()
        [2.0, 3.0]
    """
    num_grouped = len(scores) // group * group
    return scores[:num_grouped].double().reshape(-1, group).mean(1).numpy()


def threshold(innocents: Sequence[Tensor], false_flags: float, group: int) -> float:
    """Return the score that a fraction of the innocents' groups exceeds; nan without innocents.

    Args:
        innocents: the scores (N,) of each.
        false_flags: that fraction, between 0 and 1.
        group: probes that are decided on together.
    """
    if not innocents:
        return math.nan
    scores = np.concatenate([group_means(scores, group) for scores in innocents])
    return float(np.quantile(scores, 1 - false_flags, method="higher"))


def flag_rate(scores: Tensor, above: float, group: int) -> float:
    """Return the fraction of the groups of probes whose mean score lies above ``above``."""
    return float((group_means(scores, group) > above).mean())
