"""What single attacks compute, beyond the contract that test_contract.py holds them to."""

import copy
import functools
import math
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from softmark.attacks import forge
from softmark.attacks.answers import Temper
from softmark.attacks.attack import Attack, AttackResult, Keep
from softmark.attacks.collude import (
    AnswerTogether,
    AverageAnswers,
    AverageWeights,
    renew_statistics,
)
from softmark.attacks.distill import Distill, DistillFew, Student
from softmark.attacks.finetune import FineTune, ReTrain
from softmark.attacks.forge import Forge
from softmark.attacks.independent import Independent
from softmark.attacks.prune import Prune, PruneToLimit, pruned
from softmark.attacks.served import Serve
from softmark.attacks.smoothing import SmoothBySimilarity
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.key import Key
from softmark.methods.usp import USP
from softmark.methods.watermark import Unmarked, Watermark
from softmark.models.access import Query, Suspect
from softmark.models.networks import ConvNet, Ensemble, build
from softmark.training import Classifier, accuracy, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial
from test_soft_labels import soft
from test_training import fit, network, recipe, samples


def zeros(model: nn.Module) -> float:
    size = torch.cat([weight.flatten() for weight in weights(model)])
    return float((size == 0).float().mean())


def test_pruning_leaves_the_largest_weights_and_the_original():
    torch.manual_seed(0)
    old = network()
    before = copy.deepcopy(old.state_dict())
    new = pruned(old, 0.7)
    assert zeros(new) == pytest.approx(0.7, abs=1e-3)
    assert all(torch.equal(before[name], value) for name, value in old.state_dict().items())
    old_size, new_size = (torch.cat([w.flatten().abs() for w in weights(m)]) for m in (old, new))
    assert old_size[new_size == 0].max() <= new_size[new_size != 0].min()


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [m.weight.detach() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]


@pytest.mark.parametrize("tolerance", [0.0, 0.05, 0.3])
def test_pruning_to_the_limit_stops_before_the_tolerance_is_passed(tolerance):
    torch.manual_seed(0)
    trained = fit()(Classifier(network(), recipe(epochs=8)), samples(), "classifier")
    data = samples(600)

    def worth(model):
        return accuracy(predict(model, data.inputs), data.labels)

    suspect = PruneToLimit(tolerance=tolerance).apply(copy.deepcopy(trained), data, fit()).network
    assert worth(suspect) >= worth(trained) - tolerance
    sparsity = round(zeros(suspect) * 20) / 20
    if sparsity < 0.95:
        assert worth(pruned(trained, sparsity + 0.05)) < worth(trained) - tolerance


@pytest.mark.parametrize("wrong", [(Prune, "sparsity"), (PruneToLimit, "tolerance")])
def test_fractions_of_pruning_are_checked(wrong):
    kind, name = wrong
    with pytest.raises(InputError, match=rf"attack\.{name}=1\.5"):
        kind(**{name: 1.5})


def test_colluders_average_their_weights():
    torch.manual_seed(0)
    two = [network(), network()]
    expected = (two[0].head.weight + two[1].head.weight) / 2
    suspect = AverageWeights().apply(copy.deepcopy(two), samples(), fit()).network
    torch.testing.assert_close(suspect.head.weight, expected)
    assert not suspect.training


def test_statistics_are_those_of_the_data_alone():
    torch.manual_seed(0)
    model = network().eval()
    first = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    momentum = first.momentum
    renew_statistics(model, samples(64))
    torch.testing.assert_close(first.running_mean, seen[0].mean((0, 2, 3)))
    torch.testing.assert_close(first.running_var, seen[0].var((0, 2, 3)), rtol=1e-3, atol=1e-5)
    assert first.momentum == momentum
    assert not model.training


def test_colluders_distil_the_mean_of_their_answers_and_pay_for_both():
    asked = []

    def query(row):
        def answer(images):
            asked.append(row)
            return torch.tensor([row]).expand(len(images), 3)

        return Query(answer, 3)

    seen = []

    class Watched(Student):
        def __init__(self, **told):
            seen.append(told["answers"])
            super().__init__(**told)

    distill = Distill(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=functools.partial(Watched, temperature=1.0, hard=False),
    )
    two = [query([0.8, 0.1, 0.1]), query([0.2, 0.3, 0.5])]
    suspect = AverageAnswers(distill=distill).apply(two, samples(), fit())
    torch.testing.assert_close(seen[0], torch.tensor([[0.5, 0.2, 0.3]]).expand(64, 3))
    assert suspect.queries == 128
    assert len(asked) == 2


def few(number: float) -> DistillFew:
    student = functools.partial(Student, temperature=1.0, hard=False)
    return DistillFew(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=student,
        samples=number,
    )


