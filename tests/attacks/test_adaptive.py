"""Attackers who know the method: what they embed and train against."""

import copy
import functools

import pytest
import torch
from torch import nn

from helpers.signs import HeadSign, trained
from helpers.training import fit, network, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks.adaptive import Evade, EvadeModule, Overwrite, detector_of
from softmark.attacks.answers import log_of
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.models.networks import ConvNet
from softmark.training import Classifier, predict

NETWORK = functools.partial(ConvNet, width=4)


def test_overwriting_leaves_a_key_of_the_attackers_own():
    target = trained()
    stolen = Overwrite(method=HeadSign()).apply(target, samples(), fit())
    assert isinstance(stolen.key, Key)
    assert Overwrite.knows == "method"


def test_a_detector_learns_what_tells_two_models_apart():
    torch.manual_seed(0)
    p = (2 * torch.randn(600, 5)).softmax(1)
    tilted = p * torch.tensor([1.0, 30.0, 0.03, 1.0, 1.0])
    tilted = tilted / tilted.sum(1, keepdim=True)
    detector = detector_of(log_of(tilted[:300]), log_of(p[:300]))
    with torch.inference_mode():
        hits = (detector(log_of(tilted[300:])) > 0).float().mean()
        false = (detector(log_of(p[300:])) > 0).float().mean()
    assert hits - false > 0.4


class Tilted(HeadSign):
    """Marks nothing, so that the stand-in shows what an unmarked model shows."""

    def embed(self, victim, data, fit):
        return victim, None


def test_evading_fools_the_detector_and_keeps_the_accuracy():
    torch.manual_seed(0)
    data = samples(300)
    template = torch.tensor([[0.7, 0.25, 0.05], [0.05, 0.7, 0.25], [0.25, 0.05, 0.7]])
    target = fit()(Classifier(network(), recipe(epochs=6)), data, "classifier")

    class Leaning(Classifier):
        def loss(self, batch):
            wanted = template[batch.labels]
            return nn.functional.cross_entropy(self.network(batch.inputs), wanted)

    target = fit()(Leaning(target, recipe(epochs=10)), data, "leaning")
    own = fit()(Classifier(network(), recipe(epochs=6)), data, "classifier")
    detector = detector_of(log_of(predict(target, data.inputs)), log_of(predict(own, data.inputs)))

    def caught(model):
        with torch.inference_mode():
            return float((detector(log_of(predict(model, data.inputs))) > 0).float().mean())

    assert caught(target) > 0.9
    free = fit()(EvadeModule(copy.deepcopy(target), recipe(epochs=5), detector, 1.0), data, "evade")
    assert caught(free) < 0.2
    attack = Evade(
        recipe=recipe(epochs=6),
        rounds=3,
        lr_factor=0.5,
        weight=1.0,
        network=NETWORK,
        method=Tilted(),
    )
    suspect = attack.apply(copy.deepcopy(target), data, fit()).network
    assert accuracy(predict(suspect, data.inputs), data.labels) > 0.95
    sure = [float(predict(model, data.inputs).amax(1).mean()) for model in (target, suspect)]
    assert sure[1] > sure[0] + 0.1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"lr_factor": 0.0}, r"lr_factor=0\.0"),
        ({"weight": 0.0}, r"weight=0\.0"),
    ],
)
def test_numbers_of_evading_are_checked(wrong, said):
    with pytest.raises(InputError, match=rf"attack\.{said}"):
        Evade(recipe=recipe(), network=NETWORK, method=HeadSign(), **wrong)
