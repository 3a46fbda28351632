"""Attacks on weights: each on every network, quantising, averaging, and perturbations."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks import NETWORKS, batch_of, built, layers
from helpers.training import fit, network, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks.attack import AttackResult, tuning
from softmark.attacks.attention import AttentionDistillation
from softmark.attacks.collude import mean_of, renew_statistics
from softmark.attacks.distill import Student
from softmark.attacks.neurons import PruneNeurons
from softmark.attacks.prune import PruneFilters, PruneInactive, PruneLayers
from softmark.attacks.unlearn import Unlearn, UnlearnModule
from softmark.attacks.weights import (
    AddNoise,
    AveragePath,
    AverageStudent,
    Quantise,
    Regularise,
    ShiftWeights,
)
from softmark.data.roles import Samples, Shares, share
from softmark.data.sources import Digits
from softmark.errors import InputError
from softmark.models.networks import ConvNet, build
from softmark.training import Classifier, predict


@pytest.fixture(scope="module")
def roles():
    shares = Shares(0.5, 0.3333, 0, None, None, False)
    return share(Digits().read(), shares)


@pytest.fixture(scope="module")
def trained(roles):
    """A small victim, on the owner's digits."""
    torch.manual_seed(0)
    made = build(functools.partial(ConvNet, width=8), roles.owner, 10)
    return fit()(Classifier(made, recipe(epochs=10, batch_size=64)), roles.owner, "victim")


def worth(model: nn.Module, data: Samples) -> float:
    return accuracy(predict(model, data.inputs), data.labels)


# --- every attack on every network ----------------------------------------------------------------


