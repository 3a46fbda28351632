"""Tables as files: from records made by hand, so that every figure is known. Nothing is trained."""

import csv
import re
import runpy
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from softmark.errors import InputError
from softmark.publish import FIELDS, Sheet, latex, markdown, tex, write_cells
from softmark.tables import Row, cells, gaps, notes

LINES = ["method=usp,csp", "attack=prune,distill", "seed=0,1,2", "scale=smoke"]


@pytest.fixture
def swept(archived, tmp_path):
    """The records of ``LINES`` but for csp under distill."""
    for method, attack in (("usp", "prune"), ("usp", "distill"), ("csp", "prune")):
        for seed in range(3):
            archived(f"method={method}", f"attack={attack}", seed=seed)
    return tmp_path


def read(*lines: str):
    return runpy.run_path(str(ROOT / "scripts/report.py"))["read"](list(lines))


def test_a_table_has_mean_and_interval_and_names_what_is_missing(swept):
    sheet, trouble = read(*LINES, f"output_dir={swept}")
    assert len(trouble) == 3
    assert all("attack=distill" in line and line.endswith("missing") for line in trouble)
    table = [line.split(" | ") for line in markdown(sheet).splitlines() if line.startswith("| ")]
    figures = {(line[0].strip("| "), line[1]): line for line in table[2:]}
    # suspects of 95, 94 and 93 %: t(.975, 2) = 4.3027, sd 1, n = 3.
    assert "94.00 ± 2.48" in figures["usp", "prune"]
    assert figures["csp", "distill"][2] == "—"
    assert "3 of 3" in figures["csp", "prune"]
    assert f"output_dir={swept}" not in markdown(sheet)
    assert "commit abc1234" in markdown(sheet)


