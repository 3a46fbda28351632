"""A comparison as files: what its text and its pairs say, and what the command refuses."""

import csv

import pytest

from softmark.errors import InputError
from softmark.report import sheets
from softmark.report.compare import MAIN, SETTINGS, Comparison, ranks_diagram, rivals_of
from softmark.report.outcomes import Outcome

FAMILIES = ("finetune", "retrain", "prune", "weights", "distill", "serve")
ATTACKS = [f"{name}_{i}" for name in FAMILIES for i in range(2)]


@pytest.fixture(scope="module")
def compared() -> Comparison:
    """Three methods: one keeps all, one loses all, of one nothing is left but after pruning."""
    kept = {"all": ATTACKS, "pruned": ["prune_0", "prune_1"], "none": []}
    return Comparison(
        [
            Outcome(method, attack, (attack in some,) * 3, (1e-9 if attack in some else 0.5,) * 3,
                    0.0, "")
            for method, some in kept.items()
            for attack in ATTACKS
        ]
    )  # fmt: skip


def test_it_says_who_is_better_in_which_setting(compared, tmp_path):
    by_attack, by_family = (compared.pairs[setting] for setting in MAIN)
    assert rivals_of(by_attack, "all") == (["pruned", "none"], [], [])
    assert rivals_of(by_attack, "pruned") == ([], ["all"], ["none"])
    # Six families can show less than twelve attacks.
    assert rivals_of(by_family, "all") == ([], [], ["pruned", "none"])
    text = compared.markdown("softmark report --compare a.csv")
    assert text.startswith("    softmark report --compare a.csv\n")
    assert "| all | 100 | 100 to 100 | 1.08 | 1.08 |" in text
    assert "| all | pruned, none | — | — |" in text
    assert "| by attack, p ≤ 1e-06 for all, useless suspects judged | 2:0 | 0:1 | 0:1 |" in text
    compared.write_pairs(tmp_path / "pairs.csv")
    with (tmp_path / "pairs.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(SETTINGS) * 6
    assert (lines[0]["level"], lines[0]["better"], lines[0]["worse"]) == ("own", "10", "0")


def test_the_diagram_names_every_method(compared):
    pytest.importorskip("scikit_posthocs", reason="the extra compare isn't installed")
    figure = ranks_diagram(compared, MAIN[0])
    written = " ".join(text.get_text() for text in figure.axes[0].texts)
    for method in ("all", "pruned", "none"):
        assert method in written


def test_tables_of_two_data_sets_and_a_mixture_are_refused(tmp_path):
    line = "csp,prune,0,done,1,1,.1,False,0"
    head = "method,attack,seed,status,watermarked_accuracy,suspect_accuracy,p_value,claimed,address"
    for name in ("digits-a.csv", "letters-b.csv"):
        (tmp_path / name).write_text(f"{head}\n{line}\n")
    both = [str(tmp_path / name) for name in ("digits-a.csv", "letters-b.csv")]
    with pytest.raises(InputError, match="digits small and letters small: one data set"):
        sheets.write_comparison_of(both, None, tmp_path)
    with pytest.raises(InputError, match="not both"):
        sheets.write_comparison_of([both[0], "seed=0"], None, tmp_path)
    with pytest.raises(InputError, match="1 methods with 1 attacks"):
        sheets.write_comparison_of(both[:1], None, tmp_path)
