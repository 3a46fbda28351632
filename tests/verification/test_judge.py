"""The judge by hand: levels, innocents, messages, and what a method is shown."""

import math
from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers import nearly
from helpers.verification import LEVELS, verifier
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.verification.evidence import Evidence
from softmark.verification.metrics import flag_rate, group_means, threshold
from softmark.verification.nulls import (
    Binomial,
    Direction,
    Innocents,
    Measured,
    Sampled,
    upper_bound,
)
from softmark.verification.signs import Signs
from softmark.verification.verdict import Innocent


def evidence(flagged: int, cosine: float) -> Evidence:
    scores = torch.cat([torch.ones(flagged), -torch.ones(100 - flagged)])
    return Evidence(scores, {"flags": Innocents(flagged), "direction": Direction(cosine, 9)})


def plain(*found: Evidence) -> list[Innocent]:
    return [Innocent("plain", each) for each in found]


NOTHING = Evidence.none("it can't be asked")


def test_a_claim_needs_every_test():
    innocents = plain(*[evidence(1, 0.0)] * 20)
    assert verifier().judge(evidence(90, 0.99), innocents, innocents).claimed
    assert not verifier().judge(evidence(90, 0.1), innocents, innocents).claimed
    assert not verifier().judge(evidence(1, 0.99), innocents, innocents).claimed
    verdict = verifier().judge(evidence(90, 0.99), innocents, innocents)
    assert verdict.p_value == max(verdict.tests.values())
    assert verdict.null == "flags+direction"
    assert verdict.tests == {
        "flags": pytest.approx(1 / 21),
        "direction": Direction(0.99, 9).p_value(),
    }


def test_a_claim_needs_a_test():
    verdict = verifier().judge(Evidence(torch.ones(100), {}, "no mark"), [], [])
    assert (verdict.score, verdict.p_value, verdict.null, verdict.claimed) == (None,) * 3 + (False,)
    assert verdict.why == "no mark"
    innocents = plain(NOTHING, evidence(99, 0.99), NOTHING)
    verdict = verifier().judge(Evidence.none("no mark", 7), innocents, innocents[:2])
    assert (verdict.skipped, verdict.innocents, verdict.unusable) == (3, 0, 7)
    assert verdict.false_claims_upper is None
    # Even if someone asked about it.
    assert not verifier()._claims(NOTHING, {})


def test_an_innocent_that_cannot_be_asked_is_no_false_claim():
    calm, guilty = evidence(0, 0.0), evidence(95, 0.99)
    verdict = verifier().judge(guilty, plain(*[calm] * 20), plain(calm, NOTHING, NOTHING))
    assert (verdict.false_claims, verdict.innocents, verdict.skipped) == (0, 1, 2)
    assert verdict.false_claims_upper == upper_bound(0, 1, 0.95)
    assert verdict.by_kind == {"plain": {"innocents": 1, "false_flags": 0.0, "false_claims": 0}}
    verdict = verifier().judge(guilty, plain(*[calm] * 20), plain(NOTHING))
    assert (verdict.false_claims, verdict.innocents, verdict.skipped) == (0, 0, 1)
    assert verdict.false_claims_upper is None
    assert verdict.by_kind == {}
    assert verdict.watermark_accuracy is None


def test_a_calibration_innocent_that_cannot_be_asked_counts_nowhere():
    calm, guilty = evidence(3, 0.0), evidence(95, 0.99)
    # Its scores would raise the threshold above everything.
    strange = Evidence(torch.full((100,), 1e9), {}, "it can't be asked")
    without = verifier().judge(guilty, plain(*[calm] * 19), plain(calm))
    with_it = verifier().judge(guilty, plain(strange, *[calm] * 19, NOTHING), plain(calm))
    assert with_it == replace(without, skipped=2)
    assert without.tests["flags"] == pytest.approx(1 / 20)


