"""What a mark costs against what attacks leave of it: a picture of several settings."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from softmark.report.columns import cost_variance, costs, heading, interval_of
from softmark.report.intervals import interval
from softmark.report.rows import Row
from softmark.report.style import legend, plt, style_of

ABSTRACT = (0.59, 98.68)  # the paper's cost and watermark accuracy
FILLS = ("full", "none", "left")  # of the markers of up to three methods


def tradeoff(rows: Sequence[Row], varied: Sequence[str]) -> plt.Figure:
    """What a setting costs in accuracy against the watermark accuracy that each attack leaves.

    One column of points for each setting, joined by a line from the best to the worst attack; on
    the left by its cost against the control, if each record has one, on the right against the
    victim. Lines in a point's colour are its 95 % interval, the grey bar at the head of a column is
    that of the cost, as in the table. Up to three methods are told apart by how their markers are
    filled.
    """
    rows = [row for row in rows if not math.isnan(_accuracy(row))]
    against = references(rows)
    series: dict[tuple[str, ...], list[Row]] = {}
    settings: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        series.setdefault(row.name[:2], []).append(row)
        settings.setdefault((row.name[0], *row.name[2:]), []).append(row)
    methods, attacks = (list(dict.fromkeys(row.name[i] for row in rows)) for i in (0, 1))
    few = len(settings) <= 6  # more names, and broad lines, would lie on each other
    size = (3.4 * len(against) + 2.6, 4.2)
    figure, panels = plt.subplots(1, len(against), figsize=size, squeeze=False, sharey=True)
    for panel, model in zip(panels[0], against, strict=True):
        for (method, attack), own in series.items():
            style = style_of(attacks.index(attack)) | {"linestyle": "none", "ms": 5}
            label = attack
            if len(methods) <= len(FILLS):
                label = f"{method} {attack}"
                style["fillstyle"] = FILLS[methods.index(method)]
            x = [points_lost(row, model) for row in own]
            panel.plot(x, list(map(_accuracy, own)), label=label, **style)
            ends = [interval_of(row.done, "watermark_accuracy")[1:] for row in own]
            faint = {"color": style["color"], "alpha": 0.4, "lw": 3 if few else 1}
            panel.vlines(x, *zip(*ends, strict=True), **faint)
        for own in settings.values():
            heights = list(map(_accuracy, own))
            x = statistics.fmean(points_lost(row, model) for row in own)
            panel.plot([x, x], [min(heights), max(heights)], "0.7", lw=1, zorder=1)
            best = max(own, key=_accuracy)
            cost = interval(costs(best.done, model), cost_variance(best.done, model))[1:]
            panel.plot(cost, [_accuracy(best)] * 2, "0.7", lw=1, zorder=1)
        star = f"abstract: {ABSTRACT[1]} %\n(defined otherwise, perhaps)"
        panel.plot(*ABSTRACT, "*", color="0.3", ms=11, label=star)
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.set_xlabel(f"cost in points, against the {model}")
        panel.margins(0.15, 0.12)
    if few:
        _name_settings(panels[0][0], settings, varied, against[0])
    panels[0][0].set_ylabel("watermark accuracy in %")
    legend(figure, *panels[0])
    return figure


def _name_settings(
    panel: plt.Axes, settings: dict[tuple[str, ...], list[Row]], varied: Sequence[str], model: str
) -> None:
    """A setting's numbers above its column, or its method where it has none.

    Beside the columns nearby: to the right of those on its left.
    """
    wide, high = (high - low for low, high in (panel.get_xlim(), panel.get_ylim()))
    heads = [
        (statistics.fmean(points_lost(row, model) for row in own), max(map(_accuracy, own)))
        for own in settings.values()
    ]
    for place, (name, (x, top)) in enumerate(zip(settings, heads, strict=True)):
        numbers = [f"{heading(k)} {v}" for k, v in zip(varied[2:], name[1:], strict=True)]
        label = "\n".join(numbers or name[:1])
        nearby = [a for a, _ in heads if wide / 40 < abs(x - a) < wide / 6]
        on_left = sum(a < x for a in nearby)
        side = (2 * on_left > len(nearby)) - (2 * on_left < len(nearby))
        same = [abs(x - a) < wide / 40 and abs(top - b) < high / 10 for a, b in heads[:place]]
        up = 6 + 9 * max(1, len(numbers)) * sum(same)
        where = {"textcoords": "offset points", "xytext": (3 * side, up)}
        panel.annotate(label, (x, top), fontsize=7, ha=("center", "left", "right")[side], **where)


def references(rows: Sequence[Row]) -> tuple[str, ...]:
    """What a cost can be told against: the control if each record has one, and the victim."""
    controlled = all(r["control_accuracy"] is not None for row in rows for r in row.done)
    return ("control", "victim") if controlled else ("victim",)


def points_lost(row: Row, against: str) -> float:
    """What the mark costs in points against one of ``references``, the mean over the seeds."""
    return 100 * statistics.fmean(costs(row.done, against))


def _accuracy(row: Row) -> float:
    return interval_of(row.done, "watermark_accuracy")[0]