def attacks(name: str) -> list:
    short = recipe(epochs=1, lr=0.02, batch_size=32)
    student = functools.partial(Student, temperature=1.0, hard=False)
    return [
        PruneLayers(sparsity=0.5),
        PruneFilters(fraction=0.25),
        PruneInactive(fraction=0.5),
        Quantise(bits=4),
        AddNoise(sigma=0.1),
        ShiftWeights(recipe=short, epochs=1, lr_factor=0.1, strength=1.5, noise=1.0),
        Regularise(recipe=short, epochs=1, lr_factor=0.1, weight_decay=0.1),
        AveragePath(recipe=short, rounds=2, epochs=1, lr_factor=0.1),
        AverageStudent(recipe=short, network=NETWORKS[name], student=student),
        AttentionDistillation(recipe=short, epochs=1, min_steps=None),
        PruneNeurons(recipe=short, epochs=3, min_steps=None, lr=5.0, tolerance=1.0),
        Unlearn(recipe=short, epochs=1, min_steps=None, ascents=2, fraction=0.5),
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_each_attack_takes_each_network_and_leaves_one_like_it(name):
    target, data = built(name), samples(32)
    for attack in attacks(name):
        given = copy.deepcopy(target)
        stolen = attack.apply(given, data, fit())
        assert isinstance(stolen, AttackResult)
        assert stolen.network.node == target.node
        assert not stolen.network.training
        assert all(p.requires_grad for p in stolen.network.parameters())
        state = stolen.network.state_dict()
        assert {n: v.shape for n, v in state.items()} == {
            n: v.shape for n, v in target.state_dict().items()
        }
        assert all(value.isfinite().all() for value in state.values())
        changed = [n for n, v in target.state_dict().items() if not torch.equal(v, state[n])]
        assert changed, type(attack).__name__
        assert not any(m._forward_hooks for m in stolen.network.modules())


WRONG = [
    (PruneLayers, {"sparsity": 0.5}, {"sparsity": (-0.1, 1.1, math.nan)}),
    (PruneFilters, {"fraction": 0.5}, {"fraction": (-0.1, 1.1, math.nan)}),
    (PruneInactive, {"fraction": 0.5}, {"fraction": (-0.1, 1.1, math.nan)}),
    (Quantise, {"bits": 4}, {"bits": (1, 17, 0)}),
    (AddNoise, {"sigma": 0.1}, {"sigma": (-0.1, math.nan)}),
    (
        ShiftWeights,
        {"recipe": recipe(), "epochs": 1, "lr_factor": 0.1, "strength": 1.5, "noise": 1.0},
        {
            "epochs": (0,),
            "lr_factor": (0.0, math.nan),
            "strength": (-1.0, math.nan),
            "noise": (-1.0, math.nan),
        },
    ),
    (
        Regularise,
        {"recipe": recipe(), "epochs": 1, "lr_factor": 0.1, "weight_decay": 0.1},
        {"epochs": (0,), "lr_factor": (0.0,), "weight_decay": (0.0, -1.0, math.nan)},
    ),
    (
        AveragePath,
        {"recipe": recipe(), "rounds": 2, "epochs": 1, "lr_factor": 0.1},
        {"rounds": (0,), "epochs": (0,), "lr_factor": (-1.0,)},
    ),
    (
        AttentionDistillation,
        {"recipe": recipe(), "epochs": 1, "lr_factor": 0.1, "first": 0.1, "later": 0.1},
        {
            "epochs": (0,),
            "lr_factor": (0.0,),
            "min_steps": (0,),
            "max_steps": (0,),
            "first": (-0.1, 1.1),
            "later": (0.0, math.nan),
        },
    ),
    (
        PruneNeurons,
        {"recipe": recipe(), "epochs": 1, "lr": 0.2, "eps": 0.4, "alpha": 0.2, "tolerance": 0.2},
        {
            "epochs": (0,),
            "lr": (0.0, math.nan),
            "eps": (0.0,),
            "alpha": (-0.1, 1.1, math.nan),
            "tolerance": (-0.1, 1.1),
            "held_out": (0.0, 1.0, math.nan),
        },
    ),
    (
        Unlearn,
        {
            "recipe": recipe(),
            "epochs": 1,
            "lr": 0.001,
            "size": 0.1,
            "ascents": 1,
            "fraction": 0.5,
        },
        {
            "epochs": (0,),
            "lr": (0.0,),
            "size": (0.0, math.nan),
            "ascents": (0,),
            "fraction": (0.0, 1.1, math.nan),
        },
    ),
]


@pytest.mark.parametrize(
    ("kind", "right", "name", "value"),
    [
        (kind, right, name, value)
        for kind, right, wrong in WRONG
        for name, values in wrong.items()
        for value in values
    ],
)
def test_a_wrong_number_is_named(kind, right, name, value):
    kind(**right)
    with pytest.raises(InputError, match=rf"^attack\.{name}={value}: "):
        kind(**{**right, name: value})


def test_a_tuning_is_the_recipe_but_for_length_and_learning_rate():
    assert tuning(recipe(lr=0.2), 3, 0.5) == recipe(lr=0.1, epochs=3)
    assert Regularise(recipe=recipe(), epochs=2, lr_factor=1.0, weight_decay=0.3).tuned == recipe(
        epochs=2, weight_decay=0.3
    )


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_quantised_weights_have_few_values_near_the_old_ones(bits):
    old = built("resnet")
    new = Quantise(bits=bits).apply(copy.deepcopy(old), samples(), fit()).network
    for before, after in zip(layers(old), layers(new), strict=True):
        largest = before.weight.abs().max()
        step = largest / (2 ** (bits - 1) - 1)
        assert len(after.weight.unique()) <= 2**bits - 1
        assert (after.weight - before.weight).abs().max() <= step / 2 + 1e-6 * largest
        torch.testing.assert_close(after.weight.abs().max(), largest)
        counts = after.weight / step
        torch.testing.assert_close(counts, counts.round(), atol=2e-2, rtol=0)


def test_a_layer_of_zeros_stays_one():
    model = network()
    nn.init.zeros_(model.head.weight)
    Quantise(bits=4).apply(model, samples(), fit())
    AddNoise(sigma=0.5).apply(model, samples(), fit())
    assert (model.head.weight == 0).all()


def test_noise_is_as_large_as_said():
    data = samples()
    old = build(functools.partial(ConvNet, width=32), data, 3).requires_grad_(False)
    new = AddNoise(sigma=0.3).apply(copy.deepcopy(old), data, fit()).network
    for before, after in zip(layers(old)[1:4], layers(new)[1:4], strict=True):
        noise = after.weight - before.weight
        assert float(noise.std() / before.weight.std()) == pytest.approx(0.3, rel=0.03)
        assert abs(float(noise.mean() / before.weight.std())) < 0.01
    others = [n for n, _ in old.named_parameters() if "head.bias" in n]
    assert others
    assert all(torch.equal(old.state_dict()[n], new.state_dict()[n]) for n in others)
    again = AddNoise(sigma=0.3).apply(copy.deepcopy(old), data, fit()).network
    assert not torch.equal(again.head.weight, new.head.weight)


def test_shifting_takes_the_mean_filter_away():
    old = built("resnet")
    for strength in (1.0, 1.5):
        new = copy.deepcopy(old)
        ShiftWeights(recipe=recipe(), epochs=1, lr_factor=0.1, strength=strength, noise=0.0).shift(
            new
        )
        for before, after in zip(layers(old), layers(new), strict=True):
            moved = isinstance(before, nn.Conv2d)
            mean = before.weight.mean(0) * (strength if moved else 0)
            torch.testing.assert_close(after.weight, before.weight - mean)
    new = copy.deepcopy(old)
    ShiftWeights(recipe=recipe(), epochs=1, lr_factor=0.1, strength=0.0, noise=1.0).shift(new)
    before, after = layers(old)[-2].weight.detach(), layers(new)[-2].weight.detach()
    assert float((after - before).std() / before.std()) == pytest.approx(1, rel=0.05)


def test_a_penalty_shrinks_weights():
    old, data = built("convnet"), samples()
    norms = []
    for decay in (1e-6, 0.3):
        attack = Regularise(recipe=recipe(), epochs=5, lr_factor=0.3, weight_decay=decay)
        model = attack.apply(copy.deepcopy(old), data, fit()).network
        norms.append(math.hypot(*(float(m.weight.detach().norm()) for m in layers(model))))
    assert norms[1] < 0.9 * norms[0]


def test_a_path_of_tiny_steps_ends_where_it_began():
    old, data = built("convnet"), samples()
    new = (
        AveragePath(recipe=recipe(), rounds=3, epochs=1, lr_factor=1e-9)
        .apply(copy.deepcopy(old), data, fit())
        .network
    )
    for name, value in old.named_parameters():
        torch.testing.assert_close(new.get_parameter(name), value, atol=1e-5, rtol=1e-4)


def test_a_path_is_the_mean_of_its_ends():
    ends, data = [], samples()

    def training(module, data, name):
        with torch.no_grad():
            module.network.head.weight += 1
        ends.append((name, module.recipe, module.network.head.weight.clone()))
        return module.network

    start = built("convnet")
    first = start.head.weight.detach().clone()
    made = (
        AveragePath(recipe=recipe(), rounds=3, epochs=2, lr_factor=0.5)
        .apply(start, data, training)
        .network
    )
    torch.testing.assert_close(made.head.weight, first + 2)
    assert [name for name, _, _ in ends] == ["finetune-1", "finetune-2", "finetune-3"]
    assert all(used == recipe(epochs=2, lr=0.05) for _, used, _ in ends)
    statistics = copy.deepcopy(made.state_dict())
    renewed = renew_statistics(made, data).state_dict()
    assert all(torch.equal(value, statistics[name]) for name, value in renewed.items())


def test_the_mean_of_networks_is_the_first_changed():
    two = [network(), network()]
    expected = (two[0].head.weight + two[1].head.weight) / 2
    made = mean_of(two, samples())
    assert made is two[0]
    torch.testing.assert_close(made.head.weight, expected)
    assert made.features[1].weight.dtype == torch.float32


def test_a_student_is_averaged_with_the_stolen_model():
    target, data, seen = built("convnet"), samples(), []
    student = functools.partial(Student, temperature=1.0, hard=False)
    before = target.head.weight.detach().clone()
    answers = predict(target, data.inputs)

    def training(module, data, name):
        seen.append(module)
        nn.init.constant_(module.network.head.weight, 4.0)
        return module.network.eval()

    attack = AverageStudent(recipe=recipe(), network=NETWORKS["convnet"], student=student)
    stolen = attack.apply(target, data, training)
    torch.testing.assert_close(stolen.network.head.weight, before / 2 + 2)
    torch.testing.assert_close(seen[0].targets, answers, atol=1e-5, rtol=1e-4)
    assert stolen.queries == 0


@pytest.mark.parametrize("other", [functools.partial(ConvNet, width=8), NETWORKS["vgg"]])
def test_a_student_of_another_architecture_has_no_mean(other):
    student = functools.partial(Student, temperature=1.0, hard=False)
    with pytest.raises(InputError, match=r"attack\.network: "):
        AverageStudent(recipe=recipe(), network=other, student=student).apply(
            built("convnet"), samples(), fit()
        )


# --- perturbations --------------------------------------------------------------------------------


@pytest.mark.parametrize("ascents", [1, 4])
def test_a_perturbation_keeps_its_bound_and_raises_the_loss(ascents, trained, roles):
    batch = batch_of(roles.attacker[:200])
    module = UnlearnModule(copy.deepcopy(trained), recipe(), 0.18, ascents, 1.0)
    added = module.worst(batch)
    assert added.shape == (1, 1, 8, 8)
    assert float(added.norm()) <= 0.18 * 8 * (1 + 1e-5)

    @torch.no_grad()
    def loss(images):
        return float(F.cross_entropy(module.network.eval()(images), batch.labels))

    plain, hurt = loss(batch.inputs), loss(batch.inputs + added)
    noise = torch.randn_like(added)
    chance = loss(batch.inputs + noise / noise.norm() * added.norm())
    assert hurt > plain + 0.1
    assert hurt > chance


def test_a_search_leaves_statistics_alone_and_only_a_share_is_hit(trained, roles):
    model = copy.deepcopy(trained)
    module, batch = UnlearnModule(model, recipe(), 0.18, 3, 1.0), batch_of(roles.attacker[:64])
    before = copy.deepcopy(model.state_dict())
    module.worst(batch)
    assert model.training
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())
    module.worst, met = (lambda batch: torch.ones(1, 1, 8, 8)), []
    model.register_forward_pre_hook(lambda m, inputs: met.append(inputs[0]))
    for part in (0.5, 1.0):
        module.fraction = part
        module.loss(batch)
        hit = (met[-1] - batch.inputs).flatten(1)
        assert set(hit.round().unique().tolist()) <= {0.0, 1.0}
        assert float(hit.mean()) == pytest.approx(part, abs=0.25)


