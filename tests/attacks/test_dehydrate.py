"""What a model remembers, and how it is unlearnt."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.training import fit, network, recipe, samples
from softmark.attacks.dehydrate import Dehydrate, DehydrationModule
from softmark.batches import Batch
from softmark.errors import InputError
from softmark.training import Classifier, predict


def test_inverted_pictures_are_of_their_classes_and_the_model_stays():
    torch.manual_seed(0)
    data = samples()
    target = fit()(Classifier(network(), recipe(epochs=6)), data, "classifier")
    before = {name: value.clone() for name, value in target.state_dict().items()}
    attack = Dehydrate(recipe=recipe(), per_class=5, inversion_factor=20.0)
    found = attack.invert(target, data, fit())
    assert found.inputs.shape == (15, 1, 8, 8)
    assert found.inputs.dtype == torch.uint8
    assert (predict(target, found.inputs).argmax(1) == found.labels).float().mean() > 0.8
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


def test_the_tasks_pictures_have_labels_and_the_others_even_answers():
    torch.manual_seed(0)
    model = nn.Linear(2, 3)
    inputs, labels = torch.rand(6, 2), torch.arange(6) % 3
    module = DehydrationModule(model, recipe(), task_size=10, weight=0.5)
    batch = Batch(inputs, labels, torch.tensor([0, 10, 3, 11, 9, 12]))
    task, rest = inputs[[0, 2, 4]], inputs[[1, 3, 5]]
    even = torch.full((3, 3), 1 / 3)
    wanted = F.cross_entropy(model(task), labels[[0, 2, 4]])
    wanted = wanted + 0.5 * F.kl_div(model(rest).log_softmax(1), even, reduction="batchmean")
    torch.testing.assert_close(module.loss(batch), wanted)


@pytest.mark.parametrize(
    "wrong", [{"per_class": 0}, {"inversion_factor": 0.0}, {"weight": -1.0}, {"inversion_lr": 0.0}]
)
def test_what_cannot_be_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=rf"attack\.{name}={value}"):
        Dehydrate(recipe=recipe(), **wrong)
