"""Pictures perturbed until the loss rises."""

import torch

from helpers.training import fit, network, recipe, samples
from softmark.attacks.perturb import perturbed
from softmark.data.pixels import as_input
from softmark.training import Classifier


def test_perturbed_pictures_stay_in_the_box_and_raise_the_loss():
    torch.manual_seed(0)
    data = samples(200)
    model = fit()(Classifier(network(), recipe(epochs=6)), data, "classifier")
    images = as_input(data.inputs)
    model.zero_grad()
    moved = perturbed(model, images, data.labels, 0.1, 5)
    assert (moved - images).abs().max() <= 0.1 + 1e-6
    assert moved.min() >= 0
    assert moved.max() <= 1
    with torch.inference_mode():
        before, after = (
            torch.nn.functional.cross_entropy(model(each), data.labels) for each in (images, moved)
        )
    assert after > 1.5 * before
    assert all(parameter.grad is None for parameter in model.parameters())
