"""Plots of a sweep, from its records; what the sweep varies decides which there are."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, NullLocator

from softmark.report.columns import field_interval, heading
from softmark.report.heatmaps import comparison, heatmap, median
from softmark.report.innocent_kinds import by_kind, kind_names
from softmark.report.rows import Row
from softmark.report.style import COLOURS, DASHES, legend, limit_percent, plt, style_of
from softmark.report.tradeoff import mean_cost, references, tradeoff

MAX_LINES = 30  # more can't be told apart in one plot
FEW_METHODS = 3  # if there are more, they are compared as lines of one heatmap
MAX_PANELS = 8  # a panel for each method
MAX_COLUMNS = 4  # panels side by side


def plots(rows: Sequence[Row], varied: Sequence[str]) -> dict[str, plt.Figure]:
    """Return the plots that fit these rows, by name; none without a p-value.

    Args:
        rows: Of one sweep.
        varied: The config keys whose values are the rows' names.
    """
    methods = _methods(rows)
    shown = [row for of_method in methods.values() for row in of_method]
    if not shown:
        return {}
    kinds = {"false_flags": false_flags(shown)} if by_kind(shown) else {}
    if place := _numeric_place(shown, varied, "attack."):
        return {"curve": curve(shown, varied, place), **kinds}
    if place := _numeric_place(shown, varied, "data."):
        return {"p_and_cost": p_and_cost(shown, varied, place), **kinds}
    figures = {}
    legible = len({row.name[1:] for row in shown}) <= MAX_LINES
    few = len(methods) <= FEW_METHODS
    if legible and len(methods) <= MAX_PANELS and any(_points(row) for row in shown):
        figures["probes"] = p_over_probes(methods, varied)
    # An innocent model in the suspect's place is no attack.
    attacked = [row for row in shown if not any(r["innocent_suspect"] for r in row.finished)]
    if legible and few and len({row.name[1:] for row in attacked}) > 1:
        figures["tradeoff"] = tradeoff(attacked, varied)
    if len({row.name[1] for row in shown}) > 1 and len(varied) == 2:
        figures["heatmap"] = (heatmap if few else comparison)(shown)
    return figures | kinds


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the finished rows of each method that has p-values."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        if row.finished:
            methods.setdefault(row.finished[0]["method"], []).append(row)
    return {
        method: of_method
        for method, of_method in methods.items()
        if any(record["p_value"] is not None for row in of_method for record in row.finished)
    }


def _numeric_place(rows: Sequence[Row], varied: Sequence[str], group: str) -> int | None:
    """Return the place of the first number of the ``group`` that varies: the axis of a curve."""
    for place, name in enumerate(varied):
        if name.startswith(group):
            with contextlib.suppress(ValueError):
                if len({float(row.name[place]) for row in rows}) > 1:
                    return place
    return None


def curve(rows: Sequence[Row], varied: Sequence[str], place: int) -> plt.Figure:
    """Plot watermark accuracy, and below it the suspect's accuracy, over a number of the attack.

    One line for each other setting, with the 95 % interval over the seeds as a band.
    """
    figure, panels = plt.subplots(2, 1, figsize=(6.6, 5.2), sharex=True)
    panels[0].set_ylabel("watermark accuracy in %")
    panels[1].set_ylabel("suspect's accuracy in %")
    for line, (name, points) in enumerate(_lines(rows, place).items()):
        x = [float(row.name[place]) for row in points]
        style = style_of(line)
        for panel, field in zip(panels, ("watermark_accuracy", "suspect_accuracy"), strict=True):
            intervals = [field_interval(row.finished, field) for row in points]
            means = [mean for mean, _, _ in intervals]
            panel.plot(x, means, label=" ".join(name), ms=4, lw=1.2, **style)
            low, high = ([ends[i] for ends in intervals] for i in (1, 2))
            panel.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    for panel in panels:
        limit_percent(panel)
    _set_steps(panels[1], rows, varied, place)
    legend(figure, panels[0])
    return figure


def p_and_cost(rows: Sequence[Row], varied: Sequence[str], place: int) -> plt.Figure:
    """Plot the median p-value over the seeds, and below it the mark's cost, over a number of data.

    One line for each other setting above, one for each method below.
    """
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.6, 5.2), sharex=True, height_ratios=(2, 1)
    )
    against = references(rows)[0]
    costs: dict[str, tuple[list[float], list[float]]] = {}
    for line, (name, points) in enumerate(_lines(rows, place).items()):
        x = [float(row.name[place]) for row in points]
        medians = [median([record["p_value"] for record in row.finished]) for row in points]
        p = [math.nan if value is None else value for value in medians]
        upper.plot(x, p, label=" ".join(name), ms=4, lw=1.2, **style_of(line))
        costs.setdefault(name[0], (x, [mean_cost(row, against) for row in points]))
    for line, (method, curve_points) in enumerate(costs.items()):
        style = {"color": "0.3", "ls": DASHES[line % len(DASHES)]}
        lower.plot(*curve_points, label=f"{method}, cost", lw=1.2, **style)
    _p_axis(upper)
    for level in dict.fromkeys(map(_level, _methods(rows).values())):
        _mark_level(upper, level)
    lower.axhline(0, color="0.7", lw=0.8, zorder=0)
    lower.set_ylabel(f"cost in points,\nagainst the {against}")
    _set_steps(lower, rows, varied, place)
    legend(figure, upper, lower)
    return figure


def _lines(rows: Sequence[Row], place: int) -> dict[tuple[str, ...], list[Row]]:
    """Group the rows by their names but for the number at ``place``, and sort them by it."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: float(row.name[place])):
        lines.setdefault((*row.name[:place], *row.name[place + 1 :]), []).append(row)
    return lines


