"""Repairs that change how a fine-tuning goes: steps, losses and their order, by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import fit, network, recipe, samples
from softmark.attacks.repairs import (
    FineTuneFlat,
    Forget,
    SharpnessModule,
    ShiftFeatures,
    ShiftModule,
)
from softmark.batches import Batch
from softmark.errors import InputError


def batch() -> Batch:
    torch.manual_seed(3)
    return Batch(torch.rand(6, 2), torch.arange(6) % 3, torch.arange(6))


def test_a_flat_step_has_the_gradient_at_the_moved_weights():
    torch.manual_seed(0)
    model, rows = nn.Linear(2, 3, bias=False), batch()
    moved = copy.deepcopy(model)
    (slope,) = torch.autograd.grad(F.cross_entropy(moved(rows.inputs), rows.labels), moved.weight)
    far = 0.5 * moved.weight.square() * slope / (moved.weight.abs() * slope).norm()
    moved.weight.data += far.detach()
    (wanted,) = torch.autograd.grad(F.cross_entropy(moved(rows.inputs), rows.labels), moved.weight)
    module = SharpnessModule(model, recipe(), rho=0.5)
    module.manual_backward = lambda loss: loss.backward()
    before = model.weight.detach().clone()
    module.loss(rows).backward()
    module.add_gradients(rows)
    torch.testing.assert_close(model.weight.grad, wanted)
    torch.testing.assert_close(model.weight.detach(), before)


def test_a_shifted_last_layer_is_pushed_from_the_old_one_and_keeps_its_norm():
    torch.manual_seed(0)
    model, rows = nn.Linear(2, 3), batch()
    module = ShiftModule(model, recipe(), model, alpha=0.7)
    old = model.weight.detach().clone()
    plain = F.cross_entropy(model(rows.inputs), rows.labels)
    torch.testing.assert_close(module.loss(rows), plain + 0.7 * old.square().sum())
    model.weight.data *= 3
    module.after_step()
    torch.testing.assert_close(model.weight.norm(), old.norm())


def test_a_shifted_last_layer_ends_unlike_the_old_one():
    torch.manual_seed(0)
    target = network()
    old = target.head.weight.detach().clone()
    attack = ShiftFeatures(recipe=recipe(), epochs_factor=2.0, lr_factor=0.3, alpha=1.0)
    new = attack.apply(target, samples(), fit()).network.head.weight
    torch.testing.assert_close(new.norm(), old.norm())
    assert F.cosine_similarity(new.flatten(), old.flatten(), dim=0) < -0.3


def test_forgetting_comes_before_learning_and_ends_when_little_is_left():
    torch.manual_seed(0)
    seen = []

    def training(module, data, name):
        seen.append((name, data.labels, module.recipe.epochs))
        # Whatever is learnt at first, nothing of it is right after two epochs.
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        model[1].weight.data.zero_()
        model[1].bias.data = torch.tensor([9.0, 0, 0])
        return model.eval()

    data = samples()
    attack = Forget(recipe=recipe(epochs=4), bound=0.4, rounds=5)
    stolen = attack.apply(network(), data, training)
    assert [name for name, *_ in seen] == ["forget-1", "recover"]
    assert not torch.equal(seen[0][1], data.labels)
    assert torch.equal(seen[1][1], data.labels)
    assert [epochs for *_, epochs in seen] == [1, 4]
    assert stolen.note == "forgot to 0.34 in 1 epochs"
    seen.clear()
    Forget(recipe=recipe(), bound=0.1, rounds=3).apply(network(), data, training)
    assert [name for name, *_ in seen] == ["forget-1", "forget-2", "forget-3", "recover"]


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        (FineTuneFlat, {"rho": 0.0}, r"attack\.rho=0\.0"),
        (FineTuneFlat, {"label_smoothing": 1.0}, r"label_smoothing=1\.0"),
        (FineTuneFlat, {"epochs_factor": 0.0}, r"attack\.epochs_factor=0\.0"),
        (ShiftFeatures, {"alpha": -1.0}, r"attack\.alpha=-1\.0"),
        (ShiftFeatures, {"lr_factor": 0.0}, r"attack\.lr_factor=0\.0"),
        (Forget, {"bound": 2.0}, r"attack\.bound=2\.0"),
        (Forget, {"rounds": 0}, r"attack\.rounds=0: at least 1"),
    ],
)
def test_a_repair_that_cannot_be_is_named(kind, wrong, words):
    with pytest.raises(InputError, match=words):
        kind(recipe=recipe(), **wrong)
