"""Answers that an interface rounds, cuts, scales or spoils: what still counts, and what never does.

The judge asks real methods with real keys; nothing is trained, since a mark is what answers show.
"""

import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers import nearly
from helpers.soft_labels import answers, drawn, exact, skewed, soft, told
from helpers.verification import verifier
from softmark.data.roles import Samples
from softmark.methods.csp import CSP
from softmark.methods.usp import USP
from softmark.models.access import Suspect
from softmark.verification.evidence import SUMS, Evidence, usable

KINDS = (CSP, USP)
COUNT, CLASSES = 400, 10
POOL = Samples(
    torch.arange(COUNT, dtype=torch.int16).view(torch.uint8).reshape(COUNT, 1, 1, 2),
    torch.zeros(COUNT, dtype=torch.int64),
)
USUAL = skewed(COUNT, CLASSES, 99)


def rounded(p: torch.Tensor, digits: int) -> torch.Tensor:
    return (p * 10**digits).round() / 10**digits


def likeliest(p: torch.Tensor, count: int) -> torch.Tensor:
    """The ``count`` largest entries of each row alone, the others 0."""
    top = p.topk(count, dim=1)
    return torch.zeros_like(p).scatter(1, top.indices, top.values)


# --- what is a probability --------------------------------------------------------------------


def test_what_is_a_probability_stays_as_it_is():
    p = answers(50, 7)
    clean, unusable = usable(p)
    torch.testing.assert_close(clean, p)
    assert unusable == 0


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([0.33, 0.33, 0.33], [1 / 3] * 3),  # two digits
        ([0.7, 0.2, 0.2], [7 / 11, 2 / 11, 2 / 11]),  # one digit
        ([0.6, 0.0, 0.0], [1.0, 0.0, 0.0]),  # the likeliest alone
        ([0.5, 0.0, -0.0], [1.0, 0.0, 0.0]),
        ([0.25, 0.125, 0.125], [0.5, 0.25, 0.25]),  # half of it is told
        ([0.75, 0.5, 0.25], [0.5, 1 / 3, 1 / 6]),  # half too much
        ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([1, 0, 0], [1.0, 0.0, 0.0]),  # whole numbers
    ],
)
def test_what_is_nearly_a_probability_is_made_one(row, expected):
    clean, unusable = usable(torch.tensor([row]))
    torch.testing.assert_close(clean, torch.tensor([expected]))
    assert unusable == 0


@pytest.mark.parametrize(
    "row",
    [
        [math.nan, 0.5, 0.5],
        [math.inf, 0.0, 0.0],
        [-math.inf, 0.5, 0.5],
        [math.inf, -math.inf, 1.0],
        [1.2, -0.1, -0.1],
        [1.0, 1e-9, -1e-9],
        [0.0, 0.0, 0.0],
        [0.25, 0.125, 0.0625],  # less than half is told
        [0.75, 0.5, 0.5],
        [0.75, 0.5, 0.3],
        [70.0, 20.0, 10.0],  # per cent
        [3.0, -1.0, -2.0],  # logits
        [-0.1, -1.2, -2.3],  # log-probabilities
        [1e38, 1e38, 1e38],
        [1e-45, 0.0, 0.0],
    ],
    ids=str,
)
def test_what_is_no_probability_becomes_no_evidence_and_is_counted(row):
    good = [0.5, 0.3, 0.2]
    clean, unusable = usable(torch.tensor([good, row, good]))
    torch.testing.assert_close(clean, torch.tensor([good, [1 / 3] * 3, good]))
    assert unusable == 1


NUMBERS = st.one_of(
    st.floats(0, 1, width=32),
    st.floats(width=32),
    st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 0.5, 1.0, 1.5]),
)


