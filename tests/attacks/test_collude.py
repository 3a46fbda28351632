"""Colluders: the mean of their weights, of their answers, and their ensemble."""

import copy
import functools

import torch
from torch import nn

from helpers.training import fit, network, recipe, samples
from softmark.attacks.collude import (
    AnswerTogether,
    AverageAnswers,
    AverageWeights,
    renew_statistics,
)
from softmark.attacks.distill import Distill, Student
from softmark.models.access import Query
from softmark.models.networks import ConvNet, Ensemble, build
from softmark.training import predict


def test_colluders_average_their_weights():
    torch.manual_seed(0)
    two = [network(), network()]
    expected = (two[0].head.weight + two[1].head.weight) / 2
    suspect = AverageWeights().apply(copy.deepcopy(two), samples(), fit()).network
    torch.testing.assert_close(suspect.head.weight, expected)
    assert not suspect.training


def test_statistics_are_those_of_the_data_alone():
    torch.manual_seed(0)
    model = network().eval()
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    momentum = first.momentum
    renew_statistics(model, samples(64))
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, seen[0].var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert first.momentum == momentum
    assert not model.training


def test_colluders_distil_the_mean_of_their_answers_and_pay_for_both():
    asked = []

    def query(row):
        def answer(images):
            asked.append(row)
            return torch.tensor([row]).expand(len(images), 3)

        return Query(answer, 3)

    seen = []

    class Watched(Student):
        def __init__(self, **told):
            seen.append(told["answers"])
            super().__init__(**told)

    distill = Distill(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=functools.partial(Watched, temperature=1.0, hard=False),
    )
    two = [query([0.8, 0.1, 0.1]), query([0.2, 0.3, 0.5])]
    suspect = AverageAnswers(distill=distill).apply(two, samples(), fit())
    torch.testing.assert_close(seen[0], torch.tensor([[0.5, 0.2, 0.3]]).expand(64, 3))
    assert suspect.queries == 128
    assert len(asked) == 2


def built(seed: int) -> ConvNet:
    data = samples()
    torch.manual_seed(seed)
    return build(functools.partial(ConvNet, width=4), data, 3).eval()


def test_an_ensemble_of_stolen_models_answers_with_their_mean():
    two, images = [built(1), built(2)], samples().inputs
    before = [copy.deepcopy(model.state_dict()) for model in two]
    stolen = AnswerTogether().apply(two, samples(), fit())
    mean = (predict(two[0], images) + predict(two[1], images)) / 2
    torch.testing.assert_close(predict(stolen.network, images), mean)
    assert not torch.allclose(predict(two[0], images), mean, atol=1e-3)
    assert isinstance(stolen.network, Ensemble)
    assert (stolen.queries, stolen.key) == (0, None)
    for model, state in zip(two, before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
