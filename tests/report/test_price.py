"""What removal costs: outcomes, the table of prices, and each method in one line."""

import pytest

from softmark.report.price import outcome, price_table
from softmark.report.rows import Row, filled
from softmark.report.summary import families_table, summary_table


def record(**changes):
    base = {
        "method": "csp",
        "attack": "prune",
        "commitment": "c0ffee",
        "claimed": False,
        "classes": 10,
        "watermarked_accuracy": 0.9,
        "suspect_accuracy": 0.89,
        "access": "weights",
        "knows": "nothing",
        "queries": 0,
        "epochs": 5.0,
        "status": "done",
        "stage_seconds": {"suspect": 2.0},
        "stages": {"watermarked": "one"},
        "seed": 0,
    }
    return filled({**base, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "removed"),
        ({"claimed": True}, "claimed"),
        ({"claimed": True, "suspect_accuracy": 0.1}, "claimed"),
        ({"suspect_accuracy": 0.84}, "degraded"),
        ({"suspect_accuracy": 0.119}, "useless"),
        ({"suspect_accuracy": 0.95}, "removed"),
        ({"watermarked_accuracy": 0.11, "suspect_accuracy": 0.11}, "useless"),
        ({"attack": "none"}, ""),
        ({"attack": "adaptive_forge"}, ""),
        ({"innocent_suspect": True}, ""),
        ({"commitment": None}, ""),
    ],
)
def test_an_outcome(changes, expected):
    assert outcome(record(**changes)) == expected


def row(attack, *records):
    return Row(("csp", attack), tuple({**each, "attack": attack} for each in records))


ROWS = [
    row("cheap", record(suspect_accuracy=0.90, stage_seconds={"suspect": 60.0}), record()),
    row("quick", record(suspect_accuracy=0.86, stage_seconds={"suspect": 0.5}, epochs=0.0)),
    row("once", record(), record(claimed=True), record(claimed=True)),
    row("never", record(claimed=True)),
    row("useless", record(suspect_accuracy=0.1)),
]


def test_prices_are_sorted_by_what_is_lost_and_leave_out_what_removed_nothing():
    head, *lines = price_table(ROWS)
    assert head[:2] == ["method", "attack"]
    assert [line[1] for line in lines] == ["cheap", "once", "quick"]
    assert [line[4] for line in lines] == ["2 of 2", "1 of 3", "1 of 1"]
    assert [line[5] for line in lines] == ["0.50", "1.00", "4.00"]
    assert price_table(ROWS[3:]) == []


def test_the_summary_names_the_least_loss_and_the_least_work():
    head, line = summary_table(ROWS)
    found = dict(zip(head, line, strict=True))
    assert (found["attacks"], found["survived"], found["removed"]) == ("5", "1 of 4", "2")
    assert (found["families"], found["apart"]) == ("1 of 4", "1 useless")
    assert (found["least loss"], found["least work"]) == ("cheap (0.50)", "quick (0.5 s)")
    _, line = summary_table([row("never", record(claimed=True))] * 3)
    assert line[1:5] == ["3", "3 of 3", "1 of 1", "0"]
    assert line[-3:] == ["0", "—", "—"]
    assert summary_table(ROWS[:1]) == []


def test_a_tally_counts_by_family_what_could_hurt_and_leaves_a_useful_suspect():
    rows = [
        row("prune", record(claimed=True)),
        row("prune_layers", record()),
        row("distill", record(claimed=True)),
        # A student of 15 %, a mirrored digit, and a map that keeps the order: survived, yet apart.
        row("distill_noise", record(claimed=True, suspect_accuracy=0.15)),
        row("input_mirror", record(claimed=True, suspect_accuracy=0.35)),
        row("serve_temperature", record(claimed=True)),
    ]
    assert families_table(rows) == [
        ["method", "prune", "distill", "input", "serve", "apart"],
        ["csp", "1 of 2", "1 of 1", "—", "—", "2 useless, 1 harmless"],
    ]
    assert summary_table(rows)[1][1:5] == ["6", "2 of 3", "1 of 2", "2 useless, 1 harmless"]


def test_settings_are_no_attacks_on_one_model():
    weak, strong = ({**record(), "stages": {"watermarked": name}} for name in ("weak", "strong"))
    assert summary_table([row("a", weak), row("b", strong), row("c", weak)]) == []
