"""Plots: which axes a sweep gives, and what they show."""

import re

import pytest

from helpers.scripts import read_sheet
from softmark.report.plots import plots
from softmark.report.rows import Row
from softmark.report.sheets import publish


def test_plots_take_cells_without_p_and_without_a_curve(archived, tmp_path):
    nothing = {"p_value": None, "claimed": False, "tests": {}, "watermark_accuracy": None}
    archived("method=usp", "attack=distill", p_by_probes={}, **nothing)
    archived("method=usp", "attack=prune", p_by_probes={"1": None, "50": 1e-7})
    archived("method=usp", "attack=finetune", control_accuracy=None)
    archived("method=none", "attack=prune", p_by_probes={}, commitment=None, **nothing)
    attacks = "attack=distill,prune,finetune"
    sheet, _ = read_sheet("method=usp,none", attacks, "scale=smoke", f"output_dir={tmp_path}")
    drawn = plots(sheet.rows, sheet.varied)
    assert list(drawn) == ["probes", "tradeoff", "heatmap"]
    texts = [text.get_text() for text in drawn["heatmap"].axes[0].texts]
    assert texts[:2] == ["0 of 1 claimed\nno p-value", ""]
    assert "1 of 1 claimed\np 1.0e-07" in texts
    (lined,) = drawn["probes"].axes
    assert lined.get_title() == "usp"
    assert list(drawn["probes"].axes[0].lines[0].get_xdata()) == [50]


def test_a_number_of_the_data_is_an_axis_for_p_and_cost(archived, tmp_path):
    for classes, p in (("30", 1e-200), ("5", 0.5)):  # the axis is in order, the sweep needn't be
        numbers = {"control_accuracy": 0.9, "watermarked_accuracy": 0.88}
        archived("method=csp", "data=synthetic", f"data.classes={classes}", p_value=p, **numbers)
    varied = ("method=csp", "data=synthetic", "data.classes=30,5", "scale=smoke")
    sheet, _ = read_sheet(*varied, f"output_dir={tmp_path}")
    drawn = plots(sheet.rows, sheet.varied)
    assert "probes" not in drawn
    upper, lower = drawn["p_and_cost"].axes
    assert (lower.get_xlabel(), lower.get_ylabel().split()[-1]) == ("classes", "control")
    (line,) = (line for line in upper.lines if line.get_marker() == "o")
    assert line.get_xydata().tolist() == [[5, 0.5], [30, 1e-200]]
    assert lower.lines[0].get_ydata() == pytest.approx([2, 2])
    assert upper.get_yticks().tolist() == [1e-200, 1e-150, 1e-100, 1e-50, 1]


def test_plots_follow_what_the_sweep_varies(archived, tmp_path):
    for sparsity in (0.1, 0.5, 0.9):
        archived("method=usp", "attack=prune", f"attack.sparsity={sparsity}")
    sweep = ["table=prune", "method=usp", "seed=0", "scale=smoke", f"output_dir={tmp_path}"]
    sheet, _ = read_sheet(*sweep, "attack.sparsity=0.1,0.5,0.9")
    names = [path.name for path in publish(sheet, tmp_path / "prune")]
    assert names == ["prune.md", "prune.tex", "prune.csv", "prune-curve.svg", "prune-curve.png"]
    text = (tmp_path / "prune-curve.svg").read_text()
    assert not re.search(r"<dc:date>", text)


@pytest.mark.parametrize(("attacks", "beneath"), [(20, False), (21, True)])
def test_many_attacks_stand_beneath_each_other_beside_many_methods(archived, attacks, beneath):
    record = archived("method=usp", "attack=prune")
    methods, names = list("abcd"), [f"attack_{n}" for n in range(attacks)]
    rows = [
        Row((method, name), ({**record, "method": method},)) for name in names for method in methods
    ]
    (axis,) = plots(rows, ["method", "attack"])["heatmap"].axes
    down, across = ([each.get_text() for each in labels()] for labels in (
        axis.get_yticklabels, axis.get_xticklabels
    ))  # fmt: skip
    assert down == (names if beneath else methods)
    assert across == (methods if beneath else [name.replace("_", "\n") for name in names])
    (image,) = axis.get_images()
    assert image.get_array().shape == (len(down), len(across))