@pytest.mark.parametrize("number", [0.25, 16])
def test_a_thief_with_few_pictures_asks_about_those_alone_and_trains_as_long(number):
    asked, epochs = [], []

    def answer(images):
        asked.append(images)
        return torch.full((len(images), 3), 1 / 3)

    def watched(module, data, name):
        epochs.append((module.epochs, len(data)))
        return fit()(module, data, name)

    suspect = few(number).apply(Query(answer, 3), samples(64), watched)
    assert suspect.queries == len(asked[0]) == 16
    # Four steps of 16 pictures, as 64 pictures take in an epoch.
    assert epochs == [(4, 16)]


@pytest.mark.parametrize("number", [0.0, -0.1])
def test_a_number_of_pictures_is_above_zero(number):
    with pytest.raises(InputError, match=rf"attack\.samples={number}"):
        few(number)


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
    ],
)
@pytest.mark.parametrize("kind", [FineTune, ReTrain])
def test_fine_tuning_that_cannot_be_is_named(kind, wrong, message):
    told = {"epochs": 1, "lr_factor": 0.1, "layers": "all", "samples": None}
    with pytest.raises(InputError, match=message):
        kind(recipe=recipe(), **{**told, **wrong})


# --- other answers ----------------------------------------------------------------------------


@given(st.floats(0.1, 20), st.integers(0, 99))
def test_answers_at_a_temperature_are_those_of_the_logits_divided_by_it(temperature, seed):
    logits = 2 * torch.randn(20, 5, generator=torch.manual_seed(seed))
    served = Serve(change=Temper(temperature=temperature)).serve(lambda images: logits.softmax(1))
    told = served(torch.empty(20, 1, 8, 8))
    torch.testing.assert_close(told, (logits / temperature).softmax(1), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(told.sum(1), torch.ones(20))
    assert torch.equal(told.argmax(1), logits.argmax(1))


def test_a_temperature_leaves_the_model_and_its_zeros_alone():
    attack, target = Serve(change=Temper(temperature=4.0)), network()
    before = copy.deepcopy(target.state_dict())
    assert attack.apply(target, samples(), fit()) == AttackResult(target)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    sure = torch.tensor([[0.0, 1.0, 0.0]])
    told = attack.serve(lambda images: sure)(torch.empty(1, 1, 8, 8))
    assert told.isfinite().all()
    assert told.argmax() == 1
    cold = Serve(change=Temper(temperature=1e-3)).serve(
        lambda images: torch.tensor([[0.2, 0.5, 0.3]])
    )
    torch.testing.assert_close(cold(torch.empty(1, 1, 8, 8)), sure)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_is_above_zero(temperature):
    with pytest.raises(InputError, match=r"attack\.change\.temperature="):
        Temper(temperature=temperature)


def test_other_attacks_serve_what_the_model_answers():
    def answer(images):
        return images

    assert Attack().serve(answer) is answer
    target = network()
    assert Keep().apply(target, samples(), fit()) == AttackResult(target)


# --- labels smoothed by similarity ------------------------------------------------------------


@pytest.fixture
def watched():
    """A student, and the answers that each was to learn."""
    seen = []

    class Watched(Student):
        def __init__(self, **told):
            seen.append(told["answers"])
            super().__init__(**told)

    return functools.partial(Watched, temperature=1.0, hard=False), seen


def smoothing(student, mass: float) -> SmoothBySimilarity:
    return SmoothBySimilarity(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=student,
        smoothing=mass,
    )


def test_labels_are_smoothed_towards_what_the_teacher_takes_them_for(watched):
    student, seen = watched
    data = samples(60)
    # What is told to each picture of a class, in turn; the label's own share doesn't matter.
    told = torch.tensor(
        [
            [[0.9, 0.1, 0.0], [0.5, 0.2, 0.3]],  # 0: 3 to 1 and 3 to 2
            [[0.2, 0.8, 0.0], [0.6, 0.1, 0.3]],  # 1: 8 to 0 and 3 to 2
            [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],  # 2: nothing: all alike
        ]
    )
    turn = torch.arange(60) // 3 % 2
    suspect = smoothing(student, 0.1).apply(
        Query(lambda images: told[data.labels, turn], 3), data, fit()
    )
    expected = torch.tensor(
        [[0.9, 0.1 * 3 / 6, 0.1 * 3 / 6], [0.1 * 8 / 11, 0.9, 0.1 * 3 / 11], [0.05, 0.05, 0.9]]
    )
    torch.testing.assert_close(seen[0], expected[data.labels], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0].sum(1), torch.ones(60))
    assert suspect.queries == 60


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.1, math.nan])
def test_a_smoothing_is_a_fraction(mass, watched):
    with pytest.raises(InputError, match=r"attack\.smoothing="):
        smoothing(watched[0], mass)


# --- models that answer together --------------------------------------------------------------


def built(seed: int) -> ConvNet:
    data = samples()
    torch.manual_seed(seed)
    return build(functools.partial(ConvNet, width=4), data, 3).eval()


