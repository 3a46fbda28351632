"""A thief who learns what a mark does to answers, and takes it off."""

import copy
from dataclasses import replace

import pytest
import torch

from helpers.training import NETWORK, STUDENT, fit, recipe, samples
from softmark.attacks.recover import DistillRecovered, mean_of_neighbours, shifted_copies
from softmark.errors import InputError
from softmark.methods.watermark import Watermark
from softmark.models.access import Query
from softmark.recipe import Recipe

INVERSE = Recipe(epochs=60, batch_size=64, lr=0.05, pad=0, flip=False)


class Turned(Watermark):
    """A method that lets the second and the third class of each answer change places."""

    supports_owner = False
    embedded = 0

    def embed(self, network, data, fit):
        self.embedded += 1
        return copy.deepcopy(network), "a key of the thief's"

    def serve(self, answer, key):
        return lambda inputs: answer(inputs)[:, [0, 2, 1]]


def thief(method, **changed) -> DistillRecovered:
    own = {"recipe": recipe(epochs=6), "network": NETWORK, "student": STUDENT, "copies": 3}
    return DistillRecovered(**{**own, "method": method, "inverse": INVERSE, **changed})


@pytest.mark.parametrize("recovery", ["network", "neighbours"])
def test_what_a_method_does_to_answers_is_undone(recovery):
    torch.manual_seed(0)
    data, method = samples(), Turned()
    seen = []

    def answer(images):
        seen.append(images)
        return torch.eye(3)[[0, 2, 1]][data.labels.repeat(2)[: len(images)]] * 0.9 + 0.1 / 3

    attack = thief(method, recovery=recovery, queries=100)
    learnt, recovered = attack.ask(Query(answer, 3), data, fit())
    assert method.embedded == 2
    assert len(learnt) == len(recovered) == len(torch.cat(seen)) == 100
    assert torch.equal(learnt.inputs[:64], data.inputs)
    assert not torch.equal(learnt.inputs[:64], learnt.inputs[-64:])
    assert (recovered.argmax(1) == learnt.labels).float().mean() > 0.95
    torch.testing.assert_close(recovered.sum(1), torch.ones(100))


def test_pairs_are_answers_of_a_model_without_and_with_the_mark():
    torch.manual_seed(0)
    data = samples()
    marked, true = thief(Turned(), shadow_models=1).pairs(data, 3, fit())
    assert marked.shape == true.shape == (3 * len(data), 3)
    torch.testing.assert_close(marked[:, [0, 2, 1]], true)


def test_answers_without_a_near_pair_become_that_of_the_nearest_and_of_another_class_stay():
    marked = torch.tensor([[0.6, 0.4, 0.0], [0.9, 0.1, 0.0]])
    true = torch.tensor([[0.6, 0.0, 0.4], [0.9, 0.0, 0.1]])
    asked = torch.tensor([[0.85, 0.15, 0.0], [0.1, 0.8, 0.1]])
    found = mean_of_neighbours(asked, marked, true, 0.01)
    torch.testing.assert_close(found, torch.stack([true[1], asked[1]]))


def test_few_queries_are_the_first_pictures():
    data = samples()
    assert torch.equal(shifted_copies(data, 10, recipe(pad=1)).inputs, data.inputs[:10])
    assert torch.equal(shifted_copies(data, 150, recipe(pad=1)).labels[128:], data.labels[:22])


def test_the_student_takes_as_many_steps_whatever_was_asked():
    steps = []

    def training(module, data, name):
        if name == "student":
            steps.append(len(module.batches(data)) * module.epochs)
        return module.network.eval()

    for queries in (None, 32, 128):
        attack = thief(Turned(), recovery="neighbours", queries=queries)
        attack = replace(attack, recipe=recipe(epochs=4))
        query = Query(lambda images: torch.full((len(images), 3), 1 / 3), 3)
        assert attack.apply(query, samples(), training).queries == (queries or 64)
    assert steps == [16, 16, 16]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"recovery": "table"}, r"attack\.recovery=table: network or neighbours"),
        ({"shadow_models": 0}, r"attack\.shadow_models=0: at least 1"),
        ({"queries": 1}, r"attack\.queries=1: at least 2"),
        ({"tolerance": 0.0}, r"attack\.tolerance=0\.0"),
        ({"copies": 0}, r"attack\.copies=0: at least 1"),
    ],
)
def test_a_budget_that_is_too_small_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        thief(Turned(), **wrong)
