"""Tests between methods: against SciPy, by hand, and under tables where all is chance."""

import numpy as np
import pytest
from scipy import stats

from softmark.errors import InputError
from softmark.report import significance
from softmark.report.outcomes import Outcome
from softmark.report.significance import (
    Scores,
    Setting,
    compare_pairs,
    friedman,
    holm,
    intervals,
    mcnemar,
    mean_ranks,
    scores_of,
    wilcoxon,
)


def outcome(method: str, attack: str, *p_values: float, apart: str = "") -> Outcome:
    return Outcome(method, attack, tuple(p <= 0.05 for p in p_values), p_values, 0.0, apart)


@pytest.mark.parametrize("count", [1, 3, 7, 10])
def test_signed_ranks_are_those_of_scipy_with_ties_and_zeros(count):
    draw = np.random.default_rng(count)
    differences = draw.integers(-3, 4, count) / 4
    nonzero = differences[differences != 0]
    expected = stats.wilcoxon(nonzero).pvalue if len(nonzero) else 1.0
    assert wilcoxon(differences) == pytest.approx(expected)
    # All ten in one direction: two of 1,024 patterns of signs.
    assert wilcoxon(np.ones(10)) == 2 / 1024


def test_mcnemars_test_and_holms_steps_are_those_computed_by_hand():
    first = np.repeat([True, False, True], [21, 10, 53])
    second = np.repeat([False, True, True], [21, 10, 53])
    # Twice the tail of 31 fair coins from 21 heads on.
    tail = sum(stats.binom.pmf(k, 31, 0.5) for k in range(21, 32))
    assert mcnemar(first, second) == pytest.approx(2 * tail)
    assert holm([0.04, 0.001, 0.03, 0.5]).tolist() == pytest.approx([0.09, 0.004, 0.09, 0.5])


def test_by_attack_a_majority_decides_and_by_family_the_mean_share():
    keys = {"a": (1e-9, 1e-9, 0.5), "b": (1e-9, 0.5, 0.5)}
    attacks = ["prune", "prune_layers", "prune_limit", "distill", "distill_hot", "distill_twice"]
    outcomes = [outcome(m, attack, *p) for m, p in keys.items() for attack in attacks]
    outcomes.append(outcome("a", "retrain", 1e-9))  # nobody tried it on b
    scores = scores_of(outcomes, Setting())
    assert (len(scores.attacks), scores.num_left_out) == (6, 1)
    forward, back = compare_pairs(scores, "attack")
    assert (forward.method, forward.better, forward.worse) == ("a", 6, 0)
    assert (back.method, back.better, back.worse) == ("b", 0, 6)
    assert forward.p == forward.p_rivals == back.p_pairs == 2 / 64
    assert (forward.difference, forward.low, forward.high) == pytest.approx((1 / 3,) * 3)
    assert back.difference == pytest.approx(-1 / 3)
    assert compare_pairs(scores, "family")[0].p == 0.5  # two families can show no more
    assert mean_ranks(scores.kept).tolist() == [1.0, 2.0]
    assert len(scores.within("prune").attacks) == 3


def test_a_level_for_all_and_useless_suspects_count_either_way():
    attacks = [f"prune_{number}" for number in range(5)]
    outcomes = [outcome("weak", attack, 0.04) for attack in attacks]
    outcomes += [outcome("strong", attack, 1e-9) for attack in attacks[1:]]
    outcomes.append(outcome("strong", attacks[0], 0.9, apart="useless"))

    def kept(setting: Setting) -> list[float]:
        return scores_of(outcomes, setting).kept.mean(0).tolist()

    assert kept(Setting()) == [1.0, 0.8]
    assert kept(Setting(level=1e-6)) == [0.0, 0.8]
    assert kept(Setting(level=1e-6, useless="survived")) == [0.0, 1.0]


def test_an_interval_draws_families_and_holds_the_mean(monkeypatch):
    monkeypatch.setattr(significance, "RESAMPLES", 999)
    names = tuple(f"{family}_{i}" for family in "abcdef" for i in range(6))
    alike = np.repeat([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 6)
    single = np.tile([1.0, 1.0, 1.0, 0.0, 0.0, 0.0], 6)
    scores = Scores(("x", "y"), names, np.stack([alike, single], 1))
    (low, same_low), (high, same_high) = intervals(scores, scores.kept.T)
    # What differs between families alone is as uncertain as six numbers are.
    assert low < 0.2
    assert high > 0.8
    assert (same_low, same_high) == (0.5, 0.5)


def test_where_all_is_chance_few_pairs_differ():
    draw = np.random.default_rng(0)
    names = tuple(f"{'abcdefgh'[i % 8]}_{i}" for i in range(40))
    found = 0
    for _ in range(20):
        scores = Scores(("x", "y", "z"), names, draw.integers(0, 2, (40, 3)).astype(float))
        assert 0 <= friedman(scores.kept)[1] <= 1
        p = mcnemar(*(scores.kept[:, i] > 0.5 for i in (0, 1)))
        found += p <= 0.05
    assert found <= 3
    tied = np.ones((40, 3))
    assert friedman(tied)[1] == 1.0


def test_too_little_to_compare_is_named():
    with pytest.raises(InputError, match="1 methods with 1 attacks in common"):
        scores_of([outcome("a", "prune", 0.1)], Setting())
