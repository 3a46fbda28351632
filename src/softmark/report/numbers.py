"""Numbers as text: percent, p-values, and means over seeds with their 95 % interval."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence

MISSING = "—"


def format_percent(fraction: float | None) -> str:
    """Return ``fraction`` in percent, with two decimals."""
    return MISSING if fraction is None else f"{100 * fraction:.2f} %"


def format_p(p: float | None) -> str:
    """Return a p-value as text, never rounded to 0."""
    if p is None:
        return MISSING
    return f"{p:.3f}" if p >= 0.01 else f"{p:.1e}"


def mean_interval(
    values: Sequence[float | None], variance: float = 0.0
) -> tuple[float, float, float]:
    """Return the mean in percent and the ends of its 95 % interval; nan where unknown.

    Two values are the ends themselves: they are too few for an interval.

    Args:
        values: Fractions, one a seed.
        variance: Of the error that all seeds share, as that of one test set; more seeds don't make
            it smaller.
    """
    known = [value for value in values if value is not None]
    if not known:
        return math.nan, math.nan, math.nan
    mean = statistics.fmean(known)
    if len(known) == 1:
        return 100 * mean, math.nan, math.nan
    if len(known) == 2:
        return 100 * mean, 100 * min(known), 100 * max(known)
    of_seeds = _t_quantile(len(known) - 1) * statistics.stdev(known) / math.sqrt(len(known))
    half_width = math.hypot(of_seeds, 1.96 * math.sqrt(variance))
    return 100 * mean, 100 * (mean - half_width), 100 * (mean + half_width)


@functools.cache
def _t_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    return float(stdtrit(freedom, 0.975))


def format_mean(values: Sequence[float | None], variance: float = 0.0) -> str:
    """Return one value, both of two values, or mean ± half-width of the interval, in percent."""
    known = [100 * value for value in values if value is not None]
    if len(known) == 2:
        # Adding 0 makes 0.0 of -0.0.
        return ", ".join(f"{round(value, 1) + 0:.1f}" for value in known)
    mean, low, high = mean_interval(values, variance)
    if math.isnan(mean):
        return MISSING
    mean = round(mean, 2) + 0
    return f"{mean:.2f}" if math.isnan(low) else f"{mean:.2f} ± {(high - low) / 2:.2f}"
