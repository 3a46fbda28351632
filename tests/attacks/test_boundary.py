"""WRK: which pictures lie across the border, and what they are called."""

import pytest
import torch

from helpers.training import network, recipe, samples
from softmark.attacks.boundary import CrossBorder, across_border, wrong_labels
from softmark.errors import InputError


def test_pictures_are_moved_by_a_step_and_have_every_wrong_label():
    torch.manual_seed(0)
    model, data = network().eval(), samples(300)
    border = across_border(model, data, 0.1)
    apart = (border.inputs.int() - data.inputs.int()).abs()
    assert apart.max() <= 26
    inside = (data.inputs > 26) & (data.inputs < 229)
    assert (apart[inside] >= 25).float().mean() > 0.9
    pairs = set(zip(data.labels.tolist(), border.labels.tolist(), strict=True))
    assert pairs == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}
    assert torch.equal(wrong_labels(data.labels, 2 + 1) % 3 == data.labels, data.labels < 0)


def test_all_pictures_are_learnt_and_few_across_the_border():
    torch.manual_seed(0)
    seen, data, target = [], samples(100), network()
    old = target.head.weight.detach().clone()

    def training(module, shown, name):
        seen.append((module, shown))
        return module.network

    CrossBorder(recipe=recipe(epochs=4), fraction=0.1, epochs_factor=0.5).apply(
        target, data, training
    )
    ((module, shown),) = seen
    assert len(shown) == 110
    assert torch.equal(shown.labels[:100], data.labels)
    assert module.recipe.epochs == 2
    torch.testing.assert_close(module.old, old)
    assert not torch.allclose(module.head.weight, old, atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"fraction": 0.0}, "fraction=0"), ({"eps": 0.0}, "eps=0"), ({"alpha": -1.0}, "alpha=-1")],
)
def test_what_cannot_be_is_named(wrong, words):
    with pytest.raises(InputError, match=rf"attack\.{words}"):
        CrossBorder(recipe=recipe(), **wrong)
