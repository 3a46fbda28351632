"""The nulls against closed forms, brute force over all keys, and sampling."""

import itertools
import math
from fractions import Fraction
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers import nearly
from softmark.methods.key import Key
from softmark.methods.parts.trigger_set import random_labels
from softmark.verification.judge import KINDS, corrected
from softmark.verification.nulls import (
    SMALLEST_P,
    Binomial,
    Both,
    Direction,
    Either,
    Innocents,
    Measured,
    Sampled,
    upper_bound,
)
from softmark.verification.signs import Signs, chernoff, convolve, log_p_value


def every_key(weights: np.ndarray) -> np.ndarray:
    """The score of each of the 2^M keys."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(weights))))
    return signs @ weights


def skewed(classes: int, seed: int) -> np.ndarray:
    """Weights of K (K - 1) entries where some classes are answered a hundred times as often."""
    rng = np.random.default_rng(seed)
    often = 100.0 ** rng.random(classes)
    return (often[:, None] * rng.normal(size=(classes, classes - 1))).ravel()


@pytest.mark.parametrize("classes", [3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_signs_against_every_key(classes, seed):
    weights = skewed(classes, seed)
    scores = every_key(weights)
    for signs in itertools.islice(itertools.product([-1.0, 1.0], repeat=len(weights)), 0, None, 97):
        score = float(np.dot(signs, weights))
        true = float((scores >= score - 1e-9).mean())
        p = Signs(torch.tensor(weights), torch.tensor(signs)).p_value()
        if score > 1e-6:
            assert true <= p <= true * 1.02 + 2e-3
        else:
            assert p == 1.0


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=10),
    st.floats(0.01, 1.0),
)
def test_bounds_are_never_below_the_truth(sizes, share):
    sizes = np.array(sizes)
    score = share * sizes.sum()
    true = float((every_key(sizes) >= score * (1 + 1e-12)).mean())
    assert convolve(sizes, score, 20_000) >= true
    assert chernoff(sizes, score) >= true


def test_signs_against_sampling_for_ten_classes():
    rng = np.random.default_rng(0)
    weights = skewed(10, 1)
    drawn = rng.choice([-1.0, 1.0], size=(200_000, 90)) @ weights
    for quantile in (0.9, 0.99, 0.999):
        score = float(np.quantile(drawn, quantile))
        p = convolve(np.abs(weights), score, 20_000)
        share = float((drawn >= score).mean())
        slack = 4 * math.sqrt(share * (1 - share) / len(drawn))
        assert share - slack <= p <= share * 1.05 + slack
        assert chernoff(np.abs(weights), score) >= p


def test_all_signs_right_keeps_its_digits_far_below_1e_16():
    p = Signs(torch.ones(90), torch.ones(90)).p_value()
    assert 2.0**-90 <= p < 1e-24


@pytest.mark.parametrize("classes", [40])
def test_many_classes_use_chernoff_alone(classes):
    weights = torch.rand(classes * (classes - 1))
    signs = torch.ones_like(weights)
    signs[::3] = -1
    p = Signs(weights, signs).p_value()
    assert p == chernoff(weights.double().numpy(), float((weights.double() * signs).sum()))
    assert 0 < p < 1e-6


def test_a_part_of_a_million_sizes_shows_chernoffs_rate(monkeypatch):
    sizes = np.random.default_rng(0).random(20_000)
    score = 0.05 * sizes.sum()
    whole = chernoff(sizes, score)
    monkeypatch.setattr("softmark.verification.signs.MAX_SEARCHED", 1000)
    assert whole <= chernoff(sizes, score) * (1 + 1e-9) < 1.1 * whole


def test_no_evidence_claims_nothing():
    assert Signs(torch.zeros(90), torch.ones(90)).p_value() == 1.0
    assert Signs(torch.ones(90), -torch.ones(90)).p_value() == 1.0
    assert Direction(float("nan"), 9).p_value() == 1.0
    assert Binomial(0, 0, 0.1).p_value() == 1.0
    assert Direction(0.9, 1).p_value() == Direction(-0.9, 9).p_value() == 1.0
    assert Innocents(5.0).p_value() == 1.0
    assert Sampled(5.0, torch.empty(0)).p_value() == 1.0


def test_direction_against_students_t():
    # A uniform direction's cosine r gives t = r sqrt((d - 1) / (1 - r^2)) with d - 1 degrees.
    for dimensions in (2, 3, 9, 99):
        for cosine in (0.1, 0.5, 0.95):
            t = cosine * math.sqrt((dimensions - 1) / (1 - cosine**2))
            expected = stats.t.sf(t, dimensions - 1)
            assert Direction(cosine, dimensions).p_value() == nearly(expected, rel=1e-9)


def test_direction_in_nine_dimensions_is_coarse():
    assert Direction(0.95, 9).p_value() == nearly(1.3e-5, rel=0.05)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.01, 0.99))
def test_binomial_is_the_sum_of_its_terms(hits, trials, rate):
    terms = [
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(hits, trials + 1)
    ]
    expected = max(sum(terms), 1e-300)
    assert Binomial(hits, trials, rate).p_value() == nearly(expected)


def test_upper_bound_is_the_papers_rule_of_three():
    assert upper_bound(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert upper_bound(20, 20, 0.95) == 1.0


@pytest.mark.parametrize("null", ["sampled", "innocents"])
@pytest.mark.parametrize("count", [1, 9, 24])
def test_a_score_among_others_is_as_unlikely_as_its_rank(null, count):
    """Whichever of n + 1 different scores is the suspect's: every p-value comes up once."""
    scores = np.random.default_rng(count).permutation(count + 1).astype(float)
    found = []
    for own in range(count + 1):
        others = np.delete(scores, own).tolist()
        if null == "sampled":
            found.append(Sampled(scores[own], torch.tensor(others)).p_value())
        else:
            found.append(Innocents(scores[own]).p_value(others))
    assert sorted(found) == pytest.approx([(k + 1) / (count + 1) for k in range(count + 1)])


