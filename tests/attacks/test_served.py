"""What is served in the model's place: changed answers, changed inputs, two models together."""

import copy
import io

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training import NETWORK, fit, network, recipe, samples
from softmark.attacks import answers as changes
from softmark.attacks.served import (
    Blur,
    Inputs,
    Jpeg,
    Levels,
    Median,
    Mirror,
    OtherTail,
    PixelNoise,
    Serve,
    ServeOwnTail,
    ServeTogether,
    Smoothing,
)
from softmark.errors import InputError
from softmark.models.files import load_network, save_network
from softmark.models.networks import build
from softmark.training import Classifier, predict


def test_a_served_change_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    attack, target, data = Serve(change=changes.Flatten()), network(), samples()
    before = copy.deepcopy(target.state_dict())
    stolen = attack.apply(target, data, fit())
    assert stolen.network is target
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    told = attack.serve(lambda images: predict(target, images))(data.inputs)
    torch.testing.assert_close(told, changes.Flatten()(predict(target, data.inputs)))


def test_what_cannot_be_served_is_said_when_the_model_is_stolen():
    with pytest.raises(InputError, match=r"k=100: the model has"):
        Serve(change=changes.TopK(k=100)).apply(network(), samples(), fit())


def test_the_own_tail_is_the_own_models():
    torch.manual_seed(0)
    data = samples(200)
    stolen = fit()(Classifier(build(NETWORK, data, 3), recipe(epochs=6)), data, "classifier")
    whole = ServeOwnTail(recipe=recipe(), network=NETWORK).apply(stolen, data, fit()).network
    assert isinstance(whole, OtherTail)
    told = predict(whole, data.inputs)
    first, second = (predict(each, data.inputs) for each in whole.networks)
    assert torch.equal(told.argmax(1), first.argmax(1))
    top = changes.is_top(first)
    ratio = (told / second).masked_fill(top, torch.nan)
    spread = ratio.nan_to_num(0).amax(1) / ratio.nan_to_num(torch.inf).amin(1)
    # Proportional to the second's, but where that would exceed the likeliest class.
    assert spread.median() < 1.001


@pytest.mark.parametrize("kind", [ServeTogether, ServeOwnTail])
def test_what_is_served_by_two_models_is_the_same_from_a_file(kind, tmp_path):
    torch.manual_seed(0)
    data = samples(50)
    whole = (
        kind(recipe=recipe(), network=NETWORK).apply(build(NETWORK, data, 3), data, fit()).network
    )
    save_network(whole, tmp_path / "model")
    again = load_network(tmp_path / "model")
    assert type(again) is type(whole)
    assert torch.equal(predict(again, data.inputs), predict(whole, data.inputs))


def test_together_they_answer_with_their_mean():
    torch.manual_seed(0)
    data = samples(100)
    stolen = build(NETWORK, data, 3)
    whole = ServeTogether(recipe=recipe(), network=NETWORK).apply(stolen, data, fit()).network
    mean = torch.stack([predict(each, data.inputs) for each in whole.networks]).mean(0)
    torch.testing.assert_close(predict(whole, data.inputs), mean)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 16)])
@pytest.mark.parametrize(
    "change",
    [
        Jpeg(quality=45),
        Blur(sigma=0.5),
        Median(size=2),
        Levels(levels=4),
        PixelNoise(sigma=0.1),
        Mirror(),
        Smoothing(copies=3, sigma=0.05, pad=1),
    ],
    ids=lambda change: type(change).__name__,
)
def test_changed_inputs_are_pictures_of_the_same_kind(change, shape):
    images = torch.randint(256, (5, *shape), dtype=torch.uint8)
    seen = []

    def answer(images):
        seen.append(images)
        return torch.full((len(images), 4), 0.25)

    told = change(answer, images)
    assert told.shape == (5, 4)
    assert all(each.shape == images.shape and each.dtype == torch.uint8 for each in seen)
    again = len(seen)
    change(answer, images)
    assert all(torch.equal(a, b) for a, b in zip(seen[:again], seen[again:], strict=True)), (
        "a verdict can be repeated"
    )
    assert not all(torch.equal(each, images) for each in seen)


def test_input_changes_are_what_they_are_called():
    images = torch.randint(256, (3, 1, 12, 12), dtype=torch.uint8)

    def through(change):
        seen = []
        change(lambda pictures: seen.append(pictures), images)
        return seen[0]

    assert torch.equal(through(Mirror()), images.flip(3))
    assert len(through(Levels(levels=4)).unique()) <= 4
    assert through(Blur(sigma=2.0)).float().std() < images.float().std()
    noise = through(PixelNoise(sigma=0.01)).float() - images.float()
    assert 1.5 < noise.std() < 3.5
    file = io.BytesIO()
    Image.fromarray(images[0, 0].numpy()).save(file, "JPEG", quality=45)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    assert torch.equal(through(Jpeg(quality=45))[0, 0], decoded)


def test_changed_inputs_are_served():
    attack = Inputs(change=Mirror())
    asked = []
    attack.serve(lambda images: asked.append(images))(samples(4).inputs)
    assert torch.equal(asked[0], samples(4).inputs.flip(3))
