"""CFW: the terms of its tuning, by loops and in closed form, and the choice of its pictures."""

import pytest
import torch

from softmark.methods.cfw import first_components, masked_mean, spread, spread_evenly


def test_the_spread_is_the_mean_over_pairs_and_components():
    draw = torch.manual_seed(0)
    logits, components = torch.randn(5, 3, generator=draw), torch.randn(3, 3, generator=draw)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0])
    chosen = [0, 2, 3]
    found = [
        abs(float((logits[i] - logits[j]) @ components[c]))
        for i in chosen
        for j in chosen
        for c in range(3)
        if i < j
    ]
    assert spread(logits, components, mask).item() == pytest.approx(sum(found) / len(found))
    assert spread(logits, components, 0 * mask).item() == 0


def test_a_class_that_varies_along_one_direction_has_it_as_component():
    # Log-probabilities that vary in the first entry alone, but for what a softmax adds to all.
    steps = torch.linspace(-1, 1, 20, dtype=torch.float64)
    direction = torch.tensor([3.0, -1.0, -2.0], dtype=torch.float64)
    logits = steps[:, None] * direction
    labels = torch.tensor([0] * 19 + [2])
    components = first_components(logits.softmax(1), labels)
    logs = logits.log_softmax(1)[:19]
    variance = ((logs - logs.mean(0)) @ components[0].double()).var()
    others = [((logs - logs.mean(0)) @ one).var() for one in torch.eye(3, dtype=torch.float64)]
    assert components[0].norm().item() == pytest.approx(1, abs=1e-6)
    assert variance > max(others)
    assert not components[1:].any()


def test_the_mean_of_nothing_is_zero_and_its_gradient_a_number():
    values = torch.ones(4, 2, requires_grad=True)
    nothing = masked_mean(values, torch.zeros(4))
    assert nothing.tolist() == [0, 0]
    cosine = torch.nn.functional.cosine_similarity(nothing, values.mean(0), dim=0)
    assert torch.autograd.grad(cosine, values)[0].isfinite().all()
    mask = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert masked_mean(torch.tensor([1.0, 5.0, 7.0, 2.0]), mask).item() == 1.5


def test_the_pictures_are_spread_over_the_classes_that_there_are():
    answered = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    chosen = spread_evenly(answered, 30)
    assert answered[chosen].bincount().tolist() == [14, 3, 13]
    assert len(chosen.unique()) == 30
