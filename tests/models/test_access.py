"""What each party sees of a model: a suspect, a counted interface, its log."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from helpers.training import network, samples
from softmark.data.roles import Samples
from softmark.models.access import (
    Query,
    Suspect,
    answers_of,
    expose,
    labels_only,
    log_of_queries,
)
from softmark.tails import ranks
from softmark.training import predict
from softmark.verification.evidence import usable


class Counted(nn.Module):
    """Notes how many pictures it is shown at a time; likelier classes for brighter pictures."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.classes = classes
        self.asked: list[int] = []

    def forward(self, images):
        self.asked.append(len(images))
        bright, each = images.flatten(1).mean(1, keepdim=True), torch.arange(self.classes)
        return bright * each - (bright * each).square()


# --- a suspect --------------------------------------------------------------------------------


def test_a_suspect_is_only_what_it_answers():
    suspect = Suspect(answers_of(nn.Identity()))
    assert set(vars(suspect)) == {"answer", "network", "log", "reads_logits", "_answers"}
    assert (suspect.network, suspect.log, suspect._answers) == (None, None, {})
    assert not suspect.reads_logits


def test_a_suspect_whose_weights_are_at_hand_answers_as_they_say():
    model, data = network(), samples()
    suspect = Suspect.of(model)
    assert suspect.network is model
    assert suspect.reads_logits
    expected = predict(model, data.inputs, torch.float64)
    torch.testing.assert_close(suspect.answers(data), expected)
    torch.testing.assert_close(suspect.answer(data.inputs[:5]), expected[:5])
    torch.testing.assert_close(expected.float(), predict(model, data.inputs))


@pytest.mark.parametrize("scale", [1.0, 500.0, 1e6])
def test_no_order_of_a_tail_is_lost_however_large_the_logits_are(scale):
    """As those of a last layer in closed form; in float32 most would be 0, and tie."""
    logits = scale * torch.randn(50, 10, generator=torch.manual_seed(0))
    answers = Suspect.of(nn.Identity()).answer(logits)
    assert answers.dtype == torch.float64
    assert torch.equal(answers.argsort(1), logits.argsort(1))
    assert (answers > 0).all()
    torch.testing.assert_close(answers.sum(1), torch.ones(50, dtype=torch.float64))
    clean, unusable = usable(answers)
    assert torch.equal(ranks(clean)[0], ranks(logits.softmax(1))[0]) == (scale == 1.0)
    assert unusable == 0


def test_a_suspect_is_asked_the_same_probes_once():
    model = Counted()
    suspect = Suspect.of(model)
    probes = samples(8)
    again = Samples(probes.inputs.clone(), probes.labels.clone())
    assert torch.equal(suspect.answers(probes), suspect.answers(again))
    suspect.answers(probes[:3])
    suspect.answers(probes[:3])
    assert model.asked == [8, 3]


def test_the_first_of_what_was_asked_isnt_asked_again():
    model = Counted()
    suspect, probes = Suspect.of(model), samples(8)
    part = suspect.first(probes, 3)
    assert part.fingerprint == probes[:3].fingerprint
    assert torch.equal(suspect.answers(part), suspect.answers(probes)[:3])
    assert torch.equal(suspect.answers(suspect.first(probes, 20)), suspect.answers(probes))
    assert model.asked == [8]


def test_two_suspects_share_no_answers():
    probes = samples(8)
    one, other = Suspect.of(Counted()), Suspect.of(Counted(4))
    assert one.answers(probes).shape != other.answers(probes).shape


def test_a_method_that_needs_weights_sees_the_suspect():
    suspect = Suspect.of(network())
    assert suspect.seen_by("weights") is suspect


def test_a_method_that_needs_probabilities_sees_no_weights_and_asks_nothing_twice():
    model, log, probes = Counted(), samples(2), samples(8)
    suspect = Suspect(answers_of(model), model, log)
    first = suspect.answers(probes)
    seen = suspect.seen_by("probabilities")
    assert seen.network is None
    assert seen.log is log
    assert torch.equal(seen.answers(probes), first)
    assert model.asked == [8]
    assert suspect.network is model  # the judge still does


