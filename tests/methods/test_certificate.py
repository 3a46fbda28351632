"""The certificate of triggers: its bounds against a case whose answer is known."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import Adi
from softmark.methods.hybrid import Hybrid
from softmark.methods.key import Key
from softmark.methods.margin import Margin
from softmark.methods.parts.certificate import WeightCertificate, needed_hits, noisy_counts
from softmark.models.access import Suspect
from softmark.verification.nulls import Binomial


class Threshold(nn.Module):
    """One weight w: all inputs are answered 1 where w is above 0, else 0."""

    def __init__(self, weight: float):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))

    def forward(self, inputs):
        return torch.stack([-self.weight, self.weight], 1).expand(len(inputs), 2)


def coin(hits):
    """What a claim makes of hits of two labels."""
    return Binomial(int(hits.sum()), len(hits), 1 / 2)


TRIGGERS = Samples(torch.zeros(40, 1), torch.ones(40, dtype=torch.long))


def test_the_radius_is_the_distance_to_the_border_and_no_larger():
    """The noise changes the sign of w with a known chance, and a move by w removes the mark."""
    weight = 0.2
    certificate = WeightCertificate(sigmas=[weight / 2, weight, 2 * weight], draws=600)
    found = certificate.certify(Threshold(weight), TRIGGERS, coin, 1e-6)
    assert 0.8 * weight < found["radius"] <= weight
    assert found["norm"] == pytest.approx(weight)
    # Nearly all draws at the smallest noise are right, up to the radius that they can show.
    recall = found["sigmas"][f"{weight / 2:g}"]["recall"]
    assert list(recall.values())[:2] == [1.0, 1.0]


def test_a_model_without_the_mark_has_no_radius():
    certificate = WeightCertificate(sigmas=[0.1], draws=50)
    assert certificate.certify(Threshold(-0.3), TRIGGERS, coin, 1e-6)["radius"] == 0.0
    few = Samples(TRIGGERS.inputs[:4], TRIGGERS.labels[:4])
    found = certificate.certify(Threshold(0.3), few, coin, 1e-6)
    assert (found["needed"], found["radius"]) == (None, 0.0)


# A hundred inputs that are to be answered 3.
TEN = Samples(torch.zeros(100, 1), torch.full((100,), 3))


def answering(count):
    """Answer the first ``count`` of a hundred inputs 3, the others 0."""
    return lambda inputs: torch.eye(10)[3 * (torch.arange(100) < count)]


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 100), min_size=20, max_size=200),
    st.floats(0, 0.3),
    st.floats(0, 0.3),
)
def test_a_bound_falls_with_the_radius_and_never_exceeds_the_median(counts, first, second):
    certificate = WeightCertificate(sigmas=[0.1])
    near, far = sorted((first, second))
    bounds = [certificate.bound(counts, radius, 0.1) for radius in (0.0, near, far)]
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] <= sorted(counts)[len(counts) // 2]
    assert certificate.bound(counts, 1.0, 0.1) == 0


def test_a_bound_holds_as_often_as_it_says():
    """Of counts drawn uniformly from 0 to 99 the quantile at Phi(-1) is 15."""
    draw = torch.Generator().manual_seed(0)
    certificate = WeightCertificate(sigmas=[0.1], confidence=0.9)
    quantile = math.floor(100 * 0.5 * math.erfc(1 / math.sqrt(2)))
    drawn = [torch.randint(100, (200,), generator=draw).tolist() for _ in range(200)]
    failures = sum(certificate.bound(counts, 0.1, 0.1) > quantile for counts in drawn)
    assert failures <= 30  # 20 are expected at most


def test_the_draws_are_the_same_each_time_and_leave_the_model_as_it_is():
    model = nn.Linear(1, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, second = (list(noisy_counts(model, TRIGGERS, 0.5, 5)) for _ in range(2))
    assert first == second
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_numbers_that_cannot_be_used_are_named():
    for wrong in ({"sigmas": []}, {"sigmas": [0.0]}, {"draws": 0}, {"confidence": 1.0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            WeightCertificate(**wrong)


def test_a_claim_needs_what_the_method_itself_makes_of_its_triggers():
    """An innocent answers a trigger of margin rightly with chance 1/9, one of adi with 1/10."""
    key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))

    def needed(method):
        return needed_hits(100, partial(method.trigger_claim, key), 1e-6)

    for method, needed_by_hand in ((Adi(), 28), (Margin(), 30)):
        hits = needed(method)
        assert hits == needed_by_hand
        at, below = (
            method.evidence(Suspect(answering(n)), key, TEN).tests["triggers"].p_value()
            for n in (hits, hits - 1)
        )
        assert 2 * at <= 1e-6 < 2 * below
    # The triggers of a hybrid are one of three tests, of which the strongest counts three times.
    assert needed(Hybrid()) == 29
    assert 6 * stats.binom.sf(28, 100, 1 / 10) <= 1e-6 < 6 * stats.binom.sf(27, 100, 1 / 10)
