"""A plot of several settings: what a mark costs, and what attacks leave of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator

from softmark.report.columns import cost_variance, costs, field_interval, heading
from softmark.report.numbers import mean_interval
from softmark.report.rows import Row
from softmark.report.style import legend, limit_percent, plt, style_of

PAPER = (0.59, 98.68)  # its abstract's cost in points and watermark accuracy in %
FILLS = ("full", "none", "left")  # of the markers of up to three methods


def tradeoff(rows: Sequence[Row], varied: Sequence[str]) -> plt.Figure:
    """Plot the watermark accuracy that each attack leaves over the cost of the mark.

    Each setting is a column of points, joined by a line from the best to the worst attack: on the
    left by its cost against the control, if each record has one, on the right against the victim.
    Lines in a point's colour are its 95 % interval; the grey bar at the head of a column is that of
    the cost, as in the table. Up to three methods differ in how their markers are filled.
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
        for (method, attack), points in series.items():
            style = style_of(attacks.index(attack)) | {"linestyle": "none", "ms": 5}
            label = attack
            if len(methods) <= len(FILLS):
                label = f"{method} {attack}"
                style["fillstyle"] = FILLS[methods.index(method)]
            x = [mean_cost(row, model) for row in points]
            panel.plot(x, list(map(_accuracy, points)), label=label, **style)
            ends = [field_interval(row.finished, "watermark_accuracy")[1:] for row in points]
            faint = {"color": style["color"], "alpha": 0.4, "lw": 3 if few else 1}
            panel.vlines(x, *zip(*ends, strict=True), **faint)
        for points in settings.values():
            heights = list(map(_accuracy, points))
            x = statistics.fmean(mean_cost(row, model) for row in points)
            panel.plot([x, x], [min(heights), max(heights)], "0.7", lw=1, zorder=1)
            best = max(points, key=_accuracy)
            variance = cost_variance(best.finished, model)
            ends = mean_interval(costs(best.finished, model), variance)[1:]
            panel.plot(ends, [_accuracy(best)] * 2, "0.7", lw=1, zorder=1)
        label = "the paper's abstract\n(perhaps defined otherwise)"
        panel.plot(*PAPER, "*", color="0.3", ms=11, label=label)
        panel.xaxis.set_major_locator(MaxNLocator(6))
        panel.set_xlabel(f"cost in points, against the {model}")
        panel.margins(0.15, 0.12)
        limit_percent(panel)
    if few:
        _name_settings(panels[0][0], settings, varied, against[0])
    panels[0][0].set_ylabel("watermark accuracy in %")
    legend(figure, *panels[0])
    return figure


def _name_settings(
    panel: plt.Axes, settings: dict[tuple[str, ...], list[Row]], varied: Sequence[str], model: str
) -> None:
    """Write a setting's numbers above its column, or its method where it has none.

    Names stand beside the columns nearby: to the right of those on the left.
    """
    wide, high = (high - low for low, high in (panel.get_xlim(), panel.get_ylim()))
    heads = [
        (statistics.fmean(mean_cost(row, model) for row in points), max(map(_accuracy, points)))
        for points in settings.values()
    ]
    for place, (name, (x, top)) in enumerate(zip(settings, heads, strict=True)):
        numbers = [f"{heading(k)} {v}" for k, v in zip(varied[2:], name[1:], strict=True)]
        label = "\n".join(numbers or name[:1])
        nearby = [a for a, _ in heads if wide / 40 < abs(x - a) < wide / 6]
        on_left = sum(a < x for a in nearby)
        side = (2 * on_left > len(nearby)) - (2 * on_left < len(nearby))
        same = [abs(x - a) < wide / 40 and abs(top - b) < high / 10 for a, b in heads[:place]]
        up = 6 + 9 * max(1, len(numbers)) * sum(same)
        offset = {"textcoords": "offset points", "xytext": (3 * side, up)}
        panel.annotate(label, (x, top), fontsize=7, ha=("center", "left", "right")[side], **offset)


def references(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the models to measure costs against: the control if all have one, and the victim."""
    controlled = all(r["control_accuracy"] is not None for row in rows for r in row.finished)
    return ("control", "victim") if controlled else ("victim",)


def mean_cost(row: Row, against: str) -> float:
    """Return what the mark costs in points against one of ``references``: the mean over seeds."""
    return 100 * statistics.fmean(costs(row.finished, against))


def _accuracy(row: Row) -> float:
    return field_interval(row.finished, "watermark_accuracy")[0]
