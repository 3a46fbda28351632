"""The detector of usp: what it is shown, and what it learns to tell apart."""

import math

import pytest
import torch
from torch.nn import functional as F

from helpers.soft_labels import answers, marked_for, signs_of, soft
from helpers.training import fit
from softmark.methods.csp import CSP
from softmark.methods.parts.detector import DetectorFeatures, shuffle_tails, train_detector
from softmark.methods.parts.loss import templates
from softmark.tails import compute_victim_stats, log_of, margin, unit_tail


def test_shuffled_tails_keep_the_top_and_the_values_and_lose_the_pattern():
    torch.manual_seed(0)
    signs = signs_of(10)
    p = templates(signs, 0.2, 1.5)[torch.randint(10, (2000,))]
    shuffled = shuffle_tails(p)
    assert torch.equal(shuffled.argmax(1), p.argmax(1))
    assert torch.equal(shuffled.sort(1).values, p.sort(1).values)
    assert margin(log_of(p), signs).min() > 0.5
    assert margin(log_of(shuffled), signs).mean().abs() < 0.05


def test_a_detector_sees_what_it_is_said_to():
    pattern, usual, p = signs_of(5), compute_victim_stats(answers(300, 5))[0], answers(7, 5, 1)
    seen = DetectorFeatures(pattern, usual)(log_of(p))
    tail, top = unit_tail(log_of(p))
    rows = F.normalize(pattern, dim=1) * math.sqrt(5)
    assert seen.shape == (7, 3 * 5 + 2)
    torch.testing.assert_close(seen[:, :5], log_of(p).clamp_min(-12) / 6 + 1)
    torch.testing.assert_close(seen[:, 5:10], p)
    torch.testing.assert_close(seen[:, 10:15], tail * rows[top])
    torch.testing.assert_close(seen[:, 15], (tail * rows[top]).mean(1))
    torch.testing.assert_close(seen[:, 16], (tail * usual[top]).sum(1))


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_a_trained_detector_tells_marked_answers_from_others(hidden):
    torch.manual_seed(0)
    key, _, p = marked_for(CSP, "customer", noise=0.6)
    detector = soft(CSP, hidden=hidden).detector(
        pattern=soft(CSP).pattern(key), victim_tails=torch.zeros(10, 10), epochs=12, lr=3e-2
    )
    others = answers(300, 10).scatter(1, p.argmax(1)[:, None], 5.0)
    train_detector(detector, p, others / others.sum(1, keepdim=True), fit())
    detector.eval()
    with torch.inference_mode():
        scores = [detector(log_of(each)) for each in (p, others / others.sum(1, keepdim=True))]
    assert (scores[0] > 0).float().mean() > 0.9
    assert (scores[1] < 0).float().mean() > 0.9