def test_an_innocent_without_one_of_the_tests_is_compared_in_the_others():
    lacking = Evidence(torch.ones(100), {"direction": Direction(0.1, 9)})
    verdict = verifier().judge(evidence(90, 0.99), plain(evidence(1, 0.0), lacking), plain(lacking))
    assert verdict.tests["flags"] == pytest.approx(1 / 2)
    assert verdict.false_claims == 0


def test_two_tests_of_one_null_live_under_two_names():
    found = Evidence(
        torch.ones(10), {"bits": Binomial(40, 40, 0.5), "labels": Binomial(9, 40, 0.1)}
    )
    verdict = verifier().judge(found, [], [])
    assert verdict.tests == {
        "bits": Binomial(40, 40, 0.5).p_value(),
        "labels": Binomial(9, 40, 0.1).p_value(),
    }
    assert verdict.null == "bits+labels"
    assert verdict.score == 1.0
    assert not verdict.claimed


def measured(**tests: tuple[str, float]) -> Evidence:
    named = {name: Measured(kind, 0.0, p) for name, (kind, p) in tests.items()}
    return Evidence(torch.zeros(10), named)


@given(st.lists(st.tuples(st.sampled_from(["exact", "sampled"]), st.floats(0, 1)), max_size=5))
def test_each_test_must_reach_the_level_of_its_kind(drawn):
    found = measured(**{f"test {n}": each for n, each in enumerate(drawn)})
    expected = bool(drawn) and all(p <= LEVELS[kind] for kind, p in drawn)
    assert verifier().judge(found, [], []).claimed == expected
    counted = verifier().judge(measured(a=("exact", 1.0)), [], plain(found))
    assert counted.false_claims == expected
    assert counted.skipped == (not drawn)


@pytest.mark.parametrize("kind", ["exact", "sampled"])
def test_a_level_that_is_just_reached_is_reached(kind):
    level = LEVELS[kind]
    assert verifier().judge(measured(a=(kind, level)), [], []).claimed
    assert not verifier().judge(measured(a=(kind, level * (1 + 1e-9))), [], []).claimed
    other = verifier(levels={**LEVELS, kind: level / 2})
    assert not other.judge(measured(a=(kind, level)), [], []).claimed


def test_nineteen_innocents_are_the_fewest_for_a_claim_that_rests_on_them():
    one = Evidence(torch.zeros(10), {"flags": Innocents(5.0)})
    calm = Evidence(torch.zeros(10), {"flags": Innocents(4.0)})
    for count, claimed in ((0, False), (18, False), (19, True)):
        assert verifier().judge(one, plain(*[calm] * count), []).claimed == claimed
    louder = plain(*[calm] * 19, Evidence(torch.zeros(10), {"flags": Innocents(5.0)}))
    assert not verifier().judge(one, louder, []).claimed


def test_p_is_multiplied_by_the_keys_that_were_tried():
    signs = Evidence(torch.zeros(10), {"signs": Signs(torch.ones(20), torch.ones(20))})
    one = verifier().judge(signs, [], [])
    many = verifier(keys_tried=8).judge(signs, [], [])
    assert many.p_value == nearly(8 * one.p_value)
    assert verifier(keys_tried=10**9).judge(signs, [], []).p_value == 1.0
    huge = verifier(keys_tried=10**400).judge(signs, plain(signs), plain(signs))
    assert (huge.p_value, huge.claimed, huge.false_claims) == (1.0, False, 0)


def test_the_keys_that_were_tried_count_for_innocents_and_messages_too():
    just = measured(a=("exact", 1e-6))
    assert verifier().judge(just, [], plain(just)).false_claims == 1
    assert verifier(keys_tried=2).judge(just, [], plain(just)).false_claims == 0
    named = verifier(keys_tried=3).identify({"a": signs(80), "b": signs(45)})
    assert named.p_value == nearly(6 * signs(80).p_value())


def test_no_mark_is_no_verdict():
    verdict = verifier().judge(Evidence(torch.empty(0), {}, "no mark"), [], [])
    assert (verdict.p_value, verdict.null, verdict.claimed) == (None, None, False)
    assert verdict.why == "no mark"


