"""Shared adversarial unlearning: what both models are fooled by, and the loss that unlearns it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import fit, network, recipe, samples
from softmark.attacks.sau import SharedModule, UnlearnShared, divergence, shared_risk
from softmark.batches import Batch
from softmark.errors import InputError


class Pixel(nn.Module):
    """Says class 1 where the first pixel is above ``border``."""

    def __init__(self, border: float):
        super().__init__()
        self.border = nn.Parameter(torch.tensor(border))

    def forward(self, images):
        height = 20 * (images[:, 0, 0, 0] - self.border)
        return torch.stack([-height, height], 1)


def test_divergence_is_half_the_kl_to_the_mean_of_both_ways():
    one, other = torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    p, q = one.softmax(1), other.softmax(1)
    mean = ((p + q) / 2).log()
    wanted = (F.kl_div(mean, p, reduction="sum") + F.kl_div(mean, q, reduction="sum")) / 2
    torch.testing.assert_close(divergence(one, other), wanted[None])
    assert divergence(one, one).abs().item() < 1e-6


def test_only_what_fooled_the_stolen_model_is_unlearnt():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 9.0]])
    wrong, fooled = torch.tensor([1, 0, 0]), torch.tensor([True, False, True])
    p = logits.softmax(1)
    wanted = -((1 - p[0, 1]).log() + torch.tensor(0.999).log()) / 3
    torch.testing.assert_close(shared_risk(logits, wrong, fooled), wanted, atol=1e-5, rtol=0)


def test_a_perturbation_fools_both_models_within_its_bound():
    module = SharedModule(Pixel(0.5), recipe(), Pixel(0.5), eps=0.2, ascents=5, fooling=0.01)
    inputs = torch.full((2, 1, 2, 2), 0.4)
    inputs[1] = 0.65
    batch = Batch(inputs, torch.tensor([0, 1]), torch.arange(2))
    moved = module.shared(batch)
    assert (moved - inputs).abs().max() <= 0.2 + 1e-6
    for model in (module.network, module.stolen):
        assert model(moved).argmax(1).tolist() == [1, 0]
    before = module.network.border.item()
    (slope,) = torch.autograd.grad(module.loss(batch), module.network.border)
    assert slope.isfinite()
    assert module.network.border.item() == before


def test_the_stolen_models_statistics_stay():
    torch.manual_seed(0)
    model, data = network(), samples()
    means = {name: value.clone() for name, value in model.named_buffers()}
    weights = [value.clone() for value in model.parameters()]
    attack = UnlearnShared(recipe=recipe(), min_steps=4, max_steps=4, ascents=1)
    repaired = attack.apply(model, data, fit()).network
    assert all(torch.equal(value, means[name]) for name, value in repaired.named_buffers())
    moved = zip(repaired.parameters(), weights, strict=True)
    assert any(not torch.equal(value, old) for value, old in moved)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"eps": 1.5}, {"ascents": 0}, {"fooling": -1.0}])
def test_what_cannot_be_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"attack\.{name}={value}"):
        UnlearnShared(recipe=recipe(), **wrong)