def test_the_csv_has_each_cell_in_the_records_own_numbers(swept):
    sheet, _ = read(*LINES, f"output_dir={swept}")
    write_cells(sheet, swept / "cells.csv")
    with (swept / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9
    assert list(lines[0]) == ["method", "attack", "seed", *FIELDS]
    found = [float(line["suspect_accuracy"]) for line in lines[:3]]
    assert found == pytest.approx([0.95, 0.94, 0.93])
    assert float(lines[2]["p_value"]) == 3e-7


def test_older_code_is_stale_and_never_mixed_in(swept, archived):
    record = archived("method=csp", "attack=distill", suspect_accuracy=0.01)
    path = swept / "records" / f"{record['address']}.json"
    path.rename(path.with_name("0123456789abcdef.json"))
    sheet, trouble = read(*LINES, f"output_dir={swept}")
    assert sum(line.endswith("made by older code") for line in trouble) == 1
    (row,) = (row for row in sheet.rows if row.name == ("csp", "distill"))
    assert (row.done, row.stale) == ([], 1)
    assert cells(row, ["suspect"]) == ["stale"]
    assert "1 cells were last made by older code" in markdown(sheet)


def test_a_broken_record_is_named_and_the_rest_is_shown(swept, archived):
    record = archived("method=csp", "attack=distill")
    path = swept / "records" / f"{record['address']}.json"
    path.write_text(path.read_text()[:50])
    sheet, trouble = read(*LINES, f"output_dir={swept}")
    assert any(str(path) in line and "not a whole record" in line for line in trouble)
    assert sum(len(row.done) for row in sheet.rows) == 9


def test_failed_cells_have_their_reason_as_a_footnote(archived, tmp_path):
    archived("method=usp", "attack=prune")
    archived("method=usp", "attack=prune", seed=1, status="failed", reason="out of & memory")
    sheet, _ = read(
        "method=usp", "attack=prune", "seed=0,1", "scale=smoke", f"output_dir={tmp_path}"
    )
    assert gaps(sheet.rows) == ["failed: out of & memory"]
    assert dict(zip(sheet.head, sheet.body[0], strict=True))["cells"] == "1 of 2"
    assert r"out of \& memory" in latex(sheet)


def test_the_worst_attack_counts_only_while_the_suspect_is_of_use(archived, tmp_path):
    marks = {"prune": 0.9, "finetune": 0.8, "distill": 0.7, "distill_hard": 0.6}
    for attack, mark in marks.items():
        suspect = 0.8 if attack == "distill_hard" else 0.95
        archived(
            "method=usp", f"attack={attack}", watermark_accuracy=mark, suspect_accuracy=suspect
        )
    chosen = f"attack={','.join(marks)}"
    sheet, _ = read("method=usp", chosen, "scale=smoke", f"output_dir={tmp_path}")
    assert "the worst of 3 attacks on usp is distill (70.0 %)" in notes(sheet.rows)


def test_the_papers_figures_stand_beside_ours(swept):
    lines = ["table=robustness", "attack=prune", "seed=0,1,2", "scale=smoke"]
    sheet, _ = read(*lines, f"output_dir={swept}")
    last = dict(zip(sheet.head, sheet.body[-1], strict=True))
    assert last["method"] == "reported"
    assert {name: figure for name, figure in last.items() if figure} == {
        "method": "reported", "cost": "0.59", "mark acc.": "98.68",
    }  # fmt: skip
    assert latex(sheet).count(r"\midrule") == 2


@pytest.mark.parametrize(
    ("plain", "wanted"),
    [
        ("a_b & 5 % #1 {x} $", r"a\_b \& 5 \% \#1 \{x\} \$"),
        ("~^\\", r"\textasciitilde{}\textasciicircum{}\textbackslash{}"),
        ("9.9e-05", r"$9.9\times10^{-5}$"),
        ("-0.25 ± 0.10", r"$-$0.25 $\pm$ 0.10"),
        ("94.00 †", r"94.00 $\dagger$"),
        ("—", "---"),
        ("seed 1e5f9", "seed 1e5f9"),
        ("two-fold", "two-fold"),
    ],
)
def test_tex_harms_no_sign(plain, wanted):
    assert tex(plain) == wanted


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_the_latex_compiles(swept, archived):
    archived("method=csp", "attack=distill", status="failed", reason="a_b & <c> #1 ~ ^ {\\x} é")
    sheet, _ = read("table=robustness", *LINES, f"output_dir={swept}")
    rows = [Row(("u_s & p%", *row.name[1:]), row.records) for row in sheet.rows]
    strange = Sheet(sheet.command, {**sheet.table, "title": "50 % of $x_1$"}, rows, sheet.varied)
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (swept / "t.tex").write_text(f"{head}\n{latex(sheet)}\n{latex(strange)}\n\\end{{document}}\n")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=swept, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:]


def test_pictures_follow_what_the_sweep_varies(archived, tmp_path):
    code = runpy.run_path(str(ROOT / "scripts/report.py"))
    for sparsity in (0.1, 0.5, 0.9):
        archived("method=usp", "attack=prune", f"attack.sparsity={sparsity}")
    sweep = ["table=prune", "method=usp", "seed=0", "scale=smoke", f"output_dir={tmp_path}"]
    sheet, _ = code["read"]([*sweep, "attack.sparsity=0.1,0.5,0.9"])
    names = [path.name for path in code["publish"](sheet, tmp_path / "prune")]
    assert names == ["prune.md", "prune.tex", "prune.csv", "prune-curve.svg", "prune-curve.png"]
    text = (tmp_path / "prune-curve.svg").read_text()
    assert not re.search(r"<dc:date>", text)


def test_nothing_to_show_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"no record of these cells: run\.py -m") as error:
        read("method=usp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
    assert "missing" in str(error.value)


def test_it_needs_no_torch(swept):
    code = f"""
import runpy, sys
sys.argv = ["report.py", *{[*LINES, f"output_dir={swept}"]!r}, "--name=t", "--to={swept}"]
runpy.run_path("scripts/report.py", run_name="__main__")
assert "torch" not in sys.modules
"""
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert made.returncode == 0, made.stderr
    assert (swept / "t-heatmap.svg").exists()
