"""A mark in the soft labels and a trigger set in one model: three exact tests of one key."""

import functools
from dataclasses import replace
from random import Random

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from helpers import nearly
from helpers.soft_labels import soft
from helpers.training import recipe
from helpers.triggers import CLASSES, embedded, judge, method, victim
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.hybrid import Hybrid
from softmark.methods.key import Key
from softmark.methods.parts.loss import Marking
from softmark.methods.parts.soft_labels import SoftLabels
from softmark.methods.parts.trigger_set import random_labels
from softmark.methods.usp import USP, USPMarking
from softmark.models.access import Suspect
from softmark.training import predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial, Either
from softmark.verification.signs import Signs

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
    "usp": (USP, USPMarking(detector_weight=0.1, **MARKING)),
    "csp": (CSP, Marking(**MARKING)),
}


def hybrid(name: str = "csp", share: float = 0.1) -> Hybrid:
    kind, marking = KINDS[name]
    longer = recipe(epochs=20, batch_size=32)
    made = replace(soft(kind, marking=marking, simulated_attacks={}), recipe=longer)
    triggers = method("abstract_margin")
    return Hybrid(message="customer", soft=made, triggers=triggers, trigger_fraction=share)


@functools.cache
def marked(name: str) -> tuple[nn.Module, Key]:
    return embedded(hybrid(name))


def drawn(seed: int, classes: int = CLASSES) -> Key:
    return hybrid().draw(judge(), classes, Random(seed).randbytes)


def p_of(suspect: Suspect, key: Key, name: str = "csp") -> tuple[str, float]:
    # Nobody knows the labels of the probes: they would tell of the soft labels, too.
    probes = Samples(judge().inputs, torch.full((len(judge()),), -1))
    ((test, null),) = hybrid(name).evidence(suspect, key, probes).tests.items()
    return test, null.p_value()


def parts_of(suspect: Suspect, key: Key, name: str) -> tuple[Either, Binomial]:
    """What the soft labels show, and what the triggers do."""
    made = hybrid(name)
    (whole,) = made.soft.evidence(suspect, key, judge()).tests.values()
    triggers = made.triggers.triggers(key, judge(), made.triggers.num_triggers)
    hits = (suspect.answers(triggers).argmax(1) == triggers.labels).int()
    return whole, Binomial(int(hits.sum()), len(hits), 1 / CLASSES)


@pytest.mark.parametrize("name", KINDS)
def test_both_marks_are_in_the_model_and_neither_in_the_victim(name):
    model, key = marked(name)
    soft, triggers = parts_of(Suspect.of(model), key, name)
    assert soft.p_value() <= 1e-6
    assert triggers.p_value() <= 1e-6
    soft, triggers = parts_of(Suspect.of(victim()), key, name)
    assert soft.p_value() > 1e-3
    assert triggers.p_value() > 1e-3


@pytest.mark.parametrize("name", KINDS)
def test_the_verdict_is_the_strongest_test_times_their_number(name):
    model, key = marked(name)
    suspect = Suspect.of(model)
    soft, triggers = parts_of(suspect, key, name)
    ((_, whole),) = hybrid(name).evidence(suspect, key, judge()).tests.items()
    both = stats.combine_pvalues([soft.p_value(), triggers.p_value()], method="fisher").pvalue
    p = min(soft.p_value(), triggers.p_value(), both)
    assert whole.p_value() == nearly(3 * p)
    assert hybrid(name).evidence(suspect, key, judge()).mark_recall == triggers.score


def test_what_an_attack_leaves_of_two_marks_is_enough_where_neither_is(monkeypatch):
    model, key = marked("csp")
    made = hybrid()
    half = made.triggers.num_triggers // 2
    # 48 of 60 signs are right.
    signs = Signs(torch.ones(60), torch.cat([torch.ones(48), -torch.ones(12)]))
    left = Evidence(torch.zeros(1), {"signs": signs})
    monkeypatch.setattr(SoftLabels, "evidence", lambda *_: left)

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        told = predict(model, inputs).argmax(1)
        told[:half] = (told[:half] + 1) % CLASSES
        return F.one_hot(told, CLASSES).float()

    ((name, whole),) = made.evidence(Suspect(answer), key, judge()).tests.items()
    soft, triggers, _ = whole.tests
    assert 3 * min(soft.p_value(), triggers.p_value()) > 1e-6
    assert (name, whole.p_value() <= 1e-6) == ("both", True)


def test_triggers_and_pattern_follow_from_other_bytes_of_the_key():
    key = drawn(1)
    parts = [
        key,
        key.owner_part(),
        *(key.owner_part().for_message(n) for n in ("labels", "triggers")),
    ]
    streams = [part.stream(64) for part in parts]
    assert len(set(streams)) == 4
    labels = [int.from_bytes(streams[2][8 * n : 8 * n + 8], "big") % CLASSES for n in range(8)]
    assert random_labels(key, 8).tolist() == labels
    # The same triggers in every customer's copy.
    assert random_labels(key.for_message("another"), 8).tolist() == labels


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


@pytest.mark.parametrize("name", KINDS)
def test_p_of_random_keys_is_no_smaller_than_it_should_be(name):
    suspect = Suspect.of(victim())
    found = []
    for seed in range(300):
        ((_, whole),) = hybrid(name).evidence(suspect, drawn(seed), judge()).tests.items()
        found.append([whole.p_value(), whole.tests[2].p_value()])
    for p in torch.tensor(found).T:
        for level in (0.05, 0.2):
            assert (p <= level).float().mean() <= level + 3 * (level / 300) ** 0.5


def test_what_all_copies_share_is_half_a_pattern_and_all_triggers():
    network, key = marked("csp")
    other, probes = key.for_message("another customer"), Samples(judge().inputs, judge().labels)
    other.victim_stats = key.victim_stats
    for suspect in (Suspect.of(network), Suspect.of(victim())):
        tests = [hybrid().owner_test(suspect, each, probes).tests for each in (key, other)]
        # Another customer's key says the same of the owner's half, and has the same triggers.
        for one, two in zip(*tests, strict=True):
            assert one.p_value() == nearly(two.p_value(), rel=1e-3)
        assert tests[0][1] == hybrid().evidence(suspect, key, probes).tests.popitem()[1].tests[1]


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
    with pytest.raises(InputError, match=rf"method\.trigger_fraction={share}: a fraction"):
        hybrid(share=share)
