"""Tables as files: from records made by hand, so that every figure is known. Nothing is trained."""

import csv
import shutil
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.scripts import read_sheet
from softmark.errors import InputError
from softmark.experiment.provenance import processor
from softmark.experiment.record import CSV, NEVER_ASKED
from softmark.report.columns import cells, columns
from softmark.report.export import Sheet, latex, markdown, tex, write_cells
from softmark.report.footnotes import footnotes, gap_notes
from softmark.report.innocent_kinds import kinds_table
from softmark.report.plots import plots
from softmark.report.rows import Row
from softmark.report.summary import summary_table
from softmark.report.tradeoff import tradeoff

SHOWN = ("method", "attacks", "survived", "worst", "claimed", "p median")
LINES = ["method=usp,csp", "attack=prune,distill", "seed=0,1,2", "scale=smoke"]


@pytest.fixture
def swept(archived, tmp_path):
    """The records of ``LINES`` but for csp under distill."""
    for method, attack in (("usp", "prune"), ("usp", "distill"), ("csp", "prune")):
        for seed in range(3):
            archived(f"method={method}", f"attack={attack}", seed=seed)
    return tmp_path


def test_a_table_has_mean_and_interval_and_names_what_is_missing(swept):
    sheet, problems = read_sheet(*LINES, f"output_dir={swept}")
    assert len(problems) == 3
    assert all("attack=distill" in cell and reason == "missing" for cell, reason in problems)
    table = [line.split(" | ") for line in markdown(sheet).splitlines() if line.startswith("| ")]
    figures = {(line[0].strip("| "), line[1]): line for line in table[2:]}
    # Suspects of 95, 94 and 93 %: t(.975, 2) = 4.3027, sd 1, n = 3, so 2.484 of the seeds, and
    # 1.96 sqrt(.94 * .06 / 1000) = 1.472 of the test set; sqrt(2.484^2 + 1.472^2) = 2.887.
    assert "94.00 ± 2.89" in figures["usp", "prune"]
    # .97 - .96 in every seed, one of both right on .02: 1.96 sqrt((.02 - .01^2) / 1000) = .874.
    assert "1.00 ± 0.87" in figures["usp", "prune"]
    # The watermark accuracy was measured on no test set: 90, 90.1 and 90.2 %.
    assert "90.10 ± 0.25" in figures["usp", "prune"]
    assert figures["csp", "distill"][2] == "—"
    assert "3 of 3" in figures["csp", "prune"]
    assert f"output_dir={swept}" not in markdown(sheet)
    assert "commit abc1234" in markdown(sheet)