def _set_steps(panel: plt.Axes, rows: Sequence[Row], varied: Sequence[str], place: int) -> None:
    """Set the axis of a curve: logarithmic, with a tick for each step, if they differ by far."""
    steps = sorted({float(row.name[place]) for row in rows})
    if steps[0] > 0 and steps[-1] / steps[0] > 10:
        panel.set_xscale("log")
        panel.set_xticks(steps, [f"{step:g}" for step in steps])
        panel.minorticks_off()
    panel.set_xlabel(heading(varied[place]).replace("_", " "))


def _points(row: Row) -> list[tuple[int, float]]:
    """Return numbers of probes, each with the median p over those seeds that have one."""
    curves = [record["p_by_probes"] for record in row.finished]
    counts = sorted({int(count) for curve in curves for count in curve})
    medians = [(count, median([curve.get(str(count)) for curve in curves])) for count in counts]
    return [(count, p) for count, p in medians if p is not None]


def p_over_probes(methods: dict[str, list[Row]], varied: Sequence[str]) -> plt.Figure:
    """Plot the median p-value over the seeds against the number of probes, a panel a method."""
    columns = min(len(methods), MAX_COLUMNS)
    lines = math.ceil(len(methods) / columns)
    size = (4.2 * columns + 1.4, 0.4 + 3.4 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, sharey=True)
    panels = list(grid.flat)
    for panel in panels[len(methods) :]:
        panel.set_visible(False)
    names = list(dict.fromkeys(row.name[1:] for of_method in methods.values() for row in of_method))
    for panel, (method, of_method) in zip(panels, methods.items(), strict=False):
        for row in filter(_points, of_method):
            points = _points(row)
            x, y = ([point[i] for point in points] for i in (0, 1))
            style = style_of(names.index(row.name[1:]))
            panel.plot(x, y, label=" ".join(row.name[1:]), ms=4, lw=1.2, **style)
        _mark_level(panel, _level(of_method))
        panel.set(xscale="log", xlabel="probes", title=method)
        panel.xaxis.set_major_formatter("{x:g}")
    _p_axis(panels[0])
    for panel in grid[1:, 0]:
        panel.set_ylabel(panels[0].get_ylabel())
    title = ", ".join(map(heading, varied[1:])) if len(varied) > 2 else ""
    legend(figure, *panels[: len(methods)], title=title)
    return figure


def _p_axis(panel: plt.Axes) -> None:
    """Set a logarithmic axis of what is plotted, up to 1, with ticks at round powers of ten."""
    panel.set(yscale="log", ylabel="p-value (median over seeds)")
    low = math.log10(panel.get_ylim()[0])
    exponents = MaxNLocator(7, steps=[1, 2, 5, 10], integer=True).tick_values(low, 0)
    panel.set_ylim(10**low, 10 ** (-low / 40))
    panel.set_yticks([10.0**power for power in exponents if low <= power <= 0])
    panel.yaxis.set_minor_locator(NullLocator())


def _level(rows: Sequence[Row]) -> float | None:
    """Return the largest p-value that is a claim, for the one method of ``rows``."""
    tested = next((record for row in rows for record in row.finished if record["tests"]), None)
    return None if tested is None else max(tested["levels"][name] for name in tested["tests"])


def _mark_level(panel: plt.Axes, level: float | None) -> None:
    """Draw a line at the p-value that a claim must reach, if there is one."""
    if level is None:
        return
    panel.axhline(level, color="0.3", lw=0.8)
    panel.annotate(
        f"claim ≤ {level:.0e}",
        (0.02, level),
        xycoords=panel.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(0, -3),
        ha="left",
        va="top",
        color="0.3",
        fontsize=8,
    )


def false_flags(rows: Sequence[Row]) -> plt.Figure:
    """Plot how many probes of each kind of innocent are flagged, a bar for each method."""
    methods = by_kind(rows)
    names = kind_names(methods)[::-1]
    height = 0.8 / len(methods)
    figure, axis = plt.subplots(figsize=(6.6, 1.2 + 0.3 * len(names)))
    for place, (method, kinds) in enumerate(methods.items()):
        shown = [(y, kinds[name]) for y, name in enumerate(names) if name in kinds]
        middle = (len(methods) - 1) / 2 - place
        bars = axis.barh(
            [y + middle * height for y, _ in shown],
            [100 * (kind.false_flags or 0.0) for _, kind in shown],
            height=height,
            color=COLOURS[place % len(COLOURS)],
            label=method,
        )
        claims = [f"{kind.false_claims} claimed" if kind.false_claims else "" for _, kind in shown]
        axis.bar_label(bars, claims, fontsize=7, padding=3)
    axis.set_yticks(range(len(names)), names)
    axis.set_xlabel("probes falsely flagged, in %")
    axis.grid(False, axis="y")
    legend(figure, axis)
    return figure