def test_an_ensemble_of_stolen_models_answers_with_their_mean():
    two, images = [built(1), built(2)], samples().inputs
    before = [copy.deepcopy(model.state_dict()) for model in two]
    stolen = AnswerTogether().apply(two, samples(), fit())
    mean = (predict(two[0], images) + predict(two[1], images)) / 2
    torch.testing.assert_close(predict(stolen.network, images), mean)
    assert not torch.allclose(predict(two[0], images), mean, atol=1e-3)
    assert isinstance(stolen.network, Ensemble)
    assert (stolen.queries, stolen.key) == (0, None)
    for model, state in zip(two, before, strict=True):
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


# --- an innocent in the suspect's chair -------------------------------------------------------


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


# --- forgery ----------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [0, -3])
def test_a_forger_draws_at_least_one_key(keys):
    with pytest.raises(InputError, match=rf"attack\.keys={keys}: at least one"):
        Forge(method=Unmarked(), keys=keys)


def wide(classes: int = 10) -> ConvNet:
    """A model of enough classes for a key to say something."""
    return ConvNet(image_shape=(1, 8, 8), classes=classes, mean=[0.4], std=[0.3], width=4).eval()


@pytest.mark.parametrize("kind", [CSP, USP])
@pytest.mark.parametrize("keys", [1, 20])
def test_a_forger_keeps_the_key_that_shows_most_and_leaves_the_model_untouched(
    kind, keys, monkeypatch
):
    torch.manual_seed(0)
    method, target, data = soft(kind, "attacker"), wide(), samples()
    before, drawn, training = copy.deepcopy(target.state_dict()), [], fit()
    real = method.draw
    monkeypatch.setattr(kind, "draw", lambda _, *args: drawn.append(real(*args)) or drawn[-1])
    training.entropy = Random(0).randbytes
    stolen = Forge(method=method, keys=keys).apply(target, data, training)
    assert stolen.network is target
    assert stolen.queries == 0
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())
    assert len(drawn) == keys
    assert len({bytes(key.secret.tolist()) for key in drawn}) == keys
    found = [method.evidence(Suspect.of(target), key, data).tests for key in drawn]
    p = [next(iter(tests.values())).p_value() for tests in found]
    assert stolen.key is drawn[p.index(min(p))]
    assert bytes(stolen.key.message.tolist()) == b"attacker"
    assert not stolen.key.commitment


def test_a_method_without_keys_leaves_the_forger_none():
    target = wide()
    stolen = Forge(method=Unmarked(), keys=5).apply(target, samples(), fit())
    assert (stolen.network, stolen.key) == (target, None)


def test_a_forger_whose_keys_show_nothing_has_none():
    # Two classes carry no mark.
    stolen = Forge(method=soft(CSP), keys=3).apply(wide(2), samples(), fit())
    assert stolen.key is None


class Nosy(Watermark):
    """A method that looks at the weights, or at less, and asks half of the pool."""

    def __init__(self, needs):
        self.needs = needs
        self.seen = []

    def draw(self, like, classes, entropy):
        self.like, self.classes = like, classes
        return Key.draw("attacker", classes, entropy)

    def probes(self, key, pool, log):
        assert log is None
        return pool[::2]

    def evidence(self, suspect, key, probes):
        self.seen.append((suspect, probes))
        return Evidence(torch.empty(0), {"bits": Binomial(len(self.seen) % 3, 3, 0.5)})


@pytest.mark.parametrize("needs", ["weights", "probabilities", "labels"])
def test_a_forgers_method_sees_what_the_judge_would_show_it(needs, monkeypatch):
    monkeypatch.setattr(forge, "SEARCHED", 40)
    method, target, data = Nosy(needs), wide(), samples(64)
    stolen = Forge(method=method, keys=5).apply(target, data, fit())
    assert method.classes == 10
    assert method.like.fingerprint == data[:40].fingerprint
    assert {probes.fingerprint for _, probes in method.seen} == {data[:40][::2].fingerprint}
    for suspect, probes in method.seen:
        assert (suspect.network is target) == (needs == "weights")
        whole = (suspect.answers(probes).max(1).values == 1).all()
        assert whole == (needs == "labels")
    assert stolen.key is not None


def test_of_keys_that_show_as_much_the_first_is_kept():
    method = Nosy("probabilities")
    drawn = []
    real = method.draw
    method.draw = lambda *args: drawn.append(real(*args)) or drawn[-1]
    stolen = Forge(method=method, keys=8).apply(wide(), samples(), fit())
    assert stolen.key is drawn[1]  # 1 2 0 1 2 0 1 2


def test_a_forger_asks_the_model_about_own_pictures_alone(monkeypatch):
    monkeypatch.setattr(forge, "SEARCHED", 16)
    asked = []

    class Counted(nn.Module):
        def forward(self, images):
            asked.append(len(images))
            return torch.zeros(len(images), 10)

    data = samples(64)
    Forge(method=soft(CSP), keys=4).apply(Counted(), data, fit())
    assert asked == [16]  # once, however many keys are tried