@given(st.integers(-3, 3), st.lists(st.integers(-3, 3), max_size=30))
def test_a_tie_counts_for_the_innocent(score, others):
    expected = Fraction(1 + sum(other >= score for other in others), 1 + len(others))
    drawn = torch.tensor(others, dtype=torch.float32)
    assert Sampled(float(score), drawn).p_value() == pytest.approx(float(expected))
    assert Innocents(float(score)).p_value(others) == pytest.approx(float(expected))
    # Keys that were drawn again are no innocents, and innocents no keys.
    assert Sampled(float(score), drawn).p_value(others) == pytest.approx(float(expected))


def test_no_score_is_rarer_than_what_it_is_compared_with_can_say():
    assert Sampled(1e9, torch.zeros(999)).p_value() == pytest.approx(1e-3)
    assert Innocents(1e9).p_value([0.0] * 24) == pytest.approx(1 / 25)


def test_what_is_no_number_is_no_evidence():
    nan = math.nan
    assert Sampled(nan, torch.zeros(999)).p_value() == 1.0
    assert Innocents(nan).p_value([0.0] * 24) == 1.0
    assert Signs(torch.full((9,), nan), torch.ones(9)).p_value() == 1.0
    # One that can't be compared may be as large.
    assert Sampled(1.0, torch.full((9,), nan)).p_value() == 1.0
    assert Innocents(1.0).p_value([nan] * 9) == 1.0


@given(st.floats(1e-140, 1), st.floats(1e-140, 1))
def test_two_tests_together_are_fishers(first, second):
    both = Both(*(Measured("exact", 0.0, p) for p in (first, second)))
    wanted = stats.combine_pvalues([first, second], method="fisher").pvalue
    assert both.p_value() == nearly(wanted)


def test_two_tests_that_are_both_out_of_reach_have_a_p_value():
    least = Measured("exact", 1.0, 1e-300)
    assert 1e-300 < Both(least, least).p_value() < 1e-296


