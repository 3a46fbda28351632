"""The recipe, the batches, and the only Trainer."""

import contextlib
import itertools

import pytest
import torch
from torch import nn

from softmark.attacks.distill import Student
from softmark.attacks.finetune import FineTune
from softmark.attacks.prune import Prune
from softmark.data import Samples
from softmark.errors import InputError
from softmark.networks import ConvNet
from softmark.training import (
    Batches,
    Classifier,
    Fit,
    Recipe,
    crop_and_flip,
    load_network,
    one_cycle,
    predict,
    save_network,
    utility,
)


def recipe(**changed) -> Recipe:
    settings = {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.1,
        "warmup": 0.2,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.0,
        "pad": 0,
        "flip": False,
    }
    return Recipe(**{**settings, **changed})


def samples(count: int = 64) -> Samples:
    torch.manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    images += (labels * 90).to(torch.uint8)[:, None, None, None]
    return Samples(images, labels)


def network() -> ConvNet:
    return ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.4], std=[0.3], width=4)


@contextlib.contextmanager
def unlogged(name):
    yield None


def fit() -> Fit:
    return Fit("cpu", "32-true", unlogged)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"lr": -1.0}, {"warmup": 1.5}, {"pad": -1}, {"label_smoothing": 1.0}]
)
def test_a_wrong_recipe_is_named(wrong):
    with pytest.raises(InputError, match=rf"recipe\.{next(iter(wrong))}"):
        recipe(**wrong)


def test_one_cycle_climbs_to_one_and_falls_to_zero():
    rates = [one_cycle(step / 100, 0.25) for step in range(101)]
    assert max(rates) == rates[25] == 1.0
    assert rates[100] == 0.0
    assert all(a < b for a, b in itertools.pairwise(rates[:26]))
    assert all(a > b for a, b in itertools.pairwise(rates[25:]))


def test_batches_hold_each_sample_once_with_its_index():
    data = samples(70)
    seen = list(Batches(data, recipe()))
    assert len(seen) == len(Batches(data, recipe())) == 4
    index = torch.cat([batch.index for batch in seen])
    assert len(index.unique()) == 64
    for batch in seen:
        assert torch.equal(batch.labels, data.labels[batch.index])
        assert torch.equal((batch.images * 255).round().byte(), data.images[batch.index])
    assert len(Batches(data[:5], recipe())) == 1


def test_crop_and_flip_is_a_window_of_the_reflected_picture():
    torch.manual_seed(0)
    images = torch.randint(256, (40, 3, 9, 7), dtype=torch.uint8)
    result = crop_and_flip(images, 2, True)
    padded = nn.functional.pad(images.float(), [2] * 4, mode="reflect").byte()
    shifts = set()
    for picture, large in zip(result, padded, strict=True):
        found = [
            (down, right, turn)
            for down in range(5)
            for right in range(5)
            for turn in (False, True)
            if torch.equal(
                picture,
                large[:, down : down + 9, right : right + 7].flip(2)
                if turn
                else large[:, down : down + 9, right : right + 7],
            )
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 15
    assert torch.equal(crop_and_flip(images, 0, False), images)


def test_fit_learns_and_is_repeatable():
    data = samples(120)
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        trained = fit()(Classifier(network(), recipe(epochs=15)), data, "classifier")
        weights.append(torch.cat([p.flatten() for p in trained.parameters()]))
    assert torch.equal(*weights)
    assert utility(predict(trained, data.images), data.labels)["accuracy"] > 0.95
    assert not trained.training


def test_fit_thaws_a_network_that_was_in_eval_mode():
    net = network().eval()
    before = [m.running_mean.clone() for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    fit()(Classifier(net, recipe()), samples(), "classifier")
    after = [m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_loss_that_turns_nan_says_at_which_step():
    with pytest.raises(InputError, match=r"at step \d+ .*recipe\.lr=1000000000\.0"):
        fit()(Classifier(network(), recipe(lr=1e9, epochs=9)), samples(), "classifier")


def test_predictions_are_probabilities_and_leave_the_mode():
    net = network().train()
    p = predict(net, samples().images, batch_size=10)
    torch.testing.assert_close(p.sum(1), torch.ones(64))
    assert net.training
    torch.testing.assert_close(p, predict(net, samples().images))


def test_a_broken_checkpoint_is_named(tmp_path):
    save_network(network(), tmp_path / "whole")
    torch.testing.assert_close(
        load_network(network(), tmp_path / "whole").state_dict()["head.bias"].shape, (3,)
    )
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-10])
    (tmp_path / "pickle").write_bytes(b"\x80\x04]q\x00.")
    for name in ("cut", "pickle"):
        with pytest.raises(InputError, match=f"{name}: not a whole safetensors file"):
            load_network(network(), tmp_path / name)
    other = ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.4], std=[0.3], width=8)
    with pytest.raises(InputError, match="weights of another network"):
        load_network(other, tmp_path / "whole")


def test_pruning_zeroes_the_smallest_weights_of_the_whole_network():
    net = network()
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    flat = torch.cat([w.detach().flatten() for w in weights])
    kept = flat.abs() > flat.abs().sort().values[round(0.6 * len(flat)) - 1]
    pruned = Prune(0.6).apply(net, samples(), fit()).network
    layers = [m for m in pruned.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    after = torch.cat([layer.weight.detach().flatten() for layer in layers])
    assert torch.equal(after, flat * kept)


def test_the_last_layer_alone_moves_when_only_it_is_tuned():
    net = network()
    before = {name: p.clone() for name, p in net.named_parameters()}
    tuned = FineTune(recipe(), 1, 0.1, "last").apply(net, samples(), fit()).network
    for name, p in tuned.named_parameters():
        assert torch.equal(p, before[name]) != name.startswith("head")
        assert p.requires_grad


def test_a_student_at_its_teachers_logits_has_the_least_loss():
    logits = torch.randn(6, 3)
    for temperature in (1.0, 4.0):
        student = Student(nn.Identity(), recipe(), logits.softmax(1), temperature, hard=False)
        batch = Batches(samples(6), recipe()).__iter__().__next__()
        batch = batch._replace(images=logits[batch.index].requires_grad_(True))
        (slope,) = torch.autograd.grad(student.loss(batch), batch.images)
        torch.testing.assert_close(slope, torch.zeros(6, 3), atol=1e-5, rtol=0)


def test_a_hard_student_learns_labels_alone():
    answers = torch.tensor([[0.4, 0.35, 0.25]])
    student = Student(nn.Identity(), recipe(), answers, 1.0, hard=True)
    assert student.targets.tolist() == [[1.0, 0.0, 0.0]]
