"""Heatmaps of methods by attacks: the claims, and their p-values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from softmark.report.columns import MAX_LOSS, field_interval, mean_loss
from softmark.report.numbers import format_p
from softmark.report.rows import Row
from softmark.report.style import plt

FLOOR = -20  # log10 of the least p that has a colour of its own
MAX_TALL = 20  # attacks; if there are more, each gets one line of text
MAX_PANEL = 28  # attacks beneath each other


def heatmap(rows: Sequence[Row]) -> plt.Figure:
    """Plot claims and the median p of each method under each attack, coloured by p.

    A dagger marks suspects that lost more than 5 points of accuracy. The watermark accuracy stands
    below in small type, where there is room; many attacks go side by side in panels.
    """
    methods, attacks = (list(dict.fromkeys(row.name[i] for row in rows)) for i in (0, 1))
    many = len(attacks) > MAX_TALL
    panels = math.ceil(len(attacks) / MAX_PANEL) if many else 1
    height = math.ceil(len(attacks) / panels)
    size = (0.8 + panels * (1.8 + 1.5 * len(methods)), 0.9 + (0.24 if many else 0.55) * height)
    figure, axes = plt.subplots(1, panels, figsize=size, squeeze=False)
    for place, axis in enumerate(axes[0]):
        of_panel = attacks[place * height : (place + 1) * height]
        rows_of_panel = [row for row in rows if row.name[1] in of_panel]
        image = _panel(axis, rows_of_panel, methods, of_panel, brief=many)
        # The last may have fewer: its lines are as high as the others'.
        axis.set_ylim(height - 0.5, -0.5)
    bar = figure.colorbar(image, ax=axes, label="median p", shrink=0.8, extend="min", pad=0.02)
    bar.set_ticks([-20, -15, -10, -5, 0], labels=["1e-20", "1e-15", "1e-10", "1e-05", "1"])
    return figure


def _panel(
    axis: plt.Axes, rows: Sequence[Row], methods: list[str], attacks: list[str], *, brief: bool
):
    """Plot ``rows`` and return the image; ``brief``: one small line of text each."""
    table = [[math.nan] * len(methods) for _ in attacks]
    for row in rows:
        y, x = attacks.index(row.name[1]), methods.index(row.name[0])
        p = median([record["p_value"] for record in row.finished])
        if p is not None:
            table[y][x] = max(FLOOR, math.log10(p)) if p > 0 else FLOOR
        dagger = "" if mean_loss(row.finished) <= MAX_LOSS else " †"
        claimed = sum(record["claimed"] for record in row.finished)
        claims = f"{claimed} of {len(row.finished)}{dagger}"
        p_text = f"p {format_p(p)}" if p is not None else "no p-value"
        text = {"ha": "center", "color": "w" if table[y][x] > FLOOR / 2 else "k"}
        if brief:
            axis.text(x, y, f"{claims}, {p_text}", va="center", fontsize=6.5, **text)
        else:
            axis.text(x, y, f"{claims} claimed\n{p_text}", va="center", fontsize=7.5, **text)
            axis.text(x, y + 0.46, _mark_accuracy(row), va="bottom", fontsize=5.5, **text)
    image = axis.imshow(table, cmap="cividis_r", vmin=FLOOR, vmax=0, aspect="auto")
    axis.set_xticks(range(len(methods)), methods)
    axis.set_yticks(range(len(attacks)), attacks, fontsize=7 if brief else None)
    axis.tick_params(length=0)
    axis.grid(False)
    for side in axis.spines.values():
        side.set_visible(False)
    return image


def _mark_accuracy(row: Row) -> str:
    accuracy = field_interval(row.finished, "watermark_accuracy")[0]
    return "" if math.isnan(accuracy) else f"mark acc. {accuracy:.1f} %"


def median(values: Sequence[float | None]) -> float | None:
    """Return the median of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def comparison(rows: Sequence[Row]) -> plt.Figure:
    """Plot a line for each method and a column for each attack, light where all keys are claimed.

    Grey with a dagger: the suspects lost more than 5 points, so that the attack failed. Many
    attacks stand beneath each other instead, without p; a dash: there was no evidence.
    """
    methods, attacks = (list(dict.fromkeys(row.name[i] for row in rows)) for i in (0, 1))
    many = len(attacks) > MAX_TALL
    lines, columns = (attacks, methods) if many else (methods, attacks)
    table = [[math.nan] * len(columns) for _ in lines]
    wide, high = (0.4, 0.17) if many else (0.95, 0.34)
    size = (2.2 + wide * len(columns), 1.6 + high * len(lines))
    figure, axis = plt.subplots(figsize=size)
    for row in rows:
        y, x = methods.index(row.name[0]), attacks.index(row.name[1])
        if many:
            y, x = x, y
        p = median([record["p_value"] for record in row.finished])
        claimed = sum(record["claimed"] for record in row.finished)
        degraded = mean_loss(row.finished) > MAX_LOSS
        if not degraded or claimed:
            table[y][x] = claimed / len(row.finished)
        dagger = "†" if degraded else ""
        if many:
            text = dagger if p is not None else "–"
        else:
            p_text = "no evidence" if p is None else f"p {format_p(p)}"
            text = f"{claimed} of {len(row.finished)} {dagger}\n{p_text}"
        ink = "w" if table[y][x] < 0.5 else "k"
        axis.text(x, y, text, ha="center", va="center", fontsize=5.5, color=ink)
    colours = plt.get_cmap("cividis").with_extremes(bad="0.88")
    axis.imshow(table, cmap=colours, vmin=0, vmax=1, aspect="auto")
    names = [name if many else name.replace("_", "\n") for name in columns]
    turned = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"} if many else {}
    axis.set_xticks(range(len(columns)), names, fontsize=7, **turned)
    axis.set_yticks(range(len(lines)), lines, fontsize=6.5 if many else 8)
    axis.xaxis.tick_top()
    axis.grid(False)
    if many:
        axis.set_xticks([x + 0.5 for x in range(len(columns))], minor=True)
        axis.set_yticks([y + 0.5 for y in range(len(lines))], minor=True)
        axis.grid(which="minor", color="w", linewidth=0.4)
    axis.tick_params(which="both", length=0)
    axis.set_xlabel(
        f"keys claimed{'' if many else ' and median p'}; light: claimed, dark: not, "
        f"{'–: no evidence, ' if many else ''}grey †: more than 5 points of accuracy lost",
        fontsize=7,
    )
    return figure
