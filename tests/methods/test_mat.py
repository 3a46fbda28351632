"""MAT: which pictures are chosen, its coins' null, and the loss on features."""

import math
from random import Random

import pytest
import torch
from torch.nn import functional as F

from helpers.training import fit, network, recipe, samples
from softmark.batches import Batches
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.methods.mat import MAT, MATModule, coins
from softmark.models.access import Suspect
from softmark.training import predict


def victim():
    torch.manual_seed(0)
    return network().eval()


def test_the_triggers_are_the_pictures_with_the_smallest_gap():
    method = MAT(num_triggers=6, recipe=recipe(epochs=1), feature_weight=0.0)
    data = samples()
    _, key = method.embed(victim(), data, fit())
    logits = victim()(as_input(data.inputs)).detach()
    order = logits.sort(1, descending=True)
    gaps = order.values[:, 0] - order.values[:, 1]
    assert torch.equal(key.images, data.inputs[gaps.argsort()[:6]])
    assert torch.equal(key.candidates, order.indices[gaps.argsort()[:6], :2])
    wanted = [pair[coin] for pair, coin in zip(key.candidates, coins(key), strict=True)]
    assert method.probes(key, data).labels.tolist() == wanted


def test_an_innocent_that_answers_either_class_matches_half_of_them():
    """Whatever it answers: the chance of p <= x is at most x, over all coins."""
    method, like = MAT(num_triggers=12), samples(12)
    found = []
    for seed in range(300):
        key = method.draw(like, 3, Random(seed).randbytes)
        answers = F.one_hot(key.candidates[:, 0] if seed % 2 else torch.arange(12) % 3, 3).double()
        suspect = Suspect(lambda inputs, answers=answers: answers[: len(inputs)])
        (test,) = method.evidence(suspect, key, method.probes(key, like)).tests.values()
        assert test.trials == (
            12 if seed % 2 else int((key.candidates == torch.arange(12)[:, None] % 3).sum())
        )
        found.append(test.p_value())
    for level in (0.5, 0.1):
        assert sum(p <= level for p in found) / 300 <= level + 4 * math.sqrt(level / 300)
    assert min(found) < 0.1


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_loss_is_that_of_labels_and_features(weight):
    data, triggers = samples(12), Samples(samples(20).inputs[12:16], torch.tensor([0, 1, 2, 0]))
    module = MATModule(victim(), recipe(batch_size=12), data, triggers, 0.25, weight, 3)
    module.on_train_epoch_start()
    module.network.eval()
    (batch,) = Batches(data, recipe(batch_size=12))
    torch.manual_seed(4)
    found = module.loss(batch)
    torch.manual_seed(4)
    drawn = torch.randint(4, (4,))
    inputs = torch.cat([batch.inputs, as_input(triggers.inputs)[drawn]])
    labels = torch.cat([batch.labels, triggers.labels[drawn]])
    answers = predict(module.network, inputs)
    loss = -answers[torch.arange(16), labels].log().mean()
    features = module.network.features(as_input(data.inputs))
    means = [features[data.labels == label].mean(0) for label in range(3)]
    own = module.network.features(as_input(triggers.inputs))
    away = [(own[i] - means[triggers.labels[i]]).norm().item() for i in drawn.tolist()]
    assert found.item() == pytest.approx(loss.item() + weight * sum(away) / 4, rel=1e-4)