def test_a_cosine_of_one_is_the_smallest_p_value_and_not_zero():
    assert Direction(1.0, 70).p_value() == Direction(1.0 - 1e-16, 7000).p_value() == 1e-300
    assert Binomial(5000, 5000, 0.01).p_value() == 1e-300


@pytest.mark.parametrize(
    ("null", "kind", "independent"),
    [
        (Signs(torch.ones(20), torch.ones(20)), "exact", True),
        (Direction(0.5, 20), "exact", True),
        (Binomial(3, 5, 0.1), "exact", False),
        (Both(Binomial(3, 5, 0.1), Direction(0.5, 20)), "exact", True),
        (Sampled(1.0, torch.arange(9.0)), "sampled", False),
        (Innocents(1.0), "innocents", False),
    ],
)
def test_a_null_says_what_its_p_value_rests_on(null, kind, independent):
    assert (null.kind, null.independent_probes) == (kind, independent)
    assert kind in KINDS
    rests = null.p_value([0.0] * 24) != null.p_value([2.0] * 24)
    assert rests == (kind == "innocents")


@pytest.mark.parametrize("kind", KINDS)
def test_a_measured_test_is_the_one_that_was_kept(kind):
    whole = {
        "exact": Binomial(9, 10, 0.5),
        "sampled": Sampled(3.0, torch.arange(9.0)),
        "innocents": Innocents(3.0),
    }[kind]
    kept = Measured(kind, whole.score, whole.p_value())
    assert (kept.kind, kept.score) == (whole.kind, whole.score)
    assert not kept.independent_probes
    for innocents in ((), [0.0] * 9, [5.0] * 9, [3.0]):
        assert kept.p_value(innocents) == whole.p_value(innocents)


@pytest.mark.parametrize("classes", [2, 7, 10, 100])
def test_labels_that_keys_draw_are_uniform_and_independent(classes):
    """So that whoever doesn't know the key answers with the label of a trigger once in K."""

    def even(drawn: torch.Tensor, size: int) -> bool:
        return stats.chisquare(drawn.flatten().bincount(minlength=size)).pvalue > 1e-4

    keys = [Key.draw("customer", classes, Random(seed).randbytes) for seed in range(400)]
    labels = torch.stack([random_labels(key, 96) for key in keys])
    assert even(labels, classes)
    assert even(labels[:, 0], classes)
    # Of one key: side by side, and a block of its stream apart; then in the same place of two keys.
    for apart in (1, 4, 96):
        one, other = labels.reshape(-1, 2, apart).unbind(1)
        assert even(classes * one + other, classes**2)


def test_a_part_of_many_signs_is_held_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(5000, generator=generator) - 0.4
    whole = Signs(weights, torch.ones(5000, dtype=torch.int8))
    monkeypatch.setattr("softmark.verification.signs.AT_A_TIME", 999)
    parts = Signs(weights, torch.ones(5000, dtype=torch.int8))
    assert parts.p_value() == pytest.approx(whole.p_value(), rel=1e-6)
    assert parts.score == pytest.approx(whole.score)


def test_many_orders_are_counted_below_the_smallest_p():
    """Signs of many classes prove more than a float can say; orders of their columns cost it."""
    strong = Either((Signs(torch.ones(9000), torch.ones(9000)), Binomial(3, 4, 0.5)))
    assert strong.p_value() == 2 * SMALLEST_P
    log_p = log_p_value(strong)
    assert -9000 * math.log(2) < log_p < -6000
    assert corrected(strong, math.factorial(100)) == SMALLEST_P  # 10^158, of 10^2652
    most = math.factorial(1000)  # 10^2568
    assert corrected(strong, most) == pytest.approx(math.exp(log_p + math.log(most)), rel=1e-6)
    assert corrected(strong, math.factorial(1500)) == 1.0  # 10^4114
    assert corrected(strong, 5) == 10 * SMALLEST_P