def test_the_csv_has_each_cell_in_the_records_own_numbers(swept):
    sheet, _ = read_sheet(*LINES, f"output_dir={swept}")
    write_cells(sheet, swept / "cells.csv")
    with (swept / "cells.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 9
    assert list(lines[0]) == ["method", "attack", "seed", *CSV]
    found = [float(line["suspect_accuracy"]) for line in lines[:3]]
    assert found == pytest.approx([0.95, 0.94, 0.93])
    assert float(lines[2]["p_value"]) == 3e-7


def test_older_code_is_stale_and_never_mixed_in(swept, archived):
    record = archived("method=csp", "attack=distill", suspect_accuracy=0.01)
    path = swept / "records" / f"{record['address']}.json"
    path.rename(path.with_name("0123456789abcdef.json"))
    sheet, problems = read_sheet(*LINES, f"output_dir={swept}")
    assert sum(reason == "made by older code" for _, reason in problems) == 1
    (row,) = (row for row in sheet.rows if row.name == ("csp", "distill"))
    assert (row.finished, row.stale) == ([], 1)
    assert cells(row, ["suspect"]) == ["stale"]
    assert "1 cell was last made by older code" in markdown(sheet)


def test_a_broken_record_is_named_and_the_rest_is_shown(swept, archived):
    record = archived("method=csp", "attack=distill")
    path = swept / "records" / f"{record['address']}.json"
    path.write_text(path.read_text()[:50])
    sheet, problems = read_sheet(*LINES, f"output_dir={swept}")
    assert any(str(path) in reason and "not a whole record" in reason for _, reason in problems)
    assert sum(len(row.finished) for row in sheet.rows) == 9


def test_each_method_is_noted_once_with_every_null_that_it_stands_on(archived):
    nulls = {"csp": ["signs"], "usp": ["signs"], "csp_margin": ["signs", "triggers"]}
    rows = [
        Row((name, "prune"), (archived(f"method={name}", "attack=prune", null=null),))
        for name, found in nulls.items()
        for null in found
    ]
    assert [note for note in footnotes(rows) if "stands on" in note] == [
        "p of csp, usp stands on signs",
        "p of csp_margin stands on signs or triggers",
    ]


def test_failed_cells_have_their_reason_as_a_footnote(archived, tmp_path):
    archived("method=usp", "attack=prune")
    archived("method=usp", "attack=prune", seed=1, status="failed", reason="out of & memory")
    sheet, _ = read_sheet(
        "method=usp", "attack=prune", "seed=0,1", "scale=smoke", f"output_dir={tmp_path}"
    )
    assert gap_notes(sheet.rows) == ["Failed: out of & memory"]
    assert dict(zip(sheet.head, sheet.body[0], strict=True))["cells"] == "1 of 2"
    assert r"out of \& memory" in latex(sheet)


def test_the_worst_attack_is_chosen_by_claims_then_by_p_while_the_suspect_is_of_use(
    archived, tmp_path
):
    def swept(**p_values: float | None) -> list[str]:
        for attack, p in p_values.items():
            archived(
                "method=usp",
                f"attack={attack}",
                p_value=p,
                claimed=attack == "finetune" or (p or 1) < 1e-6,
                suspect_accuracy=0.8 if attack == "distill_hard" else 0.95,
                innocent_suspect=attack == "innocent_independent",
                # The largest of all for the worst: it decides nothing.
                watermark_accuracy=p or 1.0,
            )
        chosen = f"attack={','.join(p_values)}"
        sheet, _ = read_sheet("method=usp", chosen, "scale=smoke", f"output_dir={tmp_path}")
        line = dict(zip(*summary_table(sheet.rows), strict=True))
        return [line[name] for name in SHOWN]

    # No attack, an innocent, a useless suspect; and one that is claimed in spite of its p.
    unfit = {"none": 1.0, "innocent_independent": 1.0, "distill_hard": 1.0, "finetune": 0.5}
    worst = swept(**unfit, prune=1e-3, distill=0.02)
    assert worst == ["usp", "4", "1 of 3", "distill", "0 of 1", "0.020"]
    worst = swept(**unfit, prune=None, distill=0.02)
    assert worst == ["usp", "4", "1 of 3", "prune", "0 of 1", "—"]


def test_two_seeds_are_both_shown(archived, tmp_path):
    for seed, accuracy in ((0, 0.981), (1, 0.979)):
        archived("method=usp", "attack=prune", seed=seed, suspect_accuracy=accuracy)
    lines = ("method=usp", "attack=prune", "seed=0,1", "scale=smoke", f"output_dir={tmp_path}")
    sheet, _ = read_sheet(*lines)
    line = dict(zip(sheet.head, sheet.body[0], strict=True))
    assert (line["suspect"], line["cost"], line["claims"]) == ("98.1, 97.9", "0.5, 0.5", "2 of 2")
    assert "The values of both seeds" in sheet.remarks
    assert "±" not in markdown(sheet)


def test_claims_and_p_come_first_and_costs_are_against_the_control(swept):
    sheet, _ = read_sheet(*LINES, f"output_dir={swept}")
    assert sheet.head[2:6] == ["claims", "p median", "p max", "p min"]
    order = [sheet.head.index(name) for name in ("suspect", "cost", "vs victim", "mark acc.")]
    assert order == sorted(order)
    # .965 - .96 and .97 - .96; no control, no cost.
    row = sheet.rows[0]
    assert [cell[:4] for cell in cells(row, ["cost", "vs victim"])] == ["0.50", "1.00"]
    bare = Row(row.name, tuple({**record, "control_accuracy": None} for record in row.records))
    assert cells(bare, ["cost"]) == ["—"]
    for name in ("control", "forged", "forged p", "mark recall", "identified"):
        assert name not in columns([bare], brief=False)
    assert "recognises a model, not a key" in markdown(sheet)
    assert "An address promises the recipe of a cell, not the last digit" in latex(sheet)


def test_colluding_customers_have_columns(archived, tmp_path):
    found = [(1e-9, {"a": 1e-9, "b": 0.5}), (1e-12, {"a": 1e-3, "b": 1e-4}), (None, None)]
    for seed, (owner, colluders) in enumerate(found):
        archived(
            "method=usp", "attack=collude_weights", seed=seed,
            owner_p_value=owner, colluders=colluders,
        )  # fmt: skip
    counts = {0: "1000", 1: "none", 2: "—"}
    for seed, count in counts.items():
        lines = ("method=usp", "attack=collude_weights", f"seed={seed}", "scale=smoke")
        sheet, _ = read_sheet(*lines, f"output_dir={tmp_path}")
        line = dict(zip(sheet.head, sheet.body[0], strict=True))
        assert line.get("told apart", "—") == count
        if seed == 0:
            assert line["owner's p"] == "1.0e-09"


def test_an_attackers_own_key_and_the_mark_recall_have_columns(archived, tmp_path):
    found = [(0.02, False), (3e-9, True), (None, None)]
    for seed, (p, claimed) in enumerate(found):
        archived(
            "method=usp", "attack=adaptive_forge", seed=seed,
            forged_p_value=p, forged_claimed=claimed, mark_recall=0.5, innocent_recall=0.1,
        )  # fmt: skip
    lines = (
        "method=usp",
        "attack=adaptive_forge",
        "seed=0,1,2",
        "scale=smoke",
        f"output_dir={tmp_path}",
    )
    sheet, _ = read_sheet(*lines)
    line = dict(zip(sheet.head, sheet.body[0], strict=True))
    assert (line["forged"], line["forged p"]) == ("1 of 2", "3.0e-09")
    assert (line["mark recall"], line["innocents' recall"]) == ("50.00 ± 0.00", "10.00 ± 0.00")


def test_a_cell_with_a_key_and_no_p_is_not_claimed(archived, tmp_path):
    nothing = {"p_value": None, "claimed": False, "tests": {}, "p_by_probes": {}}
    record = archived("method=usp", "attack=prune", **nothing)
    row = Row(("usp", "prune"), (record,))
    assert cells(row, ["claimed", "claims", "p"]) == ["no", "0 of 1", "—"]
    # Nor is there a claim to be missed, where a mark of answers was never asked for.
    for missing in ({"commitment": None}, {"reason": NEVER_ASKED}):
        bare = Row(("none", "prune"), ({**record, **missing},))
        assert cells(bare, ["claimed"]) == ["—"]


def test_a_warning_of_several_numbers_is_told_once(archived, tmp_path):
    given = ("(p 0.3): raise 9", "(p 5e-06): raise 9", "(p 0.02): raise 10", "so")
    for seed, told in enumerate(given):
        archived("method=usp", "attack=prune", seed=seed, warnings=[told])
    lines = ("method=usp", "attack=prune", "seed=0,1,2,3", "scale=smoke")
    sheet, _ = read_sheet(*lines, f"output_dir={tmp_path}")
    told = [note for note in footnotes(sheet.rows) if note.startswith("Warning")]
    assert told == [
        "Warning (3 of 4 cells): (p 5e-06 to 0.3): raise 9 to 10",
        "Warning (1 of 4 cells): so",
    ]


def test_warnings_and_other_processors_are_told(archived, tmp_path):
    for seed in range(3):
        archived(
            "method=usp", "attack=prune", seed=seed,
            warnings=["too little trained"] if seed else [],
            machine=f"{seed + 1} cores of {'A' if seed else 'B, GPU'}",
        )  # fmt: skip
    lines = ("method=usp", "attack=prune", "seed=0,1,2", "scale=smoke", f"output_dir={tmp_path}")
    sheet, _ = read_sheet(*lines)
    assert "Warning (2 of 3 cells): too little trained" in footnotes(sheet.rows)
    (note,) = (note for note in footnotes(sheet.rows) if note.startswith("Last digits"))
    assert (
        f"B, GPU (1 of 3 cells), A (2 of 3 cells); the table was written on {processor()}" in note
    )
    here = [{**r, "machine": f"9 cores of {processor()}"} for r in sheet.rows[0].records]
    assert not any(
        note.startswith("Last") for note in footnotes([Row(("usp", "prune"), tuple(here))])
    )


def test_false_flags_by_kind_count_each_key_once(archived, tmp_path):
    def kinds(flags: float) -> dict:
        one = {"innocents": 1, "false_flags": flags, "false_claims": 1}
        return {"plain": {**one, "false_flags": 0.0}, "vgg11": one, "pruned": one}

    for attack in ("prune", "distill"):
        for seed in range(2):
            archived("method=usp", f"attack={attack}", seed=seed, by_kind=kinds(0.1 + seed / 10))
    lines = ("method=usp", "attack=prune,distill", "seed=0,1", "scale=smoke")
    sheet, _ = read_sheet(*lines, f"output_dir={tmp_path}")
    assert kinds_table(sheet.rows) == [
        ["kind of innocent", "usp: innocents", "usp: false flags in %", "usp: false claims"],
        ["vgg11", "2", "15.0", "2"],
        ["pruned", "2", "15.0", "2"],
        ["plain", "2", "0.0", "2"],
    ]
    assert "| vgg11 | 2 | 15.0 | 2 |" in markdown(sheet)
    assert "false_flags" in plots(sheet.rows, sheet.varied)
    few = [{**r, "by_kind": {"plain": r["by_kind"]["plain"]}} for r in sheet.rows[0].records]
    assert kinds_table([Row(("usp", "prune"), tuple(few))]) == []


def test_a_tradeoff_is_drawn_against_control_and_victim(archived, tmp_path):
    accuracies = {"victim_accuracy": 0.8, "watermarked_accuracy": 0.79}
    for attack, found in (("none", 0.9), ("prune", 0.7)):
        for beta, control in (("0.5", 0.82), ("1", 0.83)):
            marking = f"method.marking.beta={beta}"
            numbers = {**accuracies, "control_accuracy": control, "watermark_accuracy": found}
            archived("method=csp", f"attack={attack}", marking, **numbers)
    varied = ("method=csp", "attack=none,prune", "method.marking.beta=0.5,1", "scale=smoke")
    sheet, _ = read_sheet(*varied, f"output_dir={tmp_path}")
    control, victim = tradeoff(sheet.rows, sheet.varied).axes
    assert [panel.get_xlabel().split()[-1] for panel in (control, victim)] == ["control", "victim"]
    for panel, costs in ((control, [3, 4]), (victim, [1, 1])):
        none, prune = panel.lines[:2]
        assert (none.get_label(), prune.get_label()) == ("csp none", "csp prune")
        assert none.get_xdata() == pytest.approx(costs)
        assert prune.get_ydata() == pytest.approx([70, 70])
    assert [text.get_text() for text in control.texts] == ["beta 0.5", "beta 1"]
    rows = [
        Row(row.name, tuple({**r, "control_accuracy": None} for r in row.records))
        for row in sheet.rows
    ]
    (alone,) = tradeoff(rows, sheet.varied).axes
    assert alone.get_xlabel().endswith("victim")


def test_a_tradeoff_has_the_intervals_of_the_table(swept):
    lines = ["method=usp", "attack=prune,distill", "seed=0,1,2", "scale=smoke"]
    sheet, _ = read_sheet(*lines, f"output_dir={swept}")
    _, panel = tradeoff(sheet.rows, sheet.varied).axes
    # 90.10 ± 0.25 and 1.00 ± 0.87, as computed above.
    for bars in panel.collections:
        (bar,) = bars.get_segments()
        assert bar[:, 0] == pytest.approx([1, 1])
        assert bar[:, 1] == pytest.approx([89.85, 90.35], abs=0.005)
    (cost,) = (line for line in panel.lines if len(set(line.get_xdata())) == 2)
    assert cost.get_xdata() == pytest.approx([0.13, 1.87], abs=0.005)
    assert cost.get_ydata() == pytest.approx([90.1, 90.1])


def test_the_papers_numbers_stand_beside_ours(swept):
    lines = ["table=robustness", "attack=prune", "seed=0,1,2", "scale=smoke"]
    sheet, _ = read_sheet(*lines, f"output_dir={swept}")
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
    sheet, _ = read_sheet("table=robustness", *LINES, f"output_dir={swept}")
    rows = [Row(("u_s & p%", *row.name[1:]), row.records) for row in sheet.rows]
    strange = Sheet(sheet.command, {**sheet.table, "title": "50 % of $x_1$"}, rows, sheet.varied)
    head = r"\documentclass{article}\usepackage{booktabs}\begin{document}"
    (swept / "t.tex").write_text(f"{head}\n{latex(sheet)}\n{latex(strange)}\n\\end{{document}}\n")
    made = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=swept, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-2000:]


def test_nothing_to_show_is_an_error_that_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match=r"no record of these cells: run\.py -m") as error:
        read_sheet("method=usp", "attack=prune", "scale=smoke", f"output_dir={tmp_path}")
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
