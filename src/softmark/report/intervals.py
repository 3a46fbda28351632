"""How numbers are written: percent, p-values, and what several seeds give together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

MISSING = "—"


def percent(fraction: float | None) -> str:
    return MISSING if fraction is None else f"{100 * fraction:.2f} %"


def number(p: float | None) -> str:
    """A p-value: never rounded to 0."""
    if p is None:
        return MISSING
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}"


def interval(values: Sequence[float | None], variance: float = 0.0) -> tuple[float, float, float]:
    """Percent: the mean of ``values`` and the ends of its 95 % interval; nan where unknown.

    ``values``: fractions, one a seed. ``variance``: the error that all seeds share, as that of one
    test set; more seeds don't make it smaller. Two values are the ends themselves: they are too few
    for an interval.
    """
    there = [value for value in values if value is not None]
    if not there:
        return math.nan, math.nan, math.nan
    middle = statistics.fmean(there)
    if len(there) == 1:
        return 100 * middle, math.nan, math.nan
    if len(there) == 2:
        return 100 * middle, 100 * min(there), 100 * max(there)
    from scipy.stats import t

    seeds = t.ppf(0.975, len(there) - 1) * statistics.stdev(there) / math.sqrt(len(there))
    half = math.hypot(float(seeds), 1.96 * math.sqrt(variance))
    return 100 * middle, 100 * (middle - half), 100 * (middle + half)


def spelled(values: Sequence[float | None], variance: float = 0.0) -> str:
    """``interval`` as a person writes it: one value, both of two, or mean ± half-width."""
    there = [100 * value for value in values if value is not None]
    if len(there) == 2:
        # Adding 0 makes 0.0 of -0.0.
        return ", ".join(f"{round(value, 1) + 0:.1f}" for value in there)
    middle, low, high = interval(values, variance)
    if math.isnan(middle):
        return MISSING
    middle = round(middle, 2) + 0
    return f"{middle:.2f}" if math.isnan(low) else f"{middle:.2f} ± {(high - low) / 2:.2f}"
