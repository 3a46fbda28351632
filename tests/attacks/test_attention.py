"""Neural attention distillation: which maps are watched, and how."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from helpers.networks import NETWORKS, batch_of, built
from helpers.training import fit, recipe, samples
from softmark.attacks.attention import AttentionModule, attention, maps_of
from softmark.data.pixels import as_input
from softmark.models.networks import build


def test_the_attention_map_of_a_known_tensor():
    features = torch.tensor([[[[1.0, 2.0]], [[-1.0, 1.0]]], [[[0.0, 0.0]], [[0.0, 3.0]]]])
    expected = torch.tensor([[2.0, 5.0], [0.0, 9.0]])
    expected[0] /= math.sqrt(29)
    expected[1] /= 9
    torch.testing.assert_close(attention(features), expected)
    assert attention(torch.zeros(1, 2, 3, 3)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("convnet", {8: "features.1", 4: "features.5", 2: "features.9"}),
        ("resnet", {8: "features.5", 4: "features.7", 2: "features.9"}),
    ],
)
def test_the_last_map_of_each_size_is_watched(name, last):
    model = built(name)
    images = as_input(samples(4).inputs)
    logits, maps = maps_of(model, images)
    torch.testing.assert_close(logits, model(images))
    assert [m.shape[2] for m in maps] == list(last)
    for watched, module in zip(maps, last.values(), strict=True):
        seen = []
        handle = model.get_submodule(module).register_forward_hook(
            lambda m, i, output, seen=seen: seen.append(output)
        )
        model(images)
        handle.remove()
        torch.testing.assert_close(watched, seen[0])


def test_a_student_that_looks_where_its_teacher_does_has_the_labels_loss_alone():
    model, batch = built("convnet"), batch_of(samples())
    teacher = copy.deepcopy(model)
    plain = F.cross_entropy(model(batch.inputs), batch.labels)
    torch.testing.assert_close(AttentionModule(model, recipe(), teacher, [1e3]).loss(batch), plain)
    other = build(NETWORKS["convnet"], samples(), 3).eval()
    apart = [
        (attention(a) - attention(b)).square().sum() / len(a)
        for a, b in zip(
            maps_of(model, batch.inputs)[1], maps_of(other, batch.inputs)[1], strict=True
        )
    ]
    loss = AttentionModule(model, recipe(), other, [10.0]).loss(batch)
    torch.testing.assert_close(loss, plain + 10 * sum(apart))
    # The last weight is the last map's, the first that of all maps before the last ones.
    for betas, of_each in (
        ([1.0, 2.0], [1.0, 1.0, 2.0]),
        ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]),
        ([1.0, 2.0, 4.0, 8.0], [2.0, 4.0, 8.0]),
    ):
        loss = AttentionModule(model, recipe(), other, betas).loss(batch)
        expected = sum(beta * one for beta, one in zip(of_each, apart, strict=True))
        torch.testing.assert_close(loss, plain + expected)
    assert not any(p.requires_grad for p in other.parameters())


def test_a_teacher_stays_as_it_is_while_its_student_learns():
    model, data = built("convnet"), samples()
    teacher = built("convnet")
    before = copy.deepcopy(teacher.state_dict())
    fit()(AttentionModule(model, recipe(), teacher, [1.0]), data, "student")
    assert all(torch.equal(value, before[n]) for n, value in teacher.state_dict().items())
    assert not torch.equal(model.head.weight, teacher.head.weight)


def test_the_rate_falls_once():
    module = AttentionModule(built("convnet"), recipe(), built("convnet"), [1.0], 0.25, 0.1)
    assert [module.rate(step / 8) for step in range(8)] == [1.0, 1.0, *[0.1] * 6]