@given(st.integers(2, 6).flatmap(lambda k: st.lists(st.lists(NUMBERS, min_size=k, max_size=k))))
@example([[0.5, 0.0]])
@example([[1.5, 0.0]])
def test_whatever_is_answered_comes_out_as_probabilities(rows):
    assume(rows)
    answered = torch.tensor(rows)
    clean, unusable = usable(answered)
    assert clean.shape == answered.shape
    assert clean.isfinite().all()
    assert ((clean >= 0) & (clean <= 1 + 1e-6)).all()
    torch.testing.assert_close(clean.sum(1), torch.ones(len(rows)))
    told = 0
    for row, result in zip(answered.tolist(), clean, strict=True):
        good = all(math.isfinite(x) and x >= 0 for x in row) and SUMS[0] <= sum(row) <= SUMS[1]
        if good:
            torch.testing.assert_close(result, torch.tensor(row) / sum(row))
        else:
            assert (result == 1 / len(row)).all()
            told += 1
    assert unusable == told
    again, none = usable(clean)
    torch.testing.assert_close(again, clean)
    assert none == 0


@given(st.integers(2, 6).flatmap(lambda k: st.lists(st.lists(NUMBERS, min_size=k, max_size=k))))
def test_no_row_and_no_class_is_treated_as_another(rows):
    assume(rows)
    answered = torch.tensor(rows)
    clean, unusable = usable(answered)
    alone = [usable(row[None]) for row in answered]
    assert torch.equal(torch.cat([row for row, _ in alone]), clean)
    assert sum(count for _, count in alone) == unusable
    columns = torch.arange(answered.shape[1]).flip(0)
    torch.testing.assert_close(usable(answered[:, columns])[0], clean[:, columns])


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_rounding_keeps_the_order_of_what_it_tells_apart(digits):
    p = answers(300, CLASSES)
    clean, unusable = usable(rounded(p, digits))
    told = rounded(p, digits).sum(1)
    assert unusable == ((told < 0.5) | (told > 1.5)).sum() <= 3
    kept = (told >= 0.5) & (told <= 1.5)
    torch.testing.assert_close(clean[kept], rounded(p, digits)[kept] / told[kept, None])


def test_the_three_likeliest_classes_are_enough_where_they_are_likely():
    p = answers(300, CLASSES)
    clean, unusable = usable(likeliest(p, 3))
    told = p.topk(3).values.sum(1)
    assert unusable == (told < 0.5).sum()
    for row, before, share in zip(clean, p, told, strict=True):
        if share >= 0.5:
            assert sorted(row.nonzero().flatten()) == sorted(before.topk(3).indices)
            torch.testing.assert_close(row[before.argmax()], before.max() / share)
        else:
            assert (row == 1 / CLASSES).all()


@pytest.mark.parametrize("factor", [0.51, 0.9, 1.1, 1.49])
def test_answers_that_are_a_little_too_large_or_small_are_the_same(factor):
    p = answers(300, CLASSES)
    clean, unusable = usable(p * factor)
    torch.testing.assert_close(clean, p)
    assert unusable == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_of_the_numbers_says_nothing(dtype):
    p = answers(300, CLASSES)
    clean, unusable = usable(p.to(dtype))
    # Of a network's logits, whose tails float32 would take for 0, nothing is rounded.
    assert clean.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(clean.float(), p, atol=0.01, rtol=0)
    assert unusable == 0


def test_whole_numbers_are_labels_or_no_evidence():
    clean, unusable = usable(torch.tensor([[1, 0, 0], [7, 2, 1], [0, 0, 1]]))
    expected = torch.tensor([[1.0, 0.0, 0.0], [1 / 3] * 3, [0.0, 0.0, 1.0]])
    torch.testing.assert_close(clean, expected)
    assert unusable == 1


# --- the judge --------------------------------------------------------------------------------


def asked(kind, key, p: torch.Tensor) -> Evidence:
    """What the judge finds where POOL is answered by ``p``, a row each."""
    return verifier().ask(soft(kind), Suspect(lambda images: p), key, POOL, POOL)


def claim(kind, key, p: torch.Tensor):
    return verifier().judge(asked(kind, key, p), [], [])


def knowing(kind, seed: int = 0, usual=USUAL):
    """A new key that knows what the unmarked model answers, ``usual``."""
    return told(kind, drawn(kind, CLASSES, seed), usual)