def test_a_method_that_needs_labels_sees_one_hot_rows_whatever_was_asked_before():
    probes = samples(8)
    model = Counted()
    suspect = Suspect.of(model)
    first = suspect.answers(probes)
    seen = suspect.seen_by("labels")
    hot = F.one_hot(first.argmax(1), 3).float()
    assert seen.network is None
    assert torch.equal(seen.answers(probes), hot)
    assert model.asked == [8]
    assert torch.equal(seen.answer(probes.inputs), hot)
    assert not any(torch.equal(answer, first) for answer in seen._answers.values())
    assert torch.equal(suspect.answers(probes), first)


@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 99))
def test_labels_are_the_likeliest_class_of_each_row(classes, count, seed):
    p = torch.randn(count, classes, generator=torch.manual_seed(seed)).softmax(1)
    labels = labels_only(lambda images: p)(torch.empty(count))
    assert labels.dtype == torch.float32
    assert labels.tolist() == [[float(j == row.argmax()) for j in range(classes)] for row in p]


# --- an interface -----------------------------------------------------------------------------


def test_a_query_counts_pictures_and_not_calls():
    model, data = Counted(), samples(10)
    query = expose(model, "probabilities", 3)
    query(data.inputs)
    query(data.inputs[:4])
    query(data.inputs[:0])
    assert query.count == 14
    assert query.classes == 3


def test_who_has_the_weights_has_the_network_itself():
    model = network()
    assert expose(model, "weights", 3) is model


def test_probabilities_are_the_networks_and_labels_their_likeliest():
    model, images = network(), samples(20).inputs
    soft = expose(model, "probabilities", 3)(images)
    hard = expose(model, "labels", 3)(images)
    torch.testing.assert_close(soft, predict(model, images))
    assert torch.equal(hard, F.one_hot(soft.argmax(1), 3).float())


@pytest.mark.parametrize("access", ["probabilities", "labels"])
def test_what_stands_before_the_network_answers_in_its_place(access):
    served = torch.tensor([[0.2, 0.5, 0.3]])
    query = expose(network(), access, 3, lambda images: served.expand(len(images), 3))
    expected = served if access == "probabilities" else torch.tensor([[0.0, 1.0, 0.0]])
    assert torch.equal(query(samples(4).inputs), expected.expand(4, 3))
    model = network()
    assert expose(model, "weights", 3, lambda images: served) is model


@pytest.mark.parametrize("access", ["probabilities", "labels"])
def test_no_attribute_of_a_query_leads_to_the_network(access):
    query = expose(network(), access, 3)
    for value in vars(query).values():
        assert not isinstance(value, nn.Module)
        assert not any(isinstance(inner, nn.Module) for inner in getattr(value, "__dict__", {}))


@pytest.mark.parametrize("access", ["logits", "", None, "Weights"])
def test_an_access_that_does_not_exist_is_named(access):
    with pytest.raises(ValueError, match="weights, probabilities or labels"):
        expose(network(), access, 3)


# --- a log ------------------------------------------------------------------------------------


def test_a_log_keeps_what_was_asked_and_told_in_order():
    data = samples(10)
    query = expose(Counted(), "probabilities", 3, keep_log=True)
    answers = [query(part) for part in (data.inputs[5:], data.inputs[:3], data.inputs[2:4])]
    log = log_of_queries(query)
    assert torch.equal(log.inputs, data.inputs[[*range(5, 10), 0, 1, 2, 2, 3]])
    assert torch.equal(log.labels, torch.cat(answers).argmax(1))
    assert log.labels.dtype == torch.int64
    assert len(log) == query.count


def test_a_log_of_labels_is_the_one_of_probabilities():
    data = samples(10)
    logs = []
    for access in ("probabilities", "labels"):
        query = expose(Counted(), access, 3, keep_log=True)
        query(data.inputs)
        logs.append(log_of_queries(query))
    assert logs[0].fingerprint == logs[1].fingerprint


def test_without_keeping_or_asking_there_is_no_log():
    data = samples(10)
    silent = expose(Counted(), "probabilities", 3)
    silent(data.inputs)
    assert log_of_queries(silent) is None
    assert log_of_queries(Query(answers_of(Counted()), 3, keep_log=True)) is None