# --- a victim that was trained --------------------------------------------------------------------


def test_attacks_leave_a_trained_victim_useful(trained, roles):
    told = recipe(epochs=10, batch_size=64)
    good = worth(trained, roles.judge)
    assert good > 0.93
    least = {
        PruneLayers(sparsity=0.3): 0.1,
        PruneInactive(fraction=0.3): 0.2,
        Quantise(bits=6): 0.03,
        AddNoise(sigma=0.05): 0.03,
        ShiftWeights(recipe=told, epochs=5, lr_factor=0.5, strength=1.5, noise=1.0): 0.1,
        Regularise(recipe=told, epochs=2, lr_factor=0.1, weight_decay=0.1): 0.1,
        AveragePath(recipe=told, rounds=3, epochs=1, lr_factor=0.1): 0.03,
        AttentionDistillation(recipe=told, epochs=3, min_steps=None, lr_factor=0.1): 0.03,
        PruneNeurons(recipe=told, epochs=3, min_steps=None, lr=0.05): 0.1,
        Unlearn(recipe=told, epochs=3, min_steps=None, size=0.1, ascents=2, fraction=0.5): 0.05,
    }
    for attack, loss in least.items():
        torch.manual_seed(0)
        stolen = attack.apply(copy.deepcopy(trained), roles.attacker, fit())
        assert worth(stolen.network, roles.judge) > good - loss, type(attack).__name__


