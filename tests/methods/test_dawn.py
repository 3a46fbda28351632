"""DAWN: the lie on a share of inputs, and its log."""

import torch
from scipy import stats

from helpers import nearly
from helpers.triggers import judge, key_of, key_verifier_of, method, only_test, pictures, untrained
from softmark.data.roles import Samples
from softmark.models.access import Suspect


def test_dawn_lies_on_a_share_of_inputs_and_always_alike():
    made, key = method("dawn"), key_of("dawn", 1)
    images = torch.randint(256, (3000, 1, 8, 8), dtype=torch.uint8)
    served = made.serve(untrained().answer, key)
    true, told = untrained().answer(images), served(images)
    lies = told.argmax(1) != true.argmax(1)
    assert stats.binomtest(int(lies.sum()), 3000, 0.1).pvalue > 1e-3
    assert torch.equal(served(images[:50]), told[:50])
    assert torch.equal(told[~lies], true[~lies])
    torch.testing.assert_close(told.sort(1).values, true.sort(1).values)
    other = made.serve(untrained().answer, key_of("dawn", 2))(images)
    assert not torch.equal(other, told)


def test_dawn_has_no_evidence_where_the_thief_asked_too_little():
    made, key = method("dawn"), key_of("dawn", 1)
    images = pictures(200, 9).inputs
    right = images[made.steps(key, images) == 0]
    log = Samples(right, torch.zeros(len(right), dtype=torch.int64))
    found = key_verifier_of(made, key).evidence(Suspect(untrained().answer, None, log))
    assert (found.tests, found.why) == ({}, "no evidence: no wrong answer was given")


def test_dawn_finds_who_repeats_its_log():
    made, key = method("dawn"), key_of("dawn", 1)
    served = made.serve(untrained().answer, key)
    log = Samples(judge().inputs, served(judge().inputs).argmax(1))
    thief = Suspect(lambda images: served(images), None, log)
    honest = Suspect(untrained().answer, None, log)
    wrong = int((made.steps(key, log.inputs) > 0).sum())
    assert only_test("dawn", thief, key).p_value() == nearly(9.0**-wrong)
    assert only_test("dawn", honest, key).p_value() == 1
    assert "never asked" in made.evidence(untrained(), key, judge()).why
    nothing = Suspect(untrained().answer, None, log[made.steps(key, log.inputs) == 0])
    assert "no wrong answer" in made.evidence(nothing, key, judge()).why