def marked(kind, seed: int):
    """A key, and random answers with its pattern added; each tail is a third of the whole or so."""
    key = knowing(kind, seed)
    logits = torch.randn(COUNT, CLASSES, generator=torch.manual_seed(seed))
    top = torch.randint(CLASSES, (COUNT,))
    logits = logits + 1.5 * soft(kind).pattern(key)[top]
    top_logit = logits.logsumexp(1, keepdim=True) + 0.7
    return key, logits.scatter(1, top[:, None], top_logit).softmax(1)


SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(SEEDS)
def test_a_mark_outlives_rounding_to_two_digits(kind, seed):
    key, p = marked(kind, seed)
    whole, round_two = claim(kind, key, p), claim(kind, key, rounded(p, 2))
    assert whole.claimed
    assert whole.p_value < 1e-12
    assert round_two.claimed
    assert round_two.p_value < 1e-10
    assert round_two.unusable == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("spoil", "below"),
    [
        (lambda p: rounded(p, 1), 1e-6),
        (lambda p: likeliest(p, 4), 1e-6),
        (lambda p: p * 0.6, 1e-12),
        (lambda p: p * 1.4, 1e-12),
        (lambda p: p.to(torch.float16), 1e-12),
        (lambda p: p.double(), 1e-12),
        (lambda p: (p.log() / 4).softmax(1), 1e-12),
        (lambda p: (p.log() * 3).softmax(1), 1e-12),
    ],
    ids=["one digit", "four likeliest", "small", "large", "half", "double", "hot", "cold"],
)
def test_a_mark_outlives_other_interfaces(kind, spoil, below):
    key, p = marked(kind, 3)
    verdict = claim(kind, key, spoil(p))
    assert verdict.claimed
    assert verdict.p_value < below
    assert verdict.unusable <= COUNT // 20
    assert asked(kind, key, spoil(p)).scores.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(SEEDS, st.sampled_from([math.nan, math.inf, -1.0, 7.0]))
