"""The nulls against closed forms, brute force over all keys, and sampling."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from softmark.errors import InputError
from softmark.verification import (
    Binomial,
    Direction,
    Evidence,
    Flags,
    Signs,
    Verifier,
    balanced_accuracy,
    chernoff,
    convolve,
    honest_answers,
    upper_bound,
)


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


def test_no_evidence_claims_nothing():
    assert Signs(torch.zeros(90), torch.ones(90)).p_value() == 1.0
    assert Signs(torch.ones(90), -torch.ones(90)).p_value() == 1.0
    assert Direction(float("nan"), 9).p_value() == 1.0
    assert Binomial(0, 0, 0.1).p_value() == 1.0
    assert Flags(5, 10).p_value([], 0.99) == 1.0


def test_direction_against_students_t():
    # A uniform direction's cosine r gives t = r sqrt((d - 1) / (1 - r^2)) with d - 1 degrees.
    for dimensions in (2, 3, 9, 99):
        for cosine in (0.1, 0.5, 0.95):
            t = cosine * math.sqrt((dimensions - 1) / (1 - cosine**2))
            expected = stats.t.sf(t, dimensions - 1)
            assert Direction(cosine, dimensions).p_value() == pytest.approx(expected, rel=1e-9)


def test_direction_in_nine_dimensions_is_coarse():
    assert Direction(0.95, 9).p_value() == pytest.approx(1.3e-5, rel=0.05)


@given(st.integers(0, 50), st.integers(1, 50), st.floats(0.01, 0.99))
def test_binomial_is_the_sum_of_its_terms(hits, trials, rate):
    terms = [
        math.comb(trials, k) * rate**k * (1 - rate) ** (trials - k) for k in range(hits, trials + 1)
    ]
    assert Binomial(hits, trials, rate).p_value() == pytest.approx(sum(terms), rel=1e-6)


def test_upper_bound_is_the_papers_rule_of_three():
    assert upper_bound(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20))
    assert upper_bound(20, 20, 0.95) == 1.0


def test_flags_stand_on_the_worst_innocent():
    innocents = [Flags(0, 100), Flags(7, 100), Flags(1, 100)]
    rate = upper_bound(7, 100, 0.99)
    assert Flags(60, 100).p_value(innocents, 0.99) == Binomial(60, 100, rate).p_value()


def verifier(**changed) -> Verifier:
    settings = {
        "probes": 100,
        "inputs": "samples",
        "messages": [],
        "levels": {"flags": 1e-6, "direction": 1e-3, "signs": 1e-6},
        "false_flags": 0.01,
        "confidence": 0.99,
        "keys_tried": 1,
    }
    return Verifier(**{**settings, **changed})


def evidence(flagged: int, cosine: float) -> Evidence:
    scores = torch.cat([torch.ones(flagged), -torch.ones(100 - flagged)])
    return Evidence(scores, (Flags(flagged, 100), Direction(cosine, 9)))


def test_a_claim_needs_every_test():
    innocents = [evidence(1, 0.0)] * 5
    assert verifier().judge(evidence(90, 0.99), innocents, innocents).claimed
    assert not verifier().judge(evidence(90, 0.1), innocents, innocents).claimed
    assert not verifier().judge(evidence(5, 0.99), innocents, innocents).claimed
    verdict = verifier().judge(evidence(90, 0.99), innocents, innocents)
    assert verdict.p_value == max(verdict.tests.values())
    assert verdict.null == "flags+direction"


def test_p_is_multiplied_by_the_keys_that_were_tried():
    signs = Evidence(torch.zeros(10), (Signs(torch.ones(20), torch.ones(20)),))
    one = verifier().judge(signs, [], [])
    many = verifier(keys_tried=8).judge(signs, [], [])
    assert many.p_value == pytest.approx(8 * one.p_value)
    assert verifier(keys_tried=10**9).judge(signs, [], []).p_value == 1.0


def test_no_mark_is_no_verdict():
    verdict = verifier().judge(Evidence(torch.empty(0), (), "no mark"), [], [])
    assert (verdict.p_value, verdict.null, verdict.claimed) == (None, None, False)
    assert verdict.why == "no mark"


def test_false_claims_are_counted_with_their_bound():
    calm, guilty = evidence(0, 0.0), evidence(95, 0.99)
    verdict = verifier().judge(guilty, [calm], [calm, guilty, calm])
    assert (verdict.false_claims, verdict.innocents) == (1, 3)
    assert verdict.false_claims_upper == upper_bound(1, 3, 0.95)


def test_balanced_accuracy_by_hand():
    calibration = [Evidence(torch.arange(100.0))]
    suspect = Evidence(torch.tensor([99.5, 99.5, 99.5, 0.0]))
    innocents = [Evidence(torch.tensor([0.0, 100.0])), Evidence(torch.tensor([0.0] * 8))]
    # The threshold is 99: 3 of 4 hits; innocents' false rates are 1/2 and 0, 1/4 on average.
    found = balanced_accuracy(suspect, calibration, innocents, 0.01, 1)
    assert found == pytest.approx((0.75 + 0.75) / 2)
    assert balanced_accuracy(suspect, calibration, innocents, 0.01, 10) is None


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        (torch.tensor([[1.2, -0.2]]), "not probabilities"),
        (torch.tensor([[0.7, 0.7]]), "not probabilities"),
        (torch.tensor([[float("nan"), 0.5]]), "not finite"),
        (torch.tensor([0, 1]), "answers"),
        (torch.full((4, 3), 1 / 3), "answers"),
    ],
)
def test_what_is_no_probability_is_no_evidence(answers, word):
    assert word in honest_answers(answers, 2)


def test_probabilities_rounded_to_two_digits_are_evidence():
    assert honest_answers(torch.tensor([[0.33, 0.33, 0.33]]), 3) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"probes": 0},
        {"messages": [""]},
        {"messages": ["a", "a"]},
        {"keys_tried": 0},
        {"false_flags": 1.5},
        {"levels": {"signs": 0.0}},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=rf"verifier\.{next(iter(wrong))}"):
        verifier(**wrong)


def signs(agreeing: int) -> Signs:
    return Signs(torch.ones(90), torch.where(torch.arange(90) < agreeing, 1.0, -1.0))


def test_a_message_is_named_with_p_corrected_for_their_number():
    named = verifier().identify({"a": signs(50), "b": signs(85), "c": signs(44)})
    assert named.name == "b"
    assert named.p_value == pytest.approx(3 * signs(85).p_value())
    assert named.p_values == pytest.approx(
        {"a": min(1, 3 * signs(50).p_value()), "b": named.p_value, "c": 1.0}
    )


def test_nobody_is_named_on_weak_evidence():
    named = verifier().identify({"a": signs(55), "b": signs(48)})
    assert named.name is None
    assert verifier().identify({}) is None


def test_more_registered_messages_need_stronger_evidence():
    level = verifier().levels["signs"]
    enough = next(n for n in range(46, 91) if signs(n).p_value() <= level)
    assert verifier().identify({"a": signs(enough)}).name == "a"
    many = {"a": signs(enough)} | {f"other-{i}": signs(45) for i in range(10**3)}
    assert verifier().identify(many).name is None
