"""A comparison of methods as files: the tests in Markdown and CSV, and diagrams of ranks."""

from __future__ import annotations

import csv
import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softmark.errors import InputError
from softmark.report.numbers import format_p
from softmark.report.outcomes import Outcome
from softmark.report.significance import (
    MIN_UNITS,
    Pair,
    Scores,
    Setting,
    compare_pairs,
    friedman,
    intervals,
    mean_ranks,
    scores_of,
)

ALPHA = 0.05  # of the tests between methods
LEVELS = (None, 1e-3, 1e-6)  # each method's own, and two for all
UNITS = {"attack": "attacks", "family": "families of attacks"}
SETTINGS = tuple(
    Setting(unit, level, useless)
    for unit, level, useless in itertools.product(UNITS, LEVELS, ("judged", "survived"))
)
MAIN = (Setting("attack"), Setting("family"))
ABOUT = """\
*kept*: the mean share of keys that are claimed, over {attacks} attacks that every method went
through, with the 95 % interval of a bootstrap over {families} families of attacks. *rank*: 1 is the
best. *by attack*: every attack has one vote, the majority of its keys, and pairs are tested by
McNemar's exact test. *by family*: every family has one vote, its mean share, and pairs are tested
by Wilcoxon's exact test of signed ranks. Two-sided; Holm's correction is over the rivals of each
method, in the diagrams over all pairs. The level of the tests is .05. That a difference isn't shown
doesn't say that there is none: {families} families can show little, and nothing once corrected for
all pairs where they are fewer than ten."""


