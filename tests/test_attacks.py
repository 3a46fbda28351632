"""What single attacks compute, beyond the contract that test_contract.py holds them to."""

import copy
import functools

import pytest
import torch
from torch import nn

from softmark.attacks.attack import Query
from softmark.attacks.collude import AverageAnswers, AverageWeights, renew_statistics
from softmark.attacks.distill import Distill, Student
from softmark.attacks.distill_few import DistillFew
from softmark.attacks.forge import Forge
from softmark.attacks.prune import Prune, PruneToLimit, pruned
from softmark.attacks.retrain import ReTrain
from softmark.errors import InputError
from softmark.networks import ConvNet
from softmark.training import Classifier, accuracy, predict
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
        return accuracy(predict(model, data.images), data.labels)

    suspect = PruneToLimit(tolerance).apply(copy.deepcopy(trained), data, fit()).network
    assert worth(suspect) >= worth(trained) - tolerance
    sparsity = round(zeros(suspect) * 20) / 20
    if sparsity < 0.95:
        assert worth(pruned(trained, sparsity + 0.05)) < worth(trained) - tolerance


@pytest.mark.parametrize("wrong", [(Prune, "sparsity"), (PruneToLimit, "tolerance")])
def test_fractions_of_pruning_are_checked(wrong):
    kind, name = wrong
    with pytest.raises(InputError, match=rf"attack\.{name}=1\.5"):
        kind(1.5)


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
        recipe(epochs=1),
        functools.partial(ConvNet, width=4),
        functools.partial(Watched, temperature=1.0, hard=False),
    )
    two = [query([0.8, 0.1, 0.1]), query([0.2, 0.3, 0.5])]
    suspect = AverageAnswers(distill).apply(two, samples(), fit())
    torch.testing.assert_close(seen[0], torch.tensor([[0.5, 0.2, 0.3]]).expand(64, 3))
    assert suspect.queries == 128
    assert len(asked) == 2


def few(share: float) -> DistillFew:
    student = functools.partial(Student, temperature=1.0, hard=False)
    return DistillFew(recipe(epochs=1), functools.partial(ConvNet, width=4), student, share)


def test_a_thief_with_few_pictures_asks_about_those_alone_and_trains_as_long():
    asked = []

    def answer(images):
        asked.append(images)
        return torch.full((len(images), 3), 1 / 3)

    attack = few(0.25)
    assert attack.recipe.epochs == 4
    suspect = attack.apply(Query(answer, 3), samples(64), fit())
    assert suspect.queries == len(asked[0]) == 16


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_a_share_is_a_fraction(share):
    with pytest.raises(InputError, match=rf"attack\.share={share}"):
        few(share)


def test_retraining_draws_the_last_layer_anew_and_leaves_the_others():
    torch.manual_seed(0)
    target = network()
    before = copy.deepcopy(target.state_dict())
    attack = ReTrain(recipe(), epochs=1, lr_factor=1e-9, layers="last")
    after = attack.apply(target, samples(), fit()).network.state_dict()
    assert not torch.allclose(after["head.weight"], before["head.weight"], atol=1e-3)
    kept = [weight for weight in before if not weight.startswith("head") and "weight" in weight]
    assert kept
    assert all(torch.equal(after[name], before[name]) for name in kept)


def test_a_forger_draws_at_least_one_key():
    with pytest.raises(InputError, match=r"attack\.forged=0"):
        Forge(recipe(), ConvNet, forged=0)
