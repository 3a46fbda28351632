"""Distillation from few pictures, of changed answers, and of true labels mixed in."""

import functools

import pytest
import torch

from helpers.training import NETWORK, STUDENT, asked_by, fit, recipe, samples
from softmark.attacks import answers as changes
from softmark.attacks.distill import (
    DistillAugmented,
    DistillChanged,
    DistillFew,
    DistillLabelled,
    Student,
)
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.models.networks import ConvNet


def few(number: float) -> DistillFew:
    student = functools.partial(Student, temperature=1.0, hard=False)
    return DistillFew(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=student,
        samples=number,
    )


@pytest.mark.parametrize("number", [0.25, 16])
def test_a_thief_with_few_pictures_asks_about_those_alone_and_trains_as_long(number):
    asked, epochs = [], []

    def answer(images):
        asked.append(images)
        return torch.full((len(images), 3), 1 / 3)

    def watched(module, data, name):
        epochs.append((module.epochs, len(data)))
        return fit()(module, data, name)

    suspect = few(number).apply(Query(answer, 3), samples(64), watched)
    assert suspect.queries == len(asked[0]) == 16
    # Four steps of 16 pictures, as 64 pictures take in an epoch.
    assert epochs == [(4, 16)]


@pytest.mark.parametrize("number", [0.0, -0.1])
def test_a_number_of_pictures_is_above_zero(number):
    with pytest.raises(InputError, match=rf"attack\.samples={number}"):
        few(number)


def test_a_student_of_changed_answers_learns_these():
    data = samples(50)
    asked, learnt, targets, count = asked_by(
        DistillChanged(recipe=recipe(), network=NETWORK, student=STUDENT, change=changes.Labels()),
        data,
    )
    assert torch.equal(asked, data.inputs)
    assert learnt is data
    assert set(targets.unique().tolist()) == {0.0, 1.0}
    assert count == 50


def test_true_labels_are_mixed_in():
    data = samples(50)
    data.labels.clamp_(max=3)
    _, _, targets, _ = asked_by(
        DistillLabelled(recipe=recipe(), network=NETWORK, student=STUDENT, label_weight=0.5), data
    )
    torch.manual_seed(5)
    told = torch.rand(50, 4).softmax(1)
    true = torch.nn.functional.one_hot(data.labels, 4).float()
    torch.testing.assert_close(targets, (told + true) / 2)


def test_a_student_sees_the_copies_that_were_asked_and_no_others():
    data, seen = samples(16), []

    def training(module, data, name):
        seen.append((module, data))
        return module.network

    def answer(images):
        return images.float().flatten(1)[:, :3].softmax(1)

    attack = DistillAugmented(recipe=recipe(pad=1), network=NETWORK, epochs=12, copies=4)
    query = Query(answer, 3)
    assert attack.apply(query, data, training).queries == 64
    ((module, learnt),) = seen
    assert torch.equal(learnt.inputs[:16], data.inputs)
    assert not torch.equal(learnt.inputs[16:32], data.inputs)
    assert torch.equal(learnt.labels, data.labels.repeat(4))
    assert (module.recipe.epochs, module.recipe.pad, module.recipe.flip) == (3, 0, False)
    torch.testing.assert_close(
        module.targets, answer(learnt.inputs).clamp_min(1e-12), rtol=1e-3, atol=1e-6
    )
