"""Trained on: for how long, on what, and what it does to the answers."""

import copy
import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.training import STUDENT, fit, network, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks import answers as changes
from softmark.attacks.attack import AttackResult
from softmark.attacks.finetune import (
    FineTune,
    ReTrain,
    SelfDistill,
    SmoothLabels,
    TrainAdversarially,
)
from softmark.attacks.perturb import perturbed
from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.training import Classifier, predict


def test_retraining_draws_the_last_layer_anew_and_leaves_the_others():
    torch.manual_seed(0)
    target = network()
    before = copy.deepcopy(target.state_dict())
    attack = ReTrain(recipe=recipe(), epochs=1, lr_factor=1e-9, layers="last", samples=None)
    after = attack.apply(target, samples(), fit()).network.state_dict()
    assert not torch.allclose(after["head.weight"], before["head.weight"], atol=1e-3)
    kept = [weight for weight in before if not weight.startswith("head") and "weight" in weight]
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)


def noting(seen: list):
    """A trainer that trains nothing and notes what it was asked for."""

    def training(module, data, name):
        seen.append((module, data, len(module.batches(data)) * module.epochs))
        return module.network

    training.entropy = Random(0).randbytes
    return training


def test_fine_tuning_has_the_recipe_but_for_its_length_and_learning_rate():
    seen, data, target = [], samples(), network()
    stolen = FineTune(
        recipe=recipe(lr=0.2), epochs=3, lr_factor=0.1, layers="all", samples=None
    ).apply(target, data, noting(seen))
    ((module, used, _),) = seen
    assert module.recipe == recipe(lr=0.2 * 0.1, epochs=3)
    assert used.fingerprint == data.fingerprint
    assert stolen == AttackResult(target)


