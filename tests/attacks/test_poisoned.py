"""Answers that mislead, and what exact tests still read in them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers import nearly
from helpers.soft_labels import exact, marked_for
from softmark.attacks.answers import mean_tails
from softmark.attacks.poisoned import Bias, MisleadGradient, ReverseSigmoid, UniformNoise
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.usp import USP
from softmark.tails import with_tail

CHANGES = (
    ReverseSigmoid(),
    MisleadGradient(),
    MisleadGradient(keep_top=True),
    UniformNoise(),
    Bias(),
)


def answers(seed: int, count: int = 40, classes: int = 5) -> torch.Tensor:
    return (3 * torch.randn(count, classes, generator=torch.manual_seed(seed))).softmax(1)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([torch.float32, torch.float64]))
def test_what_is_told_are_probabilities_and_the_same_each_time(seed, dtype):
    p = answers(seed).to(dtype)
    for change in CHANGES:
        told = change(p)
        assert told.dtype == dtype
        assert (told >= 0).all()
        torch.testing.assert_close(told.sum(1), torch.ones(len(p), dtype=dtype))
        assert torch.equal(change(p), told)
        if change not in (CHANGES[1], CHANGES[3]):
            assert torch.equal(told.argmax(1), p.argmax(1))


def test_a_reverse_sigmoid_turns_small_probabilities_round():
    p = torch.tensor([[0.97, 0.015, 0.009, 0.005, 0.001]])
    told = ReverseSigmoid(beta=1.0, gamma=0.1)(p)
    assert told[0].argsort(descending=True).tolist() == [0, 4, 3, 2, 1]
    by_hand = p[0] - ((0.1 * p[0].logit()).sigmoid() - 0.5)
    torch.testing.assert_close(told[0], by_hand / by_hand.sum())
    sure = torch.tensor([[1.0, 0.0, 0.0]])
    assert ReverseSigmoid()(sure).argmax() == 0


def test_misled_gradients_go_as_far_as_they_may():
    p = answers(1, count=200)
    for change in (MisleadGradient(eps=0.3), MisleadGradient(eps=0.3, keep_top=True)):
        moved = (change(p) - p).abs().sum(1)
        assert float(moved.max()) <= 0.3 + 1e-5
        assert float(moved.median()) == pytest.approx(0.3, abs=1e-4)
    told = MisleadGradient(eps=0.3)(p)
    assert torch.equal((told - p).argmax(1), p.argmin(1))


def test_the_extreme_that_keeps_the_class_is_the_best_of_all_sets():
    """Also by the gradients of a student's last layer, |G^T (y* - y)| with G_k = (q - e_k) f^T."""
    p = torch.cat([answers(3), answers(4).sqrt().softmax(1)])
    told = MisleadGradient(eps=2.0, keep_top=True)(p)  # the extreme itself
    torch.manual_seed(0)
    q, f = torch.rand(5).softmax(0), torch.randn(3)
    gradients = ((q - torch.eye(5))[:, :, None] * f).flatten(1)  # (K, K D)
    for row, extreme in zip(p, told, strict=True):
        sets = [
            F.one_hot(torch.tensor([int(row.argmax()), *others]), 5).sum(0) / (1 + len(others))
            for size in range(5)
            for others in itertools.combinations(sorted({*range(5)} - {int(row.argmax())}), size)
        ]
        best = max(float(((y - row) @ gradients).norm()) for y in sets)
        assert float(((extreme - row) @ gradients).norm()) == pytest.approx(best, abs=1e-3)


def test_uniform_noise_is_upwards_and_bounded():
    p = torch.full((500, 4), 1e-4).scatter(1, torch.zeros(500, 1, dtype=torch.int64), 0.9997)
    told = UniformNoise(eps=2.0)(p)
    ratio = told[:, 1:] / told[:, :1] / (p[:, 1:] / p[:, :1])  # e^noise, as the first is near 1
    noise = ratio.log()
    assert float(noise.min()) > -1e-3
    assert float(noise.max()) <= 2.0
    assert float(noise.mean()) == pytest.approx(0.9, abs=0.15)


def test_a_bias_is_the_same_for_all_answers_of_a_class():
    p = answers(2, count=400)
    one, other = (mean_tails(Bias(sd=2.0, seed=seed)(p)) - mean_tails(p) for seed in (0, 1))
    halves = [mean_tails(Bias(sd=2.0)(part)) - mean_tails(part) for part in p.split(200)]
    assert float((halves[0] - halves[1]).abs().mean()) < 0.2 * float(one.abs().mean())
    assert float((one - other).abs().mean()) > 0.5 * float(one.abs().mean())


# --- what is left of a mark -----------------------------------------------------------------------


def served(p: torch.Tensor, seed: int, turned: bool) -> torch.Tensor:
    """Return ``p`` with tails through an increasing map for each class, or a decreasing one."""
    steps = torch.rand(p.shape[1], 200, generator=torch.manual_seed(seed)) ** 3 + 1e-3
    curve = steps.cumsum(1) / steps.sum(1, keepdim=True)  # (K, 200), one for each class
    log_p, top = p.double().log(), p.argmax(1)
    low, high = float(log_p.min()), float(log_p.max())
    place = 198 * (log_p - low) / (high - low)  # (N, K)
    left = place.floor().long().clamp(0, 198)
    rows = curve.double()[top]
    value = rows.gather(1, left) * (1 - place + left) + rows.gather(1, left + 1) * (place - left)
    return with_tail(p.double(), -value if turned else value)


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([CSP, USP]), st.booleans())
def test_any_increasing_or_decreasing_map_leaves_p_as_it_is(seed, kind, turned):
    key, _, p = marked_for(kind, "customer")
    before = exact(kind, p, key)[1].p_value()
    assert before < 1e-12
    assert exact(kind, served(p, seed, turned), key)[1].p_value() == nearly(before, rel=1e-3)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_published_defences_leave_a_claim_where_answers_have_all_digits(kind):
    key, _, p = marked_for(kind, "customer")
    for change in (ReverseSigmoid(), MisleadGradient(), MisleadGradient(keep_top=True)):
        assert exact(kind, change(p.double()), key)[1].p_value() < 1e-8
    # What is written over the pattern, and not only disturbed, is another matter.
    assert exact(kind, Bias(sd=30.0)(p.double()), key)[1].p_value() > 1e-6


@pytest.mark.parametrize(
    ("kind", "name", "wrong"),
    [
        (ReverseSigmoid, "beta", 3.0),
        (ReverseSigmoid, "gamma", 0.0),
        (MisleadGradient, "eps", 0.0),
        (UniformNoise, "eps", -1.0),
        (Bias, "sd", -1.0),
    ],
)
def test_numbers_of_changes_are_checked(kind, name, wrong):
    with pytest.raises(InputError, match=rf"attack\.change\.{name}={wrong}"):
        kind(**{name: wrong})
