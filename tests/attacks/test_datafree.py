"""A thief without pictures: what the game asks, and where its generator goes."""

import functools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import fit, recipe, samples
from softmark.attacks.datafree import DataFreeModule, DistillDataFree, Generator, as_picture
from softmark.errors import InputError
from softmark.models.access import expose


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_a_generator_makes_pictures_of_any_size():
    for shape in ((1, 8, 8), (3, 9, 13)):
        assert Generator(5, shape)(torch.rand(2, 5)).shape == (2, *shape)
    assert as_picture(torch.tensor([-99.0, 0.0, 99.0])).tolist() == [0.0, 0.5, 1.0]


def test_forward_differences_point_to_where_the_models_differ():
    torch.manual_seed(0)
    student, stolen = linear(), linear()
    attack = DistillDataFree(recipe=recipe(), eps=1e-3)
    game = DataFreeModule(
        student, recipe(), expose(stolen, "probabilities", 3), Generator(4, (1, 4, 4)), attack, 1
    )
    values = torch.randn(1, 1, 4, 4).repeat(300, 1, 1, 1)
    found = game.slope(values).sum(0)
    one = values[:1].clone().requires_grad_(True)
    logits = stolen(as_picture(one)).log_softmax(1)
    logits = logits - logits.mean(1, keepdim=True)
    (-(student(as_picture(one)) - logits).abs().mean()).backward()
    assert F.cosine_similarity(found.flatten(), one.grad.flatten(), dim=0) > 0.8


def test_a_student_learns_from_generated_pictures_within_the_budget():
    torch.manual_seed(0)
    stolen = linear()
    stolen[1].weight.data *= 4
    data = samples()
    small = type(data)(data.inputs[:, :, :4, :4], data.labels)
    attack = DistillDataFree(
        recipe=recipe(epochs=3),
        network=functools.partial(linear),
        queries=5000,
        batch_size=32,
        noise=8,
    )
    result = attack.apply(expose(stolen, "probabilities", 3), small, fit())
    assert 0.9 * 5000 < result.queries <= 5000
    noise = as_picture(torch.randn(500, 1, 4, 4))
    same = result.network(noise).argmax(1) == stolen(noise).argmax(1)
    assert same.float().mean() > 0.8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"queries": 1000}, r"attack\.queries=1000: a round asks 1792 pictures"),
        ({"batch_size": 1}, r"attack\.batch_size=1"),
        ({"student_steps": 0}, r"attack\.student_steps=0"),
        ({"eps": 0.0}, r"attack\.eps=0\.0"),
    ],
)
def test_a_budget_that_is_too_small_is_named(wrong, words):
    with pytest.raises(InputError, match=words):
        DistillDataFree(recipe=recipe(), **wrong)
    assert DistillDataFree(batch_size=10, student_steps=1, queries=30).cost == 30