def test_a_verdict_hands_on_what_the_evidence_says():
    found = replace(evidence(90, 0.99), why="few", mark_recall=0.75, unusable=3)
    verdict = verifier().judge(found, plain(evidence(1, 0.0)), [])
    assert (verdict.why, verdict.mark_recall, verdict.unusable) == ("few", 0.75, 3)
    assert verdict.score == 90


def test_false_claims_are_counted_with_their_bound():
    calm, guilty = evidence(0, 0.0), evidence(95, 0.99)
    pool = plain(*[calm] * 20)
    verdict = verifier().judge(guilty, pool, plain(calm, guilty, calm))
    assert (verdict.false_claims, verdict.innocents) == (1, 3)
    assert verdict.false_claims_upper == upper_bound(1, 3, 0.95)


def test_scores_by_groups_thresholds_and_flags_by_hand():
    scores = torch.tensor([1.0, 3.0, 5.0, 7.0, 100.0])
    assert group_means(scores, 1).tolist() == scores.tolist()
    assert group_means(scores, 2).tolist() == [2.0, 6.0]
    assert flag_rate(scores, 5.0, 1) == pytest.approx(2 / 5)  # 5 itself is not above
    assert flag_rate(scores, 2.0, 2) == pytest.approx(1 / 2)
    # A quarter of 1, 3, 5, 7, 100 is above the fourth.
    assert threshold([scores[:2], scores[2:]], 0.25, 1) == 7.0
    assert threshold([torch.arange(100.0)], 0.01, 1) == 99.0
    assert math.isnan(threshold([], 0.01, 1))


@given(st.lists(st.lists(st.floats(-9, 9), min_size=1), min_size=1), st.floats(0.01, 0.99))
def test_a_threshold_leaves_no_more_than_it_says_above_it(pools, false_flags):
    scores = [torch.tensor(pool, dtype=torch.float64) for pool in pools]
    above = threshold(scores, false_flags, 1)
    assert flag_rate(torch.cat(scores), above, 1) <= false_flags
    assert above in torch.cat(scores)


def scored(*scores: float) -> Evidence:
    return Evidence(torch.tensor(scores), {"direction": Direction(0.0, 9)})


def test_balanced_accuracy_by_hand():
    calibration = plain(scored(*map(float, range(100))))
    suspect = scored(99.5, 99.5, 99.5, 0.0)
    innocents = plain(scored(0.0, 100.0), scored(*[0.0] * 8))
    # The threshold is 99: 3 of 4 hits; innocents' false rates are 1/2 and 0, 1/4 on average.
    verdict = verifier().judge(suspect, calibration, innocents)
    assert verdict.watermark_accuracy == pytest.approx((0.75 + 0.75) / 2)
    assert verdict.watermark_accuracy_of_10 is None
    for pools in ((calibration, []), ([], innocents), ([], [])):
        assert verifier().judge(suspect, *pools).watermark_accuracy is None


