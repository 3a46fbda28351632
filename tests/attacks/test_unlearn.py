"""Repairs that unlearn: attention, neurons."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks import NETWORKS, batch_of, built
from helpers.training import fit, recipe, samples
from softmark.attacks.unlearn import (
    AttentionModule,
    NeuronMaskModule,
    PruneNeurons,
    attention,
    maps_of,
)
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
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
    torch.testing.assert_close(AttentionModule(model, recipe(), teacher, 1e3).loss(batch), plain)
    other = build(NETWORKS["convnet"], samples(), 3).eval()
    apart = sum(
        (attention(a) - attention(b)).square().sum() / len(a)
        for a, b in zip(
            maps_of(model, batch.inputs)[1], maps_of(other, batch.inputs)[1], strict=True
        )
    )
    loss = AttentionModule(model, recipe(), other, 10.0).loss(batch)
    torch.testing.assert_close(loss, plain + 10 * apart)
    assert not any(p.requires_grad for p in other.parameters())


def test_a_teacher_stays_as_it_is_while_its_student_learns():
    model, data = built("convnet"), samples()
    teacher = built("convnet")
    before = copy.deepcopy(teacher.state_dict())
    fit()(AttentionModule(model, recipe(), teacher, 1.0), data, "student")
    assert all(torch.equal(value, before[n]) for n, value in teacher.state_dict().items())
    assert not torch.equal(model.head.weight, teacher.head.weight)


class TwoChannels(nn.Module):
    """Two channels of a BatchNorm: the first says the class, the second only hurts."""

    node = None

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[-2.0, 2.0], [2.0, -2.0]])

    def forward(self, images):
        bright = images.mean((2, 3), keepdim=True) - 0.5
        return self.head(self.norm(torch.cat([2 * bright, 1.2 * bright], 1)).flatten(1))


@torch.no_grad()
def nats(model: nn.Module, data: Samples) -> float:
    return float(F.cross_entropy(model(as_input(data.inputs)), data.labels))


def bright_and_dark() -> Samples:
    labels = torch.arange(64) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    return Samples(images.contiguous(), labels)


def test_a_channel_that_only_hurts_is_pruned():
    torch.manual_seed(0)
    model, data = TwoChannels().eval(), bright_and_dark()
    before = nats(model, data)
    attack = PruneNeurons(recipe=recipe(), epochs=10, lr=0.2, eps=0.4, alpha=0.2, threshold=0.5)
    stolen = attack.apply(model, data, fit())
    assert stolen.network is model
    assert model.norm.weight.tolist() == [1.0, 0.0]
    assert stolen.note == "1 of 2 channels pruned"
    assert nats(model, data) < before
    assert all(p.requires_grad for p in model.parameters())


def test_masks_stay_fractions_and_leave_the_network_alone():
    model, data = built("resnet"), samples()
    before = copy.deepcopy(model.state_dict())
    module = NeuronMaskModule(model, recipe(epochs=2, lr=5.0), 0.4, 0.2)
    fit()(module, data, "masks")
    assert len(module.masks) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    values = torch.cat([mask.detach() for mask in module.masks])
    assert values.min() >= 0
    assert values.max() <= 1
    assert (values < 1).any()
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_masks_meet_what_hurts_most():
    torch.manual_seed(0)
    model, batch = built("convnet"), batch_of(samples())
    module = NeuronMaskModule(model, recipe(), 0.4, 0.2)
    moves = module.worst(batch)
    sizes = torch.cat([move.abs() for pair in moves for move in pair])
    assert sizes.max() <= 0.4
    still = [(torch.zeros_like(d), torch.zeros_like(x)) for d, x in moves]
    plain, hurt = module.masked(batch, still), module.masked(batch, moves)
    torch.testing.assert_close(plain, F.cross_entropy(model(batch.inputs), batch.labels))
    assert hurt > plain
    # By hand: one channel's weight and bias, moved in the network itself.
    one = copy.deepcopy(model)
    norms = [m for m in one.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, (d, x) in zip(norms, moves, strict=True):
        norm.weight.data *= 1 + d
        norm.bias.data *= 1 + x
    torch.testing.assert_close(hurt, F.cross_entropy(one(batch.inputs), batch.labels))
