"""Pictures of a sweep, from its records: p over the number of probes, cost against survival."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from softmark.tables import Row, level

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


def pictures(rows: Sequence[Row]) -> dict[str, plt.Figure]:
    """All that the rows have something to show for, by name; none without a p-value."""
    if not _methods(rows):
        return {}
    return {"probes": p_over_probes(rows), "tradeoff": tradeoff(rows)}


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


def tradeoff(rows: Sequence[Row]) -> plt.Figure:
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
        above = {"textcoords": "offset points", "xytext": (0, 6), "ha": "center"}
        axis.annotate(" ".join(name), (x, max(heights)), fontsize=8, **above)
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
