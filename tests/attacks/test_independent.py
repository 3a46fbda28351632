"""A model that an innocent trained, in the suspect's chair."""

import functools

import torch

from helpers.training import fit, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks.attack import Keep
from softmark.attacks.distill import Distill
from softmark.attacks.finetune import FineTune
from softmark.attacks.forge import Forge
from softmark.attacks.independent import Independent
from softmark.attacks.prune import Prune
from softmark.attacks.served import Serve
from softmark.models.access import Query
from softmark.models.networks import ConvNet
from softmark.training import predict


def test_an_independent_model_asks_the_target_nothing():
    torch.manual_seed(0)

    def answer(images):
        raise AssertionError("it asked")

    attack = Independent(
        recipe=recipe(epochs=8), network=functools.partial(ConvNet, width=4), samples=1e9
    )
    data = samples(120)
    stolen = attack.apply(Query(answer, 3), data, fit())
    assert stolen.queries == 0
    assert attack.innocent
    assert accuracy(predict(stolen.network, data.inputs), data.labels) > 0.9
    assert not any(kind.innocent for kind in (Keep, FineTune, Prune, Distill, Serve, Forge))


def test_who_trains_alone_on_few_pictures_trains_as_long():
    epochs = []

    def watched(module, data, name):
        epochs.append((module.epochs, len(data)))
        return fit()(module, data, name)

    network = functools.partial(ConvNet, width=4)
    query = Query(lambda images: torch.full((len(images), 3), 1 / 3), 3)
    for number in (16, 1e9):
        Independent(recipe=recipe(epochs=1), network=network, samples=number).apply(
            query, samples(64), watched
        )
    assert epochs == [(4, 16), (1, 64)]
