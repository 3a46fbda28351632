"""Watermark accuracy: how often a decision on a few probes is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor


def group_means(scores: Tensor, group: int) -> np.ndarray:
    """The mean score of each run of ``group`` probes; what is left over is dropped."""
    whole = len(scores) // group * group
    return scores[:whole].double().reshape(-1, group).mean(1).numpy()


def threshold(innocents: Sequence[Tensor], false_flags: float, group: int) -> float:
    """The score that ``false_flags`` of the innocents' groups exceed; nan without innocents."""
    if not innocents:
        return math.nan
    scores = np.concatenate([group_means(each, group) for each in innocents])
    return float(np.quantile(scores, 1 - false_flags, method="higher"))


def flag_rate(scores: Tensor, above: float, group: int) -> float:
    """The part of the groups that score above ``above``."""
    return float((group_means(scores, group) > above).mean())
