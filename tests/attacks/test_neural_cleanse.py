"""Neural Cleanse: how a patch is found, which are outliers, and what is unlearnt."""

import pytest
import torch
from torch import nn

from helpers.training import fit, network, recipe, samples
from softmark.attacks.neural_cleanse import (
    NeuralCleanse,
    PatchedModule,
    TriggerModule,
    patched,
    suspicious,
)
from softmark.batches import Batch
from softmark.errors import InputError


class Corner(nn.Module):
    """Says class 1 where the first pixel is white, else class 0."""

    def forward(self, images):
        height = 20 * (images[:, 0, 0, 0] - 0.8)
        return torch.stack([-height, height], 1)


def test_a_patch_covers_what_its_mask_says():
    images = torch.tensor([0.2, 0.4])[:, None, None, None].expand(2, 1, 1, 2)
    patch = torch.tensor([[[[1.0, 0.25]], [[0.9, 0.8]]]])  # a mask, a pattern
    wanted = torch.tensor([[0.9, 0.35], [0.9, 0.5]])
    torch.testing.assert_close(patched(images, patch).flatten(1), wanted)


def test_the_smallest_patch_is_the_trigger():
    torch.manual_seed(0)
    data = samples()
    small = recipe(epochs=60, lr=0.1)
    module = TriggerModule(Corner(), small, (1, 8, 8), 1, success=0.98)
    fit()(module, data, "patch")
    mask, pattern = module.best[0]
    assert mask[0, 0] > 0.7
    assert pattern[0, 0] > 0.9
    assert mask.sum() - mask[0, 0] < 1
    torch.testing.assert_close(module.smallest, mask.sum())


def test_the_weight_of_the_size_follows_success_and_failure():
    module = TriggerModule(Corner(), recipe(), (1, 2, 2), 1, success=0.9)
    start = module.cost.item()
    for hits, factor in ((1.0, 2.0), (0.0, 2**-0.5)):
        for _ in range(50):  # five windows of ten steps
            module.hits += torch.tensor([hits, 1.0])
            module.after_step()
        assert module.cost.item() == pytest.approx(start * factor)
    for _ in range(40):
        module.hits += torch.tensor([1.0, 1.0])
        module.after_step()
    assert module.cost.item() == pytest.approx(start * 2**-0.5)


def test_only_a_patch_far_below_the_others_is_suspicious():
    sizes = torch.tensor([10.0, 11.0, 2.0, 12.0, 30.0, 10.5])
    assert suspicious(sizes) == [2]
    assert suspicious(torch.tensor([10.0, 11.0, 12.0])) == []


def test_pictures_under_a_patch_keep_their_labels():
    torch.manual_seed(0)
    patches = torch.ones(1, 2, 8, 8)  # white all over
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    inputs, labels = torch.zeros(64, 1, 8, 8), torch.arange(64) % 3
    seen = []
    model[0].register_forward_hook(lambda _, given, __: seen.append(given[0]))
    PatchedModule(model, recipe(), patches, 0.25).loss(Batch(inputs, labels, torch.arange(64)))
    white = seen[0].mean((1, 2, 3))
    assert set(white.tolist()) == {0.0, 1.0}
    assert 4 < white.sum() < 28


def test_every_class_gets_a_patch_and_the_model_learns_on():
    torch.manual_seed(0)
    model, names = network().eval(), []

    def training(module, shown, name):
        names.append((name, module.epochs))
        assert not any(p.requires_grad for p in module.network.parameters()) or name == "unlearn"
        return module.network

    attack = NeuralCleanse(recipe=recipe(), patch_steps=12, min_steps=8)
    note = attack.apply(model, samples(), training).note
    assert names == [("patch-0", 3), ("patch-1", 3), ("patch-2", 3), ("unlearn", 2)]
    assert note == "no class has an outlying patch: all are unlearnt"
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "wrong", [{"fraction": 0.0}, {"patch_steps": 0}, {"patch_lr": 0.0}, {"success": 1.5}]
)
def test_what_cannot_be_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"attack\.{name}={value}"):
        NeuralCleanse(recipe=recipe(), **wrong)