def test_balanced_accuracy_of_ten_probes_by_hand():
    # Ten tens with the means 0, 10, ..., 90, and 5 left over: the threshold is 90.
    calibration = plain(scored(*(10.0 * (n // 10) for n in range(100)), *[999.0] * 5))
    suspect = scored(*[0.0] * 9, 901.0, *[90.0] * 10)
    innocents = plain(scored(*[91.0] * 20), scored(*[0.0] * 10), scored(*[0.0] * 20))
    verdict = verifier().judge(suspect, calibration, innocents)
    assert verdict.watermark_accuracy_of_10 == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_an_evaluation_innocents_threshold_is_set_without_its_own_kind():
    calibration = [
        Innocent("plain", scored(*map(float, range(100)))),
        Innocent("smoothed", scored(*map(float, range(100, 200)))),
    ]
    # All 0..199: 198. Without smoothed ones 99, without plain ones 199.
    evaluation = [
        Innocent("smoothed", scored(99.5, 150.0, 0.0, 99.0)),  # 2 of 4
        Innocent("plain", scored(198.5, 0.0)),  # none
        Innocent("vgg11", scored(198.5, 0.0, 0.0, 198.0)),  # 1 of 4
        Innocent("smoothed", scored(0.0)),  # none
    ]
    suspect = scored(198.5, 198.5, 198.5, 198.0)
    verdict = verifier().judge(suspect, calibration, evaluation)
    false = (2 / 4 + 0 + 1 / 4 + 0) / 4
    assert verdict.watermark_accuracy == pytest.approx((3 / 4 + 1 - false) / 2)
    assert verdict.by_kind == {
        "smoothed": {"innocents": 2, "false_flags": 1 / 4, "false_claims": 0},
        "plain": {"innocents": 1, "false_flags": 0.0, "false_claims": 0},
        "vgg11": {"innocents": 1, "false_flags": 1 / 4, "false_claims": 0},
    }
    assert list(verdict.by_kind) == ["smoothed", "plain", "vgg11"]


def test_innocents_of_one_kind_alone_are_better_than_none():
    calibration = plain(scored(*map(float, range(100))))
    verdict = verifier().judge(scored(99.5), calibration, plain(scored(99.5, 0.0)))
    assert verdict.by_kind["plain"]["false_flags"] == 1 / 2
    assert verdict.watermark_accuracy == pytest.approx((1 + 1 / 2) / 2)


def test_false_claims_are_told_by_kind():
    calm, guilty = measured(a=("exact", 1.0)), measured(a=("exact", 0.0))
    evaluation = [
        Innocent(kind, each)
        for kind, each in (("a", calm), ("b", guilty), ("a", guilty), ("b", guilty), ("c", NOTHING))
    ]
    verdict = verifier().judge(guilty, [], evaluation)
    told = {name: (k["innocents"], k["false_claims"]) for name, k in verdict.by_kind.items()}
    assert told == {"a": (2, 1), "b": (2, 2)}
    assert (verdict.false_claims, verdict.innocents, verdict.skipped) == (3, 4, 1)
    assert verdict.watermark_accuracy is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"probes": 0},
        {"probes": -5},
        {"messages": [""]},
        {"messages": ["a", "a"]},
        {"keys_tried": 0},
        {"keys_tried": -1},
        {"keys_tried": math.nan},
        {"false_flags": 1.5},
        {"false_flags": math.nan},
        {"usable": 0.0},
        {"usable": 1.0},
        {"levels": {**LEVELS, "exact": 0.0}},
        {"levels": {**LEVELS, "sampled": 1.0}},
        {"levels": {"exact": 1e-6, "sampled": 1e-3}},
        {"levels": {**LEVELS, "signs": 1e-6}},
        {"levels": {"signs": 0.0}},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(InputError, match=rf"verifier\.{next(iter(wrong))}"):
        verifier(**wrong)


def test_the_terms_are_what_decides_a_claim():
    terms = verifier(probes=7, inputs="noise", usable=0.9).terms
    assert terms == {"probes": 7, "inputs": "noise", "levels": LEVELS, "usable": 0.9}
    # What follows a verdict, or depends on the suspect, isn't known when a key is made.
    others = verifier(probes=7, inputs="noise", usable=0.9, messages=["a"], keys_tried=3)
    assert others.terms == terms


# --- which message ----------------------------------------------------------------------------


def signs(agreeing: int) -> Signs:
    return Signs(torch.ones(90), torch.where(torch.arange(90) < agreeing, 1.0, -1.0))


def test_a_message_is_named_with_p_corrected_for_their_number():
    named = verifier().identify({"a": signs(50), "b": signs(85), "c": signs(44)})
    assert named.name == "b"
    assert named.p_value == nearly(3 * signs(85).p_value())
    assert named.p_values == nearly(
        {"a": min(1, 3 * signs(50).p_value()), "b": named.p_value, "c": 1.0}
    )


def test_nobody_is_named_on_weak_evidence():
    named = verifier().identify({"a": signs(55), "b": signs(48)})
    assert named.name is None
    assert verifier().identify({}) is None


def test_more_registered_messages_need_stronger_evidence():
    level = verifier().levels["exact"]
    enough = next(n for n in range(46, 91) if signs(n).p_value() <= level)
    assert verifier().identify({"a": signs(enough)}).name == "a"
    many = {"a": signs(enough)} | {f"other-{i}": signs(45) for i in range(10**3)}
    assert verifier().identify(many).name is None


def test_each_message_is_held_to_the_level_of_its_tests_kind():
    just = {"exact": 4e-4, "sampled": 4e-4}
    for kind, p in just.items():
        named = verifier().identify({"a": Measured(kind, 0.0, p), "b": Measured(kind, 0.0, 1.0)})
        assert named.name == ("a" if kind == "sampled" else None)
        assert named.p_value == nearly(2 * p)


# --- what a method is shown -------------------------------------------------------------------


PICTURES = Samples(
    torch.arange(12, dtype=torch.uint8).reshape(12, 1, 1, 1).expand(12, 1, 8, 8).contiguous(),
    torch.zeros(12, dtype=torch.int64),
)
TOLD = torch.tensor([[0.5, 0.3, 0.2]]) + torch.arange(12.0)[:, None] / 100 * torch.tensor(
    [[1.0, -1.0, 0.0]]
)
ASKED_FOR = SimpleNamespace(classes=3)


def answering(rows: torch.Tensor, **more) -> Suspect:
    """Answers each picture with the row of its number."""
    return Suspect(lambda images: rows[images[:, 0, 0, 0].long()], **more)


class Curious(Watermark):
    """Looks at all it is shown and finds what it is told to."""

    def __init__(self, needs="probabilities", **tests):
        self.needs = needs
        self.tests = tests or {"bits": Binomial(3, 3, 0.5)}
        self.seen = []

    def evidence(self, suspect, key, probes):
        self.seen.append((suspect, key, probes))
        return Evidence(torch.zeros(len(probes)), self.tests, "looked", 0.5)


def asked(method, suspect, probes=PICTURES, pool=PICTURES, **changed):
    return verifier(**changed).ask(method, suspect, ASKED_FOR, probes, pool)


def test_a_method_gets_the_key_the_probes_and_its_evidence_is_handed_on():
    method, probes = Curious(), PICTURES[:]
    found = verifier().ask(method, answering(TOLD), ASKED_FOR, probes, PICTURES)
    ((_, key, given_probes),) = method.seen
    assert key is ASKED_FOR
    assert given_probes is probes
    assert (found.why, found.mark_recall, found.unusable) == ("looked", 0.5, 0)
    assert found.tests == method.tests
    assert len(found.scores) == 12


def test_a_method_that_needs_probabilities_sees_no_network():
    method, network, log = Curious(), nn.Identity(), PICTURES[:2]
    asked(method, answering(TOLD, network=network, log=log))
    seen = method.seen[0][0]
    assert seen.network is None
    assert seen.log is log
    torch.testing.assert_close(seen.answers(PICTURES), TOLD)
    torch.testing.assert_close(seen.answer(PICTURES.inputs[:5]), TOLD[:5])
    assert not any(isinstance(value, nn.Module) for value in vars(seen).values())


def test_a_method_that_needs_labels_sees_nothing_else():
    method = Curious("labels")
    rows = torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.3, 0.3]]).repeat(6, 1)
    asked(method, answering(rows, network=nn.Identity()))
    seen = method.seen[0][0]
    hot = F.one_hot(rows.argmax(1), 3).float()
    assert seen.network is None
    assert torch.equal(seen.answers(PICTURES), hot)
    assert torch.equal(seen.answer(PICTURES.inputs[3:]), hot[3:])
    assert all(torch.equal(kept, hot) for kept in seen._answers.values())


