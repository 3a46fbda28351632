"""The style of all plots: colours, markers, the legend, the files."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

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


def style_of(place: int) -> dict:
    """Return the style of the line or points number ``place`` of a plot."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        "fillstyle": "none" if place >= len(COLOURS) else "full",
    }


def limit_percent(panel: plt.Axes) -> None:
    """End a vertical axis of percent at 100, however far an interval reaches."""
    low, high = panel.get_ylim()
    panel.set_ylim(max(low, -2.0), min(high, 102.0))


def legend(figure: plt.Figure, *panels: plt.Axes, title: str = "") -> None:
    """Add one legend for all panels, each name once."""
    by_name = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        by_name |= dict(zip(labels, handles, strict=True))
    options = {
        "loc": "outside right center",
        "frameon": False,
        "fontsize": 8,
        "title": title or None,
        "title_fontsize": 8,
    }
    figure.legend(by_name.values(), by_name.keys(), **options)


def save(figure: plt.Figure, stem: Path) -> list[Path]:
    """Save as SVG and PNG, without a date: the same records make the same files."""
    paths = [stem.with_suffix(".svg"), stem.with_suffix(".png")]
    figure.savefig(paths[0], metadata={"Date": None})
    figure.set_layout_engine("none")  # it stays as it is, and isn't computed twice
    figure.savefig(paths[1], dpi=150)
    plt.close(figure)
    return paths
