"""What counts in a tally: a map that is listed apart does keep the order of every answer."""

import pytest
import torch

from softmark.attacks import answers
from softmark.report.outcomes import ORDER_KEEPING, Outcome

CHANGES = {
    "serve_temperature": answers.Temper(),
    "serve_flat": answers.Flatten(),
    "serve_labels": answers.Labels(),
    "serve_noise": answers.Noise(),
    "serve_rounded": answers.Round(),
    "serve_shuffled": answers.Shuffle(),
    "serve_sure": answers.Abstain(),
    "serve_top3": answers.TopK(),
}


@pytest.mark.parametrize("attack", CHANGES)
def test_what_is_listed_apart_keeps_the_order_of_every_answer(attack):
    drawn = torch.rand(50, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = drawn.pow(3) / drawn.pow(3).sum(1, keepdim=True)
    served = CHANGES[attack](told)
    same = torch.equal(served.argsort(dim=1, stable=True), told.argsort(dim=1, stable=True))
    distinct = bool((served.sort(1).values.diff(dim=1) > 0).all())
    assert (same and distinct) == (attack in ORDER_KEEPING)


def test_a_level_for_all_asks_p_and_not_the_verdict():
    one = Outcome("a", "prune 0.5", (True, False, True), (1e-4, 1e-9, None), 0.0, "")
    assert (one.family, one.kept(), one.kept(1e-6)) == ("prune", 2 / 3, 1 / 3)
    assert (one.survived(), one.survived(1e-3)) == (False, False)
    assert Outcome("a", "distill", (False,), (1e-4,), 0.0, "").survived(1e-3)