def test_a_method_that_needs_weights_sees_them_or_finds_nothing():
    method, network = Curious("weights"), nn.Identity()
    assert asked(method, answering(TOLD, network=network)).tests
    assert method.seen[0][0].network is network
    found = asked(method, answering(TOLD))
    assert not found.tests
    assert "weights" in found.why
    assert len(method.seen) == 1


@pytest.mark.parametrize("needs", ["weights", "probabilities", "labels"])
def test_no_method_sees_an_answer_that_is_no_probability(needs):
    rows = TOLD.clone()
    rows[2] = math.nan
    rows[3] = torch.tensor([0.0, 7.0, 0.0])
    method = Curious(needs)
    found = asked(method, answering(rows, network=nn.Identity()))
    assert found.unusable == 2
    seen = method.seen[0][0]
    for told in (seen.answers(PICTURES), seen.answer(PICTURES.inputs), seen.answers(PICTURES[2:4])):
        assert told.isfinite().all()
        torch.testing.assert_close(told.sum(1), torch.ones(len(told)))
    if needs != "labels":
        torch.testing.assert_close(seen.answers(PICTURES[2:4]), torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("shape", [(12, 4), (12, 2), (11, 3), (24, 3), (12,), (12, 3, 1), (0, 3)])
def test_answers_of_another_shape_are_refused(shape):
    method = Curious()
    found = asked(method, Suspect(lambda images: torch.full(shape, 1 / 3)))
    assert not found.tests
    assert str(shape) in found.why
    assert "(12, 3)" in found.why
    assert not method.seen
    assert not verifier().judge(found, [], []).claimed


KEYED = {
    "signs": Signs(torch.ones(30), torch.ones(30)),
    "direction": Direction(0.99, 70),
    "bits": Binomial(30, 30, 0.5),
    "again": Sampled(1.0, torch.zeros(9)),
    "flags": Innocents(1.0),
}
CHOSEN = {
    "reordered": PICTURES[torch.arange(11, -1, -1)],
    "fewer, not the first": PICTURES[1:],
    "doubled": PICTURES[torch.arange(12).repeat(2)],
    "relabelled": Samples(PICTURES.inputs, PICTURES.labels + 1),
    "one repeated": PICTURES[torch.tensor([*range(11), 0])],
}


@pytest.mark.parametrize("name", KEYED)
@pytest.mark.parametrize("how", CHOSEN)
def test_a_key_that_chose_its_probes_rules_out_what_is_exact_only_without(name, how):
    found = asked(Curious(**{name: KEYED[name]}), answering(TOLD), CHOSEN[how])
    assert bool(found.tests) == (name not in ("signs", "direction"))
    if not found.tests:
        assert name in found.why
        assert not verifier().judge(found, [], []).claimed
    # The pool's own, and its beginning, were chosen by nobody.
    for probes in (PICTURES, PICTURES[:5]):
        assert asked(Curious(**{name: KEYED[name]}), answering(TOLD), probes).tests


def test_one_test_that_is_ruled_out_leaves_none():
    both = {"bits": KEYED["bits"], "signs": KEYED["signs"]}
    assert asked(Curious(**both), answering(TOLD), PICTURES[1:]).tests == {}


@pytest.mark.parametrize("percent", range(5, 100, 5))
def test_no_verdict_stands_on_fewer_answers_than_the_terms_ask_for(percent):
    pool = Samples(torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1), torch.zeros(40).long())
    for unusable in range(41):
        rows = torch.full((40, 3), 1 / 3)
        rows[torch.randperm(40)[:unusable]] = math.inf
        method = Curious()
        found = asked(method, answering(rows), pool, pool, usable=percent / 100)
        enough = Fraction(40 - unusable, 40) >= Fraction(percent, 100)
        assert bool(found.tests) == bool(method.seen) == enough
        assert found.unusable == unusable
        if not enough:
            assert f"{unusable} of 40 answers" in found.why
        verdict = verifier().judge(found, [], [])
        assert (verdict.unusable, verdict.p_value is None) == (unusable, not enough)


def test_the_answers_of_a_suspect_are_asked_for_once():
    counted = []

    def answer(images):
        counted.append(len(images))
        return TOLD[: len(images)]

    suspect = Suspect(answer)
    for _ in range(3):
        method = Curious()
        asked(method, suspect)
        method.seen[0][0].answers(PICTURES)
    assert counted == [12]