def test_unlearning_helps_against_the_perturbation(trained, roles):
    def hurt(model):
        module = UnlearnModule(model, recipe(), 0.18, 5, 1.0)
        batch = batch_of(roles.judge[:300])
        added = module.worst(batch)
        return F.cross_entropy(model.eval()(batch.inputs + added), batch.labels).item()

    torch.manual_seed(0)
    told = recipe(epochs=10, batch_size=64)
    attack = Unlearn(recipe=told, epochs=10, min_steps=None, lr=0.003, ascents=3, fraction=0.5)
    after = attack.apply(copy.deepcopy(trained), roles.attacker, fit()).network
    assert hurt(after) < 0.7 * hurt(copy.deepcopy(trained))


def test_a_seed_repeats_an_attack(trained, roles):
    data = roles.attacker[:128]
    for attack in (
        AddNoise(sigma=0.2),
        PruneNeurons(recipe=recipe(), epochs=1, min_steps=None, tolerance=1.0),
        Unlearn(recipe=recipe(), epochs=1, min_steps=None, ascents=2, fraction=0.5),
    ):
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            made = attack.apply(copy.deepcopy(trained), data, fit()).network
            states.append(torch.cat([p.detach().flatten() for p in made.parameters()]))
        torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-6)
        if not isinstance(attack, PruneNeurons):
            assert not torch.equal(states[0], states[2])
