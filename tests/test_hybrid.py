"""A mark in the soft labels and a trigger set in one model: two exact tests of one key."""

import functools
from random import Random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods import csp, usp
from softmark.methods.csp import CSP
from softmark.methods.hybrid import Hybrid
from softmark.methods.key import Key
from softmark.methods.usp import USP
from softmark.models.access import Suspect
from softmark.training import predict
from softmark.verification.nulls import Binomial
from test_soft_labels import soft
from test_training import recipe
from test_triggers import CLASSES, embedded, judge, method, victim

MARKING = {
    "eps": 0.1,
    "gamma": 1.5,
    "beta": 0.5,
    "margin": 4.0,
    "feature_weight": 1.0,
    "feature_cosine": 0.9,
    "teacher_weight": 0.5,
    "teacher_temperature": 2.0,
}
KINDS = {
    "usp": (USP, functools.partial(usp.Marking, detector_weight=0.1, **MARKING)),
    "csp": (CSP, functools.partial(csp.Marking, **MARKING)),
}


def hybrid(name: str = "csp", share: float = 0.1) -> Hybrid:
    kind, marking = KINDS[name]
    made = soft(kind, marking=marking, simulated_attacks={})
    made.recipe = recipe(epochs=20, batch_size=32)
    return Hybrid("customer", made, method("margin"), share)


@functools.cache
def marked(name: str) -> tuple[nn.Module, Key]:
    return embedded(hybrid(name))


def drawn(seed: int, classes: int = CLASSES) -> Key:
    return hybrid().draw(judge(), classes, Random(seed).randbytes)


def p_of(suspect: Suspect, key: Key, name: str = "csp") -> tuple[str, float]:
    ((test, null),) = hybrid(name).evidence(suspect, key, judge()).tests.items()
    return test, null.p_value()


def parts_of(suspect: Suspect, key: Key, name: str) -> tuple[list, Binomial]:
    """What the soft labels show by each of their tests, and what the triggers do."""
    made = hybrid(name)
    (whole,) = made.soft.evidence(suspect, key, judge()).tests.values()
    triggers = made.triggers.triggers(key, judge(), made.triggers.count)
    hits = int((suspect.answers(triggers).argmax(1) == triggers.labels).sum())
    return list(whole.tests), Binomial(hits, len(triggers), 1 / CLASSES)


@pytest.mark.parametrize("name", KINDS)
def test_both_marks_are_in_the_model_and_neither_in_the_victim(name):
    model, key = marked(name)
    tests, triggers = parts_of(Suspect.of(model), key, name)
    assert min(test.p_value() for test in tests) <= 1e-6
    assert triggers.p_value() <= 1e-6
    tests, triggers = parts_of(Suspect.of(victim()), key, name)
    assert min(test.p_value() for test in tests) > 1e-3
    assert triggers.p_value() > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_the_verdict_is_the_strongest_test_times_their_number(name):
    model, key = marked(name)
    suspect = Suspect.of(model)
    tests, triggers = parts_of(suspect, key, name)
    each = [test.p_value() for test in (*tests, triggers)]
    assert p_of(suspect, key, name)[1] == pytest.approx(len(each) * min(each))
    assert hybrid(name).evidence(suspect, key, judge()).mark_recall == triggers.score


def answering(model: nn.Module, flat: bool) -> Suspect:
    """``model`` with flat tails, or with random answers to whatever isn't a picture of the task."""
    task = {picture.numpy().tobytes() for picture in judge().inputs}

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        answers = predict(model, inputs)
        if flat:
            top = F.one_hot(answers.argmax(1), CLASSES)
            return 0.91 * top + 0.01 * (1 - top)
        known = torch.tensor([picture.numpy().tobytes() in task for picture in inputs])
        random = torch.rand(answers.shape, generator=torch.manual_seed(0)).softmax(1)
        return torch.where(known[:, None], answers, random)

    return Suspect(answer)


def test_each_mark_is_claimed_without_the_other_and_named():
    model, key = marked("csp")
    name, p = p_of(answering(model, flat=True), key)
    assert (name, p <= 1e-6) == ("triggers", True)
    name, p = p_of(answering(model, flat=False), key)
    assert (name, p <= 1e-6) == ("signs", True)


def test_p_of_random_keys_is_no_smaller_than_it_should_be():
    suspect = Suspect.of(victim())
    found = torch.tensor([p_of(suspect, drawn(seed))[1] for seed in range(200)])
    assert (found <= 0.05).float().mean() <= 0.08
    assert (found <= 0.2).float().mean() <= 0.25


def test_without_a_tail_the_triggers_stand_alone():
    key = drawn(1, classes=2)
    probes = Samples(judge().inputs, judge().labels % 2)
    two = Suspect(lambda inputs: torch.tensor([[0.9, 0.1]]).expand(len(inputs), 2))
    found = hybrid().evidence(two, key, probes)
    assert list(found.tests) == ["triggers"]
    assert found.why == ""


def test_a_message_is_named_by_the_soft_labels():
    model, key = marked("csp")
    names = ["customer", "somebody", "else"]
    tests = hybrid().identify(Suspect.of(model), key, judge(), names)
    assert min(names, key=lambda name: tests[name].p_value()) == "customer"


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_cannot_be_is_named(share):
    with pytest.raises(InputError, match=rf"method\.share={share}: a fraction"):
        hybrid(share=share)