class Comparison:
    """The tests in every setting.

    Args:
        outcomes: Of two methods or more, on one data set.

    Raises:
        InputError: there are too few methods or attacks for any test.
    """

    def __init__(self, outcomes: Sequence[Outcome]):
        self.outcomes = outcomes
        self.scores: dict[Setting, Scores] = {
            setting: scores_of(outcomes, setting) for setting in SETTINGS
        }
        self.pairs: dict[Setting, list[Pair]] = {
            setting: compare_pairs(scores, setting.unit) for setting, scores in self.scores.items()
        }

    def ranks(self, setting: Setting) -> dict[str, float]:
        """Return the mean rank of each method."""
        scores = self.scores[setting]
        ranks = mean_ranks(scores.votes(setting.unit)).tolist()
        return dict(zip(scores.methods, ranks, strict=True))

    def markdown(self, command: str) -> str:
        """Return all of it in Markdown; ``command``: what makes it again."""
        scores = self.scores[MAIN[0]]
        about = ABOUT.format(attacks=len(scores.attacks), families=len(scores.families))
        if scores.num_left_out:
            about += f" {scores.num_left_out} attacks that some method didn't go through: left out."
        parts = [f"    {command}", about.replace("\n", " "), _table(self._overview())]
        for setting in MAIN:
            statistic, p = friedman(self.scores[setting].votes(setting.unit))
            parts += [
                f"## {setting.words.capitalize()}",
                f"Friedman's chi-squared {statistic:.0f}, p {format_p(p)}.",
                _table(self._rivals_table(setting)),
            ]
        parts += ["## In every setting", EVERY, _table(self._every_setting())]
        parts += ["## Within a family of attacks", WITHIN, _table(self._within_families())]
        return "\n\n".join(parts) + "\n"

    def _overview(self) -> list[list[str]]:
        scores = self.scores[MAIN[0]]
        low, high = intervals(scores, scores.kept.T)
        ranks = [self.ranks(setting) for setting in MAIN]
        lines = [["method", "kept in %", "95 % interval", "rank by attack", "rank by family"]]
        for place in np.argsort(list(ranks[0].values()), kind="stable"):
            method, mean = scores.methods[place], scores.kept[:, place].mean()
            lines.append(
                [
                    method,
                    f"{100 * mean:.0f}",
                    f"{100 * low[place]:.0f} to {100 * high[place]:.0f}",
                    *(f"{of_unit[method]:.2f}" for of_unit in ranks),
                ]
            )
        return lines

    def _rivals_table(self, setting: Setting) -> list[list[str]]:
        ranks = self.ranks(setting)
        lines = [["method", "better than", "worse than", "no difference shown"]]
        for method in sorted(ranks, key=ranks.__getitem__):
            groups = rivals_of(self.pairs[setting], method)
            lines.append([method, *(", ".join(group) or "—" for group in groups)])
        return lines

    def _every_setting(self) -> list[list[str]]:
        methods = sorted(ranks := self.ranks(MAIN[0]), key=ranks.__getitem__)
        lines = [["setting", *methods]]
        for setting in SETTINGS:
            groups = (rivals_of(self.pairs[setting], method) for method in methods)
            lines.append([setting.words, *(f"{len(b)}:{len(w)}" for b, w, _ in groups)])
        return lines

    def _within_families(self) -> list[list[str]]:
        ranks = self.ranks(MAIN[0])
        methods = sorted(ranks, key=ranks.__getitem__)
        lines = [["family", "attacks", *methods]]
        scores = self.scores[MAIN[0]]
        for name in scores.families:
            of_family = scores.within(name)
            if len(of_family.attacks) >= MIN_UNITS:
                pairs = compare_pairs(of_family, "attack")
                counts = [map(len, rivals_of(pairs, method)) for method in methods]
                texts = [f"{better}:{worse}" for better, worse, _ in counts]
                lines.append([name, str(len(of_family.attacks)), *texts])
        return lines

    def write_pairs(self, path: Path) -> None:
        """Write a CSV with a line for each setting and ordered pair."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow([f.name for kind in (Setting, Pair) for f in dataclasses.fields(kind)])
            for setting, pairs in self.pairs.items():
                for pair in pairs:
                    values = [*dataclasses.astuple(setting), *dataclasses.astuple(pair)]
                    values[1] = setting.level or "own"
                    writer.writerow([f"{v:.4g}" if isinstance(v, float) else v for v in values])


def rivals_of(pairs: Sequence[Pair], method: str) -> tuple[list[str], list[str], list[str]]:
    """Return the rivals that ``method`` is significantly better than, worse than, and neither."""
    groups: tuple[list[str], list[str], list[str]] = ([], [], [])
    for pair in pairs:
        if pair.method == method:
            shown = pair.p_rivals <= ALPHA
            groups[2 if not shown else 0 if pair.better > pair.worse else 1].append(pair.rival)
    return groups


WITHIN = (
    "The same by attack, at each method's own level, over the attacks of one family: what they "
    "show holds for attacks of that kind alone."
)
EVERY = (
    "How many rivals each method is significantly better than, and after the colon how many are "
    "significantly better than it."
)


def _table(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))


def ranks_diagram(comparison: Comparison, setting: Setting):
    """Return a critical-difference diagram: a bar joins methods of which no difference is shown.

    Raises:
        InputError: scikit-posthocs, which draws it, isn't installed.
    """
    try:
        import pandas as pd
        from scikit_posthocs import critical_difference_diagram
    except ImportError:
        raise InputError("scikit-posthocs is missing: pip install 'softmark[compare]'") from None
    from softmark.report.style import plt

    methods = comparison.scores[setting].methods
    p_values = pd.DataFrame(1.0, methods, methods)
    for pair in comparison.pairs[setting]:
        p_values.loc[pair.method, pair.rival] = pair.p_pairs
    figure, axis = plt.subplots(figsize=(7.6, 1.4 + 0.2 * len(methods)))
    axis.grid(False)
    critical_difference_diagram(
        pd.Series(comparison.ranks(setting)),
        p_values,
        alpha=ALPHA,
        ax=axis,
        label_fmt_left="{label}  {rank:.1f}",
        label_fmt_right="{rank:.1f}  {label}",
        label_props={"size": 8},
        text_h_margin=0.1,
        marker_props={"marker": "o", "s": 14},
        elbow_props={"linewidth": 0.8},
        crossbar_props={"color": "#D55E00", "linewidth": 2.2},
        color_palette=dict.fromkeys(methods, "0.15"),
    )
    axis.tick_params(labelsize=8)
    axis.set_title(
        f"mean rank over {UNITS[setting.unit]}, 1 is the best; a bar: no difference shown", size=8
    )
    return figure
