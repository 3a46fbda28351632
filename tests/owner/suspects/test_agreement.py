"""What a verdict says of a suspect that was asked or read wrongly."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

import softmark
from softmark.owner.suspects.agreement import Agreement, agreement_of, other_columns

CLASSES, COUNT = 12, 240
LABELS = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(1))


@functools.cache
def pictures() -> Tensor:
    """Each class is a grey of its own."""
    return (20 * LABELS + 10).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()


@functools.cache
def key() -> softmark.Key:
    return softmark.new_key("licence 7", CLASSES, (pictures(), LABELS))


@functools.cache
def answers() -> Tensor:
    """Right on nine of ten, with tails of their own."""
    logits = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(0))
    logits[torch.arange(COUNT), LABELS] += 6
    return logits.softmax(1)


class Grey(nn.Module):
    """Says the class of a grey from 0 to 1."""

    def forward(self, inputs: Tensor) -> Tensor:
        grey = inputs.float().flatten(1).mean(1, keepdim=True) * 255
        return -((grey - 20 * torch.arange(CLASSES) - 10) ** 2) / 50


def verdict_on(suspect, **options) -> softmark.Verdict:
    return softmark.verify(suspect, key(), pictures(), **options)


def test_the_agreement_is_always_told():
    verdict = verdict_on(answers())
    assert verdict.outcome == "not claimed"
    assert verdict.agreement == float((answers().argmax(1) == LABELS).float().mean())
    assert verdict.agreement > 0.9
    assert "no verdict" not in verdict.why


def scaled_twice() -> Tensor:
    """One class, nearly always, with other numbers for each probe."""
    biased = answers().log()
    biased[:, 3] += 40
    return biased.softmax(1)


def as_text() -> Tensor:
    return answers()[:, sorted(range(CLASSES), key=str)]


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        (lambda: answers().sort(1, descending=True).values, "sorted by score"),
        (lambda: answers()[:1] + answers() / 1e3, "nearly always: were the probes read?"),
        (as_text, "sorted as text (0, 1, 10, 11, 2)"),
        (
            lambda: answers()[:, torch.tensor(sorted(range(1, 13), key=str)) - 1],
            "from 1 on sorted as text",
        ),
        (lambda: answers().roll(1, 1), "one column further on"),
        (lambda: answers()[:, torch.arange(CLASSES).mul(5) % CLASSES], "another order of the clas"),
        (lambda: answers().roll(1, 0), "rows in another order"),
        (lambda: scaled_twice(), "the probes read? If so, inputs in another range"),
        (lambda: (torch.randn(COUNT, CLASSES) * 80).softmax(1), "inputs in another range"),
        (lambda: torch.rand(COUNT, CLASSES).softmax(1), "another task"),
    ],
)
def test_answers_that_do_not_fit_the_task_are_no_verdict_and_the_cause_is_named(given, cause):
    verdict = verdict_on(given())
    assert (verdict.outcome, verdict.claimed, verdict.p_value) == ("no verdict", False, None)
    assert verdict.why.startswith("no verdict: it doesn't answer this task as asked, it agrees ")
    assert cause in verdict.why
    assert verdict.agreement < 0.5


def test_the_cause_that_fits_best_is_named():
    """Of ten classes one column further on, eight are where text order has them, too."""
    labels = LABELS % 10
    further_on = nn.functional.one_hot(labels, 10).float().roll(1, 1)
    assert "one column further on" in other_columns(further_on, labels)


@pytest.mark.parametrize("suspect", ["http://host:8080", nn, object()])
def test_what_is_no_suspect_is_told_what_one_is(suspect):
    with pytest.raises(softmark.InputError, match=r"suspect is a \w+: .*softmark.Endpoint"):
        verdict_on(suspect)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_module_is_given_floats_in_the_type_of_its_weights(dtype):
    class Typed(Grey):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([[255.0]], dtype=dtype))

        def forward(self, inputs):
            grey = nn.functional.linear(inputs.flatten(1)[:, :1], self.scale)
            return super().forward(grey.float()[:, :, None, None] / 255)

    assert verdict_on(Typed()).agreement > 0.9


def test_a_function_is_given_what_a_module_is_given():
    module = verdict_on(Grey())
    # The numbers of a function count as they are; of a module the logits do.
    function = verdict_on(lambda inputs: (Grey()(inputs) / 100).softmax(1))
    assert (module.agreement, module.p_value) == (function.agreement, function.p_value)
    assert module.agreement == 1.0


def test_bytes_are_given_to_a_function_that_wants_them():
    def takes_bytes(inputs):
        assert inputs.dtype == torch.uint8
        return Grey()(inputs.float() / 255).softmax(1)

    assert verdict_on(takes_bytes, raw=True).agreement == 1.0
    wrong = verdict_on(lambda inputs: Grey()(inputs).softmax(1), raw=True)
    assert wrong.outcome == "no verdict"
    scaled_twice = verdict_on(lambda inputs: Grey()(inputs / 255).softmax(1))
    assert "answers class 0 nearly always" in scaled_twice.why


def test_a_function_is_asked_in_batches(monkeypatch):
    sizes = []

    def suspect(inputs):
        sizes.append(len(inputs))
        return Grey()(inputs).softmax(1)

    monkeypatch.setattr("softmark.owner.suspects.query.split_to_ask", lambda x: x.split(100))
    assert verdict_on(suspect).agreement == 1.0
    assert sizes == [100, 100, 40, 8]


def test_a_certain_suspect_is_said_to_show_no_tail():
    certain = (answers().log() * 10).softmax(1)
    verdict = verdict_on(certain)
    assert verdict.outcome == "not claimed"
    assert "most answers are certain" in verdict.why


def test_a_key_without_labels_says_that_the_task_is_not_checked():
    unlabelled = softmark.new_key("a", CLASSES, pictures())
    verdict = softmark.verify(answers(), unlabelled, pictures())
    assert verdict.agreement is None
    assert "has no labels of the probes" in verdict.why


def test_an_independent_model_of_a_hard_task_answers_it():
    """Two models that are right on half, each by itself, agree on a quarter."""
    torch.manual_seed(0)
    labels = torch.randint(10, (1000,))
    right = torch.rand(2, 1000) < 0.45
    first, second = torch.where(right, labels, torch.randint(10, (2, 1000)))
    probs = 0.5 * nn.functional.one_hot(second, 10) + 0.05
    assert agreement_of(probs, first).answers_task
    assert not agreement_of(probs.roll(1, 0), first).answers_task


@pytest.mark.parametrize(
    ("share", "by_chance", "confidence", "answers_task"),
    [
        (0.27, 0.1, 0.61, True),  # independent, of 100 pictures of CIFAR-10: the least measured
        (0.46, 0.1, None, True),  # labels alone
        (0.30, 0.1, 0.55, True),  # pruned
        (0.21, 0.1, 0.58, False),  # columns permuted, one of which stays
        (0.12, 0.1, 0.30, False),  # another task
    ],
)
def test_what_was_measured_is_told_apart(share, by_chance, confidence, answers_task):
    assert Agreement(share, by_chance, confidence).answers_task is answers_task


def test_few_agreements_of_a_sure_suspect_are_told():
    probs = answers().clone()
    probs[: COUNT // 2] = probs[: COUNT // 2].roll(1, 0)
    verdict = verdict_on(probs)
    assert (verdict.outcome, round(verdict.agreement, 1)) == ("not claimed", 0.5)
    assert "it agrees with the unmarked model on 5" in verdict.why


def test_answers_that_name_their_classes_are_the_same_answers():
    names = [f"breed {place}" for place in "abcdefghijkl"]
    by_name = [
        [
            {"label": names[place], "score": float(row[place])}
            for place in row.argsort(descending=True)
        ]
        for row in answers()
    ]
    named = verdict_on(by_name, class_names=names)
    assert named.p_value == verdict_on(answers()).p_value
    numbered = [{f"LABEL_{place}": float(p) for place, p in enumerate(row)} for row in answers()]
    assert verdict_on(numbered).p_value == named.p_value
    labels = [names[place] for place in answers().argmax(1)]
    assert verdict_on(labels, class_names=names).agreement == named.agreement
    with pytest.raises(softmark.InputError, match=r"the classes have names.*class_names="):
        verdict_on(by_name)