@pytest.mark.parametrize("kind", [FineTune, ReTrain])
@given(
    held=st.integers(2, 200),
    few=st.integers(2, 200),
    batch=st.integers(2, 64),
    epochs=st.integers(1, 9),
)
def test_few_pictures_are_shown_as_often_as_many(kind, held, few, batch, epochs):
    seen, data = [], samples(held)
    told = recipe(batch_size=batch)
    for count in (None, few):
        attack = kind(recipe=told, epochs=epochs, lr_factor=0.1, layers="all", samples=count)
        attack.apply(network(), data, noting(seen))
    (_, everything, all_steps), (_, used, steps) = seen
    assert len(everything) == held
    assert used.fingerprint == data[:few].fingerprint
    # As many steps, up to half an epoch.
    epoch = max(1, min(few, held) // batch)
    assert steps == epoch or abs(steps - all_steps) <= epoch / 2
    if few >= held:
        assert steps == all_steps


@given(count=st.integers(1, 300), batch=st.integers(2, 64), steps=st.integers(1, 500))
def test_steps_are_counted_in_whole_epochs(count, batch, steps):
    told, data = recipe(batch_size=batch), range(count)
    epoch = max(1, count // batch)
    least = FineTune(recipe=told, epochs=3, min_steps=steps).tuned_for(data).epochs
    assert least == max(3, -(-steps // epoch))
    most = FineTune(recipe=told, epochs=3, min_steps=2, max_steps=steps).tuned_for(data).epochs
    assert most == 1 or most * epoch <= steps
    assert FineTune(recipe=told, epochs=3).tuned_for(data).epochs == 3


def test_a_rate_can_be_constant_or_fall_after_each_epoch():
    seen = []
    for decay in (None, 1.0, 0.5):
        FineTune(recipe=recipe(warmup=0.5), epochs=2, lr_decay=decay).apply(
            network(), samples(), noting(seen)
        )
    rates = [[module.rate(step / 4) for step in range(4)] for module, _, _ in seen]
    assert rates == [
        pytest.approx(each) for each in ([0.05, 0.525, 1.0, 0.5], [1.0] * 4, [1, 1, 0.5, 0.5])
    ]


def test_few_pictures_are_the_first_and_in_proportion():
    seen, data = [], samples(90)
    FineTune(recipe=recipe(), epochs=1, lr_factor=0.1, layers="all", samples=31).apply(
        network(), data, noting(seen)
    )
    assert sorted(np.bincount(seen[0][1].labels)) == [10, 10, 11]


def test_fine_tuning_on_two_pictures_works():
    torch.manual_seed(0)
    tuned = (
        FineTune(recipe=recipe(), epochs=1, lr_factor=0.1, layers="all", samples=2)
        .apply(network(), samples(), fit())
        .network
    )
    assert all(p.isfinite().all() and p.requires_grad for p in tuned.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lr_factor": 0.0}, r"attack\.lr_factor=0\.0"),
        ({"lr_factor": math.nan}, r"attack\.lr_factor=nan"),
        ({"layers": "first"}, r"attack\.layers=first: all or last"),
        ({"samples": 1}, r"attack\.samples=1: at least 2"),
        ({"samples": -5}, r"attack\.samples=-5: at least 2"),
        ({"epochs": 0}, r"attack\.epochs=0"),
        ({"min_steps": 0}, r"attack\.min_steps=0: at least 1"),
        ({"lr_decay": 1.5}, r"attack\.lr_decay=1\.5"),
    ],
)
@pytest.mark.parametrize("kind", [FineTune, ReTrain])
def test_fine_tuning_that_cannot_be_is_named(kind, wrong, message):
    told = {"epochs": 1, "lr_factor": 0.1, "layers": "all", "samples": None}
    with pytest.raises(InputError, match=message):
        kind(recipe=recipe(), **{**told, **wrong})


def test_adversarial_training_makes_a_model_harder_to_fool():
    torch.manual_seed(0)
    data = samples(400)
    plain = fit()(Classifier(network(), recipe(epochs=8)), data, "classifier")
    attack = TrainAdversarially(
        recipe=recipe(epochs=8), epochs=8, lr_factor=1.0, eps=0.3, iterations=3
    )
    tough = attack.apply(copy.deepcopy(plain), data, fit()).network
    images = as_input(data.inputs)

    def fooled(model):
        moved = perturbed(model, images, data.labels, 0.3, 5)
        return accuracy(model(moved).softmax(1), data.labels)

    assert fooled(tough) > fooled(plain) + 0.1


def test_smoothed_labels_make_a_model_less_sure():
    torch.manual_seed(0)
    data = samples(400)
    plain = fit()(Classifier(network(), recipe(epochs=8)), data, "classifier")
    attack = SmoothLabels(
        recipe=recipe(epochs=8),
        epochs=5,
        lr_factor=0.5,
        min_steps=None,
        layers="all",
        samples=None,
        label_smoothing=0.5,
    )
    smooth = attack.apply(copy.deepcopy(plain), data, fit()).network
    sure = [float(predict(model, data.inputs).amax(1).mean()) for model in (smooth, plain)]
    assert sure[0] < sure[1] - 0.15


def test_self_distillation_flattens_the_models_own_tails():
    torch.manual_seed(0)
    data = samples(400)
    # A teacher whose answers have tails: class 0 leans to 1, and so on.
    template = torch.tensor([[0.7, 0.25, 0.05], [0.05, 0.7, 0.25], [0.25, 0.05, 0.7]])
    student = STUDENT(network(), recipe(epochs=20), answers=template[data.labels])
    target = fit()(student, data, "student")
    attack = SelfDistill(
        recipe=recipe(epochs=8), epochs=20, lr_factor=0.5, student=STUDENT, change=changes.Flatten()
    )
    before = changes.mean_tails(predict(target, data.inputs)).norm()
    flat = attack.apply(copy.deepcopy(target), data, fit()).network
    assert before > 1
    assert changes.mean_tails(predict(flat, data.inputs)).norm() < 0.2 * before
