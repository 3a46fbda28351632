"""Tails: what is left of an answer without its likeliest class."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.nn import functional as F

from helpers.soft_labels import answers, signs_of
from softmark import tails
from softmark.methods.parts.loss import templates
from softmark.tails import (
    anscombe_residuals,
    class_tails,
    compute_victim_stats,
    confusion_counts,
    is_victim_stats,
    log_of,
    log_tail,
    margin,
    margin_loss,
    rank_tail,
    ranks,
    tail_sums,
    unit_tail,
)


def test_log_tail_by_hand():
    p = torch.tensor([[0.1, 0.7, 0.2]])
    tail, top = log_tail(p.log())
    middle = (p[0, 0].log() + p[0, 2].log()) / 2
    expected = torch.stack([p[0, 0].log() - middle, torch.tensor(0.0), p[0, 2].log() - middle])
    torch.testing.assert_close(tail[0], expected)
    assert int(top) == 1


@settings(deadline=None)
@given(st.integers(3, 30), st.integers(0, 99))
def test_unit_tails_are_centred_unit_and_blind_to_temperature(classes, seed):
    p = answers(20, classes, seed)
    # A tail that is nearly flat keeps few digits of float32.
    p = p[log_tail(p.log())[0].norm(dim=1) > 0.05]
    tail, top = unit_tail(p.log())
    torch.testing.assert_close(tail.sum(1), torch.zeros(len(p)), atol=1e-4, rtol=0)
    torch.testing.assert_close(tail.norm(dim=1), torch.ones(len(p)))
    hot, _ = unit_tail((p.log() / 4).log_softmax(1))
    torch.testing.assert_close(hot, tail, atol=1e-4, rtol=0)
    assert (top == p.argmax(1)).all()


def test_a_flat_tail_has_no_direction():
    flat = torch.tensor([[0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]])
    assert (unit_tail(log_of(flat))[0] == 0).all()
    assert (rank_tail(flat)[0] == 0).all()
    assert (class_tails(flat) == 0).all()
    assert tail_sums(flat).abs().sum() == 0
    assert compute_victim_stats(flat)[0].abs().sum() == 0


def test_rank_tail_by_hand():
    p = torch.tensor([[0.1, 0.5, 0.1, 0.2, 0.06, 0.04]])
    ranks = torch.tensor([0.5, 0.0, 0.5, 2.0, -1.0, -2.0])  # the two that tie share 3.5 of 1..5
    tail, top = rank_tail(p)
    torch.testing.assert_close(tail[0], ranks / ranks.norm())
    assert int(top) == 1


@given(st.integers(3, 30), st.integers(0, 99), st.floats(0.2, 5))
def test_rank_tails_are_blind_to_whatever_keeps_the_order(classes, seed, temperature):
    p = answers(20, classes, seed).double()
    tail, top = rank_tail(p)
    torch.testing.assert_close(tail.sum(1), torch.zeros(20), atol=1e-5, rtol=0)
    hot, same = rank_tail((p.log() / temperature).softmax(1))
    torch.testing.assert_close(hot, tail)
    assert (top == same).all()


def test_a_probability_of_zero_counts_as_a_very_small_one():
    assert log_of(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([math.log(1e-12), 0.0])


def test_a_margin_is_the_nats_that_a_pattern_adds_to_a_tail():
    signs = signs_of(10)
    p = answers(200, 10)
    leaning = p.log() + 2.5 * signs[p.argmax(1)]
    # The likeliest class stays so: what is added to it doesn't count.
    leaning = leaning.scatter(1, p.argmax(1, keepdim=True), 9.0).log_softmax(1)
    row, tail = signs[p.argmax(1)], 1 - F.one_hot(p.argmax(1), 10)
    mean = row.sum(1, keepdim=True) / 9
    added = 2.5 * ((row - mean * tail) ** 2).sum(1) / 9
    torch.testing.assert_close(margin(leaning, signs), margin(p.log(), signs) + added)


def test_the_margin_of_balanced_signs_is_half_the_distance_of_raised_and_lowered():
    pattern = torch.tensor([0.0, 1.0, 1.0, -1.0, -1.0]).repeat(5, 1)
    log_p = torch.tensor([[3.0, 0.5, 0.1, -0.2, -0.8]]).log_softmax(1)
    raised, lowered = log_p[0, 1:3].mean(), log_p[0, 3:].mean()
    torch.testing.assert_close(margin(log_p, pattern)[0], (raised - lowered) / 2)


def test_nothing_is_short_of_a_margin_that_is_reached():
    signs = signs_of(10)
    p = templates(signs, 0.2, 3.0)
    reached = float(margin(p.log(), signs).min())
    assert float(margin_loss(p.log(), signs, reached * 0.99)) == 0
    assert float(margin_loss(torch.zeros(5, 10).log_softmax(1), signs, 1.0)) == pytest.approx(1.0)
    # Half of it is missing: by as much it falls short.
    half = (p.log() + 0 * signs)[:1]
    short = float(margin_loss(half, signs, 2 * float(margin(half, signs))))
    assert short == pytest.approx(0.5)


def test_class_tails_average_each_class():
    p = answers(200, 4)
    tail, top = rank_tail(p)
    torch.testing.assert_close(class_tails(p)[2], tail[top == 2].mean(0))
    assert (class_tails(p[top != 1])[1] == 0).all()


def test_tail_sums_by_hand():
    p = answers(300, 5, 1)
    tail, top = rank_tail(p)
    sums, (usual, shared) = tail_sums(p), compute_victim_stats(p)
    for row in range(5):
        torch.testing.assert_close(sums[row], tail[top == row].sum(0) / 2)  # sqrt(5 - 1)
        torch.testing.assert_close(usual[row], F.normalize(class_tails(p)[row], dim=0))
        doubt = p[top == row].mean(0)
        doubt[row] = 0
        torch.testing.assert_close(shared[row], doubt / doubt.sum())
    for matrix in (sums, usual, shared):
        assert (matrix.diagonal() == 0).all()
    torch.testing.assert_close(usual.norm(dim=1), torch.ones(5))


def test_mistakes_are_counted_where_label_and_answer_are_clear():
    labels = torch.tensor([0, 0, 1, 2, 2, -1, 1])
    p = F.one_hot(torch.tensor([0, 1, 0, 0, 0, 2, 2]), 3).float()
    p[4] = torch.tensor([0.4, 0.4, 0.2])  # two as likely
    expected = torch.tensor([[0.0, 1, 0], [1, 0, 1], [1, 0, 0]])
    assert torch.equal(confusion_counts(p, labels), expected)
    assert confusion_counts(torch.full((7, 3), 1 / 3), labels).sum() == 0
    assert confusion_counts(p, torch.full((7,), -1)).sum() == 0


def test_anscombe_residuals_by_hand():
    counts = torch.tensor([[0.0, 9, 3], [0, 0, 0], [2, 2, 0]])
    shared = torch.tensor([[0.0, 0.5, 0.5], [0.2, 0.0, 0.8], [0.25, 0.75, 0.0]])
    found = anscombe_residuals(counts, torch.stack([torch.zeros(3, 3), shared]))
    assert float(found[0, 1]) == pytest.approx(9.375**0.5 - 6.375**0.5)
    assert float(found[2, 0]) == pytest.approx(2.375**0.5 - 1.375**0.5)
    assert (found[1] == 0).all()
    assert (found.diagonal() == 0).all()
    assert float(anscombe_residuals(counts, None)[0, 2]) == pytest.approx(3.375**0.5 - 6.375**0.5)


def test_usual_tails_are_told_from_other_matrices():
    usual = compute_victim_stats(answers(300, 5))
    usual[:, 3] = 0  # a class that is never answered
    assert is_victim_stats(usual, 5)
    assert is_victim_stats(torch.zeros(2, 5, 5), 5)
    doubtless = answers(300, 5).log().mul(200).softmax(1)  # as a model that learnt all by heart
    doubtless[answers(300, 5).argmax(1) == 2] = torch.tensor([1e-15, 2e-15, 1.0, 0.0, 0.0])
    assert is_victim_stats(compute_victim_stats(doubtless), 5)
    lifted, turned, lost, less, itself, negative = (usual.clone() for _ in range(6))
    lifted[0, 0, 1:] += 0.1
    turned[0, 1] = torch.tensor([0.5, 0.5, -0.5, -0.5, 0.0])
    lost[0, 2] = math.nan
    less[1, 0] *= 0.9
    itself[1, 1] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    negative[1, 2] = torch.tensor([1.5, -0.5, 0.0, 0.0, 0.0])
    for wrong in (2 * usual, lifted, turned, lost, less, itself, negative, usual[:1], usual.int()):
        assert not is_victim_stats(wrong, 5)
    assert not is_victim_stats(usual, 6)


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 30), st.integers(0, 3), st.integers(0, 99))
def test_ranks_are_scipys_where_entries_tie_and_where_one_is_no_number(classes, decimals, seed):
    rows = torch.rand(20, classes, generator=torch.Generator().manual_seed(seed))
    rows = (rows * 10**decimals).round() / 10**decimals
    rows[3, 0] = torch.nan
    top_last = rows.scatter(1, rows.argmax(1)[:, None], 2.0)
    expected = stats.rankdata(top_last.numpy(), axis=1)
    assert np.array_equal(ranks(rows)[0].numpy(), expected, equal_nan=True)


def test_the_tails_of_many_classes_are_summed_part_by_part(monkeypatch):
    p = answers(50, 10, 0)
    whole = tail_sums(p), class_tails(p)
    monkeypatch.setattr(tails, "MAX_ENTRIES", 70)
    for expected, found in zip(whole, (tail_sums(p), class_tails(p)), strict=True):
        torch.testing.assert_close(found, expected)
