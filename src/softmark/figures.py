"""Pictures of a sweep, from its records: which there are follows from what the sweep varies."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from softmark.tables import Row, heading, interval, level, number

# Okabe and Ito's colours, told apart by colour-blind readers; markers and dashes tell them as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX"
DASHES = ("-", "--", ":")

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "svg.hashsalt": "softmark",  # the same records make the same file
        "figure.constrained_layout.use": True,
    }
)


def _methods(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each method that has p-values."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        # A cell whose verdict had nothing to go by has no curve.
        if row.done and all(record["p_value"] is not None for record in row.done):
            methods.setdefault(row.done[0]["method"], []).append(row)
    return methods


def _style(place: int) -> dict:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        "fillstyle": "none" if place >= len(COLOURS) else "full",
    }


def pictures(rows: Sequence[Row], varied: Sequence[str]) -> dict[str, plt.Figure]:
    """All that the rows have something to show for, by name; none without a p-value.

    ``varied``: the keys whose values are the rows' names.
    """
    shown = [row for own in _methods(rows).values() for row in own]
    if not shown:
        return {}
    if place := _numeric(shown, varied):
        return {"curve": curve(shown, varied, place)}
    found = {"probes": p_over_probes(shown)}
    if len({row.name[1:] for row in shown}) > 1:
        found["tradeoff"] = tradeoff(shown, varied)
    if len({row.name[1] for row in shown}) > 1 and len(varied) == 2:
        found["heatmap"] = heatmap(shown)
    return found


def _numeric(rows: Sequence[Row], varied: Sequence[str]) -> int | None:
    """The place of the first number of the attack that varies, as an axis of a curve."""
    for place, key in enumerate(varied):
        if key.startswith("attack."):
            with contextlib.suppress(ValueError):
                if len({float(row.name[place]) for row in rows}) > 1:
                    return place
    return None


def curve(rows: Sequence[Row], varied: Sequence[str], place: int) -> plt.Figure:
    """Watermark accuracy, and below it the suspect's accuracy, over a number of the attack.

    One line for each other setting, with the 95 % interval over the seeds as a band.
    """
    lines: dict[tuple[str, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: float(row.name[place])):
        lines.setdefault((*row.name[:place], *row.name[place + 1 :]), []).append(row)
    figure, panels = plt.subplots(2, 1, figsize=(6.6, 5.2), sharex=True)
    told = {"watermark_accuracy": "watermark accuracy in %", "suspect_accuracy": "accuracy in %"}
    for panel, (field, label) in zip(panels, told.items(), strict=True):
        panel.set_ylabel(label)
        for line, (name, own) in enumerate(lines.items()):
            x = [float(row.name[place]) for row in own]
            known = [interval([record[field] for record in row.done]) for row in own]
            style = _style(line)
            panel.plot(x, [m for m, _ in known], label=" ".join(name), ms=4, lw=1.2, **style)
            low, high = ([m + sign * h for m, h in known] for sign in (-1, 1))
            panel.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
    steps = sorted({float(row.name[place]) for row in rows})
    if steps[0] > 0 and steps[-1] / steps[0] > 10:
        panels[1].set_xscale("log")
        panels[1].set_xticks(steps, [f"{step:g}" for step in steps])
        panels[1].minorticks_off()
    panels[1].set_xlabel(heading(varied[place]).replace("_", " "))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


def heatmap(rows: Sequence[Row]) -> plt.Figure:
    """Watermark accuracy of each method under each attack, with its worst p-value and claims."""
    methods, attacks = (list(dict.fromkeys(row.name[i] for row in rows)) for i in (0, 1))
    table = [[math.nan] * len(methods) for _ in attacks]
    size = (2.4 + 1.5 * len(methods), 0.9 + 0.42 * len(attacks))
    figure, axis = plt.subplots(figsize=size)
    for row in rows:
        table[attacks.index(row.name[1])][methods.index(row.name[0])] = _accuracy(row)
    shades = axis.imshow(table, cmap="cividis", vmin=50, vmax=100, aspect="auto")
    for row in rows:
        y, x = attacks.index(row.name[1]), methods.index(row.name[0])
        claims = sum(record["claimed"] for record in row.done)
        worst = max(record["p_value"] for record in row.done)
        some = f"claimed {claims} of {len(row.done)}" if claims else "not claimed"
        claimed = "claimed" if claims == len(row.done) else some
        text = f"{table[y][x]:.1f}\np {number(worst)}, {claimed}"
        ink = "w" if table[y][x] < 78 else "k"
        axis.text(x, y, text, ha="center", va="center", fontsize=7, color=ink)
    axis.set_xticks(range(len(methods)), methods)
    axis.set_yticks(range(len(attacks)), attacks)
    axis.tick_params(length=0)
    axis.grid(False)
    figure.colorbar(shades, label="watermark accuracy in %", shrink=0.8)
    return figure


def p_over_probes(rows: Sequence[Row]) -> plt.Figure:
    """The median p-value over the seeds against the number of probes, a panel for each method."""
    methods = _methods(rows)
    figure, panels = plt.subplots(
        1, len(methods), figsize=(4.6 * len(methods), 3.8), squeeze=False, sharey=True
    )
    for panel, (method, own) in zip(panels[0], methods.items(), strict=True):
        for place, row in enumerate(own):
            curves = [record["p_by_probes"] for record in row.done]
            counts = sorted(map(int, curves[0]))
            median = [statistics.median(curve[str(count)] for curve in curves) for count in counts]
            panel.plot(counts, median, label=" ".join(row.name[1:]), ms=4, lw=1.2, **_style(place))
        needed = level(own[0].done[0])
        panel.axhline(needed, color="0.3", lw=0.8)
        panel.annotate(
            f"claimed below {needed:.0e}",
            (0.99, needed),
            xycoords=panel.get_yaxis_transform(),
            textcoords="offset points",
            xytext=(0, 3),
            ha="right",
            color="0.3",
            fontsize=8,
        )
        panel.set(xscale="log", yscale="log", xlabel="probes", title=method)
        panel.xaxis.set_major_formatter("{x:g}")
    panels[0][0].set_ylabel("p-value (median over seeds)")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return figure


def tradeoff(rows: Sequence[Row], varied: Sequence[str]) -> plt.Figure:
    """What a setting costs in accuracy against the watermark accuracy that each attack leaves.

    One column of points for each setting, joined by a line from the best to the worst attack.
    """
    settings: dict[tuple[str, ...], list[Row]] = {}
    for own in _methods(rows).values():
        for row in own:
            settings.setdefault((row.name[0], *row.name[2:]), []).append(row)
    attacks = list(dict.fromkeys(row.name[1] for own in settings.values() for row in own))
    figure, axis = plt.subplots(figsize=(6.4, 4.2))
    for name, own in settings.items():
        x = statistics.fmean(map(_cost, own))
        heights = list(map(_accuracy, own))
        axis.plot([x, x], [min(heights), max(heights)], "0.7", lw=1, zorder=1)
        if len(settings) <= 6:  # more names would lie on each other
            above = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center"}
            numbers = zip(map(heading, varied[2:]), name[1:], strict=True)
            label = "\n".join([name[0], *(f"{key} {value}" for key, value in numbers)])
            axis.annotate(label, (x, max(heights)), fontsize=7, **above)
    for place, attack in enumerate(attacks):
        same = [row for own in settings.values() for row in own if row.name[1] == attack]
        style = _style(place) | {"linestyle": "none", "ms": 5}
        axis.plot(list(map(_cost, same)), list(map(_accuracy, same)), label=attack, **style)
    axis.plot(0.59, 98.68, "*", color="0.3", ms=11, label="reported in the abstract")
    axis.set(xlabel="points of accuracy that the mark costs", ylabel="watermark accuracy in %")
    axis.margins(0.12)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


def _cost(row: Row) -> float:
    done = row.done
    return 100 * statistics.fmean(r["victim_accuracy"] - r["watermarked_accuracy"] for r in done)


def _accuracy(row: Row) -> float:
    known = [record["watermark_accuracy"] for record in row.done]
    return 100 * statistics.fmean(known) if None not in known else math.nan


def save(figure: plt.Figure, stem: Path) -> list[Path]:
    """As SVG and PNG, without a date, so that the same records make the same files."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150)
    plt.close(figure)
    return paths
