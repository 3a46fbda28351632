"""A watermark of somebody's own under attacks: verdicts, and what its faults leave."""

import sys

import pytest

import softmark
from softmark.errors import InputError
from softmark.sweep.own_method import find_class, see_current_folder

# It trains nothing: the mark is that the last layer's biases are larger by a keyed pattern.
SHIFTED = """
import copy
from dataclasses import dataclass

import torch

from softmark.methods import Watermark
from softmark.models.access import classes_of
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class Half(Binomial):
    def p_value(self, innocents=()):
        return 1.5


@dataclass(frozen=True, kw_only=True)
class Shifted(Watermark):
    message: str = "softmark"
    fault: str = "none"

    def embed(self, victim, data, fit):
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        return copy.deepcopy(victim), None if self.fault == "key" else key

    def evidence(self, suspect, key, probes):
        null = Half if self.fault == "p" else Binomial
        labels = torch.tensor([byte % 10 for byte in key.stream(len(probes))])
        hits = suspect.answers(probes).argmax(1) == labels
        if self.fault == "crash" or self.fault == "evidence":
            return 1 / 0 if self.fault == "crash" else hits
        return Evidence(hits.float(), {"labels": null(int(hits.sum()), len(hits), 0.1)})
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The class, in a file of the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "shifted.py").write_text(SHIFTED)
    see_current_folder()
    return "shifted.Shifted"


@pytest.fixture
def evaluate(shared_output):
    """``evaluate(method, attacks)`` at scale=smoke, with the lines that it reported."""

    def run(method, attacks, **changes):
        lines = []
        overrides = ["model.width=8", "logger=none"]
        options = {"scale": "smoke", "output_dir": shared_output, "overrides": overrides}
        found = softmark.evaluate(method, attacks, report=lines.append, **options | changes)
        return found, lines

    return run


def test_a_class_is_judged_under_each_attack_and_never_made_twice(own, evaluate, tmp_path):
    found, _ = evaluate(own, ["none", "serve_l*"])
    assert [row.name for row in found.sheet.rows] == [
        ("Shifted", "none"),
        ("Shifted", "serve_labels"),
    ]
    assert [record["status"] for record in found.records] == ["done"] * 2
    assert all(record["p_value"] > 1e-6 for record in found.records)
    assert "| Shifted | serve_labels | no |" in found.markdown
    assert "method._target_=shifted.Shifted" in found.markdown
    assert found.problems == ()
    page = found.write_page(tmp_path / "own.html")
    assert "Shifted" in page.read_text()
    again, lines = evaluate(find_class(own)(), ["none"])
    assert lines == []
    assert again.records[0]["address"] == found.records[0]["address"]


def test_several_processes_make_what_one_makes(own, evaluate, tmp_path):
    attacks = ["none", "serve_l*"]
    one, _ = evaluate(own, attacks)
    many, lines = evaluate(own, attacks, workers=2, output_dir=tmp_path / "many")
    made = [line.split()[2] for line in lines if line.startswith("made ")]
    assert len(made) == len(set(made)) > 4
    assert many.problems == ()
    for name in ("p_value", "suspect_accuracy", "victim_accuracy"):
        assert [r[name] for r in many.records] == [r[name] for r in one.records]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("key", "Shifted.embed returned no key but None: return (marked model, key)"),
        ("p", "the test 'labels' gives p = 1.5: a p-value lies between 0 and 1"),
        ("evidence", "Shifted.evidence returned a Tensor: an Evidence is needed"),
        ("crash", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_fault_is_one_line_and_loses_nothing(own, evaluate, fault, reason):
    found, lines = evaluate(find_class(own)(fault=fault), ["none"])
    (problem,) = found.problems
    assert problem.startswith(f"Shifted under none, seed 0: {reason}")
    assert f"error: {problem}" in lines
    assert "\n" not in problem
    (row,) = found.sheet.rows
    assert row.records[0]["status"] == "failed"
    assert row.records[0]["reason"] in problem


def test_what_there_is_none_of_is_named(own, evaluate):
    with pytest.raises(InputError, match=r"attacks='prun': there is none; did you mean prune"):
        evaluate(own, "prun")
    with pytest.raises(InputError, match=r"data=digit: no folder, and none of .*mean digits"):
        evaluate(own, "none", data="digit")
    with pytest.raises(InputError, match=r"method=cps: no such choice; did you mean csp"):
        evaluate(own, "none", rivals=["cps"])
    with pytest.raises(InputError, match="no module nowhere"):
        evaluate("nowhere.Mine", "none")
