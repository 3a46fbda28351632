"""Plots of a sweep, from its records: which there are follows from what the sweep varies."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

from matplotlib.ticker import MaxNLocator, NullLocator

from softmark.report.columns import heading, interval_of
from softmark.report.grids import comparison, heatmap, median
from softmark.report.kinds import by_kind, names_of
from softmark.report.rows import Row
from softmark.report.style import COLOURS, DASHES, legend, plt, style_of
from softmark.report.tradeoff import points_lost, references, tradeoff

LINES = 30  # more can't be told apart in one plot
FEW = 3  # methods; more are rows of their own beside the attacks


def plots(rows: Sequence[Row], varied: Sequence[str]) -> dict[str, plt.Figure]:
    """All that the rows have something to show for, by name; none without a p-value.

    ``varied``: the keys whose values are the rows' names.
    """
    methods = _methods(rows)
    shown = [row for own in methods.values() for row in own]
    if not shown:
        return {}
    kinds = {"false_flags": false_flags(shown)} if by_kind(shown) else {}
    if place := _numeric(shown, varied, "attack."):
        return {"curve": curve(shown, varied, place), **kinds}
    if place := _numeric(shown, varied, "data."):
        return {"p_and_cost": p_and_cost(shown, varied, place), **kinds}
    found = {}
    legible = len({row.name[1:] for row in shown}) <= LINES
    if legible and any(_points(row) for row in shown):
        found["probes"] = p_over_probes(methods)
    # An innocent model in the suspect's place is no attack.
    attacked = [row for row in shown if not any(r["innocent_suspect"] for r in row.done)]
    if legible and len({row.name[1:] for row in attacked}) > 1:
        found["tradeoff"] = tradeoff(attacked, varied)
    if len({row.name[1] for row in shown}) > 1 and len(varied) == 2:
        found["heatmap"] = (comparison if len(methods) > FEW else heatmap)(shown)
    return found | kinds


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The finished rows of each method that has p-values."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        if row.done:
            methods.setdefault(row.done[0]["method"], []).append(row)
    return {
        method: own
        for method, own in methods.items()
        if any(record["p_value"] is not None for row in own for record in row.done)
    }


def _numeric(rows: Sequence[Row], varied: Sequence[str], group: str) -> int | None:
    """The place of the first number of the ``group`` that varies, as an axis of a curve."""
    for place, key in enumerate(varied):
        if key.startswith(group):
            with contextlib.suppress(ValueError):
                if len({float(row.name[place]) for row in rows}) > 1:
                    return place
    return None


def curve(rows: Sequence[Row], varied: Sequence[str], place: int) -> plt.Figure:
    """Watermark accuracy, and below it the suspect's accuracy, over a number of the attack.

    One line for each other setting, with the 95 % interval over the seeds as a band.
    """
    figure, panels = plt.subplots(2, 1, figsize=(6.6, 5.2), sharex=True)
    panels[0].set_ylabel("watermark accuracy in %")
    panels[1].set_ylabel("accuracy in %")
    for line, (name, own) in enumerate(_lines(rows, place).items()):
        x = [float(row.name[place]) for row in own]
        style = style_of(line)
        for panel, field in zip(panels, ("watermark_accuracy", "suspect_accuracy"), strict=True):
            known = [interval_of(row.done, field) for row in own]
            panel.plot(x, [m for m, _, _ in known], label=" ".join(name), ms=4, lw=1.2, **style)
            low, high = ([ends[i] for ends in known] for i in (1, 2))
            panel.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    _name_steps(panels[1], rows, varied, place)
    legend(figure, panels[0])
    return figure


def p_and_cost(rows: Sequence[Row], varied: Sequence[str], place: int) -> plt.Figure:
    """The median p-value over the seeds, and below it what the mark costs, over a number of data.

    One line for each other setting above, one for each method below.
    """
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(6.6, 5.2), sharex=True, height_ratios=(2, 1)
    )
    against = references(rows)[0]
    costs: dict[str, tuple[list[float], list[float]]] = {}
    for line, (name, own) in enumerate(_lines(rows, place).items()):
        x = [float(row.name[place]) for row in own]
        found = [median([record["p_value"] for record in row.done]) for row in own]
        p = [math.nan if value is None else value for value in found]
        upper.plot(x, p, label=" ".join(name), ms=4, lw=1.2, **style_of(line))
        costs.setdefault(name[0], (x, [points_lost(row, against) for row in own]))
    for line, (method, points) in enumerate(costs.items()):
        style = {"color": "0.3", "ls": DASHES[line % len(DASHES)]}
        lower.plot(*points, label=f"{method}, cost", lw=1.2, **style)
    _p_axis(upper)
    for level in dict.fromkeys(map(_level, _methods(rows).values())):
        _mark_level(upper, level)
    lower.axhline(0, color="0.7", lw=0.8, zorder=0)
    lower.set_ylabel(f"cost in points,\nagainst the {against}")
    _name_steps(lower, rows, varied, place)
    legend(figure, upper, lower)
    return figure


def _lines(rows: Sequence[Row], place: int) -> dict[tuple[str, ...], list[Row]]:
    """The rows by all that they are named after but ``place``, in the order of the number there."""
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: float(row.name[place])):
        lines.setdefault((*row.name[:place], *row.name[place + 1 :]), []).append(row)
    return lines


def _name_steps(panel: plt.Axes, rows: Sequence[Row], varied: Sequence[str], place: int) -> None:
    """The axis of a curve: logarithmic, with a tick for each step, where the steps need it."""
    steps = sorted({float(row.name[place]) for row in rows})
    if steps[0] > 0 and steps[-1] / steps[0] > 10:
        panel.set_xscale("log")
        panel.set_xticks(steps, [f"{step:g}" for step in steps])
        panel.minorticks_off()
    panel.set_xlabel(heading(varied[place]).replace("_", " "))


def _points(row: Row) -> list[tuple[int, float]]:
    """Numbers of probes, each with the median p over those seeds that have one."""
    curves = [record["p_by_probes"] for record in row.done]
    counts = sorted({int(count) for curve in curves for count in curve})
    medians = [(count, median([curve.get(str(count)) for curve in curves])) for count in counts]
    return [(count, p) for count, p in medians if p is not None]


def p_over_probes(methods: dict[str, list[Row]]) -> plt.Figure:
    """The median p-value over the seeds against the number of probes, a panel for each method."""
    figure, panels = plt.subplots(
        1, len(methods), figsize=(4.2 * len(methods) + 1.4, 3.8), squeeze=False, sharey=True
    )
    names = list(dict.fromkeys(row.name[1:] for own in methods.values() for row in own))
    for panel, (method, own) in zip(panels[0], methods.items(), strict=True):
        for row in filter(_points, own):
            points = _points(row)
            x, y = ([point[i] for point in points] for i in (0, 1))
            style = style_of(names.index(row.name[1:]))
            panel.plot(x, y, label=" ".join(row.name[1:]), ms=4, lw=1.2, **style)
        _mark_level(panel, _level(own))
        panel.set(xscale="log", xlabel="probes", title=method)
        panel.xaxis.set_major_formatter("{x:g}")
    _p_axis(panels[0][0])
    legend(figure, *panels[0])
    return figure


def _p_axis(panel: plt.Axes) -> None:
    """A logarithmic axis of what is drawn, up to 1, with a tick at each round power of ten."""
    panel.set(yscale="log", ylabel="p-value (median over seeds)")
    low = math.log10(panel.get_ylim()[0])
    exponents = MaxNLocator(7, steps=[1, 2, 5, 10], integer=True).tick_values(low, 0)
    panel.set_ylim(10**low, 10 ** (-low / 40))
    panel.set_yticks([10.0**power for power in exponents if low <= power <= 0])
    panel.yaxis.set_minor_locator(NullLocator())


def _level(rows: Sequence[Row]) -> float | None:
    """The largest p-value with which a claim of the one method of ``rows`` can be made."""
    tested = next((record for row in rows for record in row.done if record["tests"]), None)
    return None if tested is None else max(tested["levels"][name] for name in tested["tests"])


def _mark_level(panel: plt.Axes, needed: float | None) -> None:
    """A line at the p-value that a claim must reach, if there is one."""
    if needed is None:
        return
    panel.axhline(needed, color="0.3", lw=0.8)
    panel.annotate(
        f"claim ≤ {needed:.0e}",
        (0.98, needed),
        xycoords=panel.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(0, -3),
        ha="right",
        va="top",
        color="0.3",
        fontsize=8,
    )


def false_flags(rows: Sequence[Row]) -> plt.Figure:
    """How much of each kind of innocent is flagged by one probe, a bar for each method."""
    found = by_kind(rows)
    names = names_of(found)[::-1]
    height = 0.8 / len(found)
    figure, axis = plt.subplots(figsize=(6.6, 1.2 + 0.3 * len(names)))
    for place, (method, kinds) in enumerate(found.items()):
        shown = [(y, kinds[name]) for y, name in enumerate(names) if name in kinds]
        middle = (len(found) - 1) / 2 - place
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
