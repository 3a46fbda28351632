"""Keys that a forger draws for a model that was never marked with them."""

import copy
from random import Random

import pytest
import torch
from torch import nn

from helpers.soft_labels import soft
from helpers.training import fit, samples
from softmark.attacks import forge
from softmark.attacks.forge import Forge
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.key import Key
from softmark.methods.usp import USP
from softmark.methods.watermark import Unmarked, Watermark
from softmark.models.access import Suspect
from softmark.models.networks import ConvNet
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


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