def test_a_verdict_is_honest_while_most_answers_can_be_used(kind, seed, spoilt):
    key, p = marked(kind, seed)
    p[torch.randperm(COUNT)[: COUNT * 2 // 5]] = spoilt
    verdict = claim(kind, key, p)
    assert verdict.unusable == COUNT * 2 // 5
    assert verdict.claimed
    assert verdict.p_value < 1e-6
    assert not verdict.why


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spoilt", [math.nan, math.inf, -1.0, 7.0, 0.0])
def test_without_most_of_the_answers_there_is_no_verdict(kind, spoilt):
    key, p = marked(kind, 0)
    p[torch.randperm(COUNT)[: COUNT * 3 // 5]] = spoilt
    verdict = claim(kind, key, p)
    assert (verdict.p_value, verdict.null, verdict.claimed) == (None, None, False)
    assert verdict.unusable == COUNT * 3 // 5
    assert verdict.why == "240 of 400 answers are no probabilities"


@pytest.mark.parametrize("kind", KINDS)
def test_answers_that_cannot_be_used_are_evidence_for_no_key(kind):
    """The exact test is that of the other answers alone."""
    key, p = marked(kind, 0)
    spoilt = torch.arange(COUNT) % 3 == 0
    p[spoilt] = math.nan
    (found,) = asked(kind, key, p).tests.values()
    alone = exact(kind, p[~spoilt], key, POOL.labels[~spoilt])[1]
    assert found.score == pytest.approx(alone.score, abs=1e-5)
    assert found.p_value() == nearly(alone.p_value(), rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_attacker_who_spoils_answers_loses_evidence_and_makes_none(kind):
    """Whichever are spoilt is chosen without the key, so that unmarked answers stay unmarked."""
    key, p = knowing(kind), skewed(COUNT, CLASSES, 1)
    for chosen in (p.argmax(1) == 0, p.max(1).values > 0.9, p[:, 3] > p[:, 4]):
        told = p.clone()
        told[chosen] = math.inf
        assert not claim(kind, key, told).claimed


UNMARKED = {
    "as they are": lambda p, order: p,
    "columns permuted": lambda p, order: p[:, torch.randperm(CLASSES)],
    "rows shuffled": lambda p, order: p[order],
    "rows shuffled within columns": lambda p, order: p.gather(0, torch.rand_like(p).argsort(0)),
    "a little too small": lambda p, order: 0.7 * p,
    "per cent": lambda p, order: 100 * p,
    "rounded": lambda p, order: rounded(p, 2),
    "one digit": lambda p, order: rounded(p, 1),
    "three likeliest": lambda p, order: likeliest(p, 3),
    "logarithms": lambda p, order: p.log(),
    "turned": lambda p, order: (-p.log()).softmax(1),
    "hot": lambda p, order: (p.log() / 9).softmax(1),
    "labels": lambda p, order: F.one_hot(p.argmax(1), CLASSES).float(),
    "partly nan": lambda p, order: torch.where(order[:, None] < 100, math.nan, p),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", UNMARKED)
@settings(max_examples=8)
@given(SEEDS, st.booleans(), st.booleans())
def test_answers_that_are_unmarked_are_never_claimed(kind, how, seed, known, plain):
    key = knowing(kind, seed + 1, USUAL if known else None)
    p = answers(COUNT, CLASSES, seed) if plain else skewed(COUNT, CLASSES, seed)
    spoilt = UNMARKED[how](p, torch.randperm(COUNT))
    assert not claim(kind, key, spoilt).claimed


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(SEEDS)
def test_a_mark_is_gone_where_its_columns_are_permuted_or_its_tails_shuffled(kind, seed):
    key, p = marked(kind, seed)
    turned = p.roll(1, dims=1)
    assert claim(kind, key, p).claimed
    assert not claim(kind, key, turned).claimed
    top = F.one_hot(p.argmax(1), CLASSES).bool()
    place, values = (torch.rand_like(p).masked_fill(top, -1).argsort(1) for _ in range(2))
    assert not claim(kind, key, torch.empty_like(p).scatter(1, place, p.gather(1, values))).claimed


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=5)
@given(SEEDS)
def test_the_order_of_the_rows_changes_nothing(kind, seed):
    key, p = marked(kind, seed)
    first = claim(kind, key, p).p_value
    again = claim(kind, key, p[torch.randperm(COUNT)]).p_value
    assert again == nearly(first, rel=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "row",
    [
        [1 / CLASSES] * CLASSES,
        [1.0] + [0.0] * 9,
        [0.5, 0.5] + [0.0] * 8,
        [0.1 * (n == 3) + 0.9 * (n == 4) for n in range(CLASSES)],
        [(n + 1) / 55 for n in range(CLASSES)],
        [math.nan] * CLASSES,
        [0.0] * CLASSES,
    ],
    ids=["flat", "sure", "two", "near", "steps", "nan", "zero"],
)
def test_one_answer_to_everything_is_never_claimed(kind, row):
    p = torch.tensor([row]).expand(COUNT, CLASSES).contiguous()
    for usual in (None, USUAL, usable(p)[0]):
        for seed in range(5):
            verdict = claim(kind, knowing(kind, seed, usual), p)
            assert not verdict.claimed
            assert verdict.p_value is None or 0 < verdict.p_value <= 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [1, 9, 11])
def test_a_key_for_another_number_of_classes_gives_no_evidence(kind, classes):
    found = asked(kind, drawn(kind, CLASSES), torch.full((COUNT, classes), 1 / classes))
    assert found.tests == {}
    assert found.why == f"the suspect answers (400, {classes}), not (400, 10)"


@pytest.mark.parametrize("kind", KINDS)
def test_no_message_is_named_on_answers_that_are_no_probabilities(kind):
    key, _ = marked(kind, 0)
    spoilt, _ = usable(torch.full((COUNT, CLASSES), math.nan))
    tests = soft(kind).identify(Suspect(lambda images: spoilt), key, POOL, ["customer", "other"])
    assert [test.p_value() for test in tests.values()] == [1.0, 1.0]
    assert verifier().identify(tests).name is None
