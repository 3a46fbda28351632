"""Attackers who know the method: what they embed, train against and search among."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.training import fit, network, recipe, samples
from softmark.accuracy import accuracy
from softmark.attacks import search as searching
from softmark.attacks.adaptive import Evade, EvadeModule, Overwrite, detector_of
from softmark.attacks.answers import log_of
from softmark.attacks.attack import Attack, AttackResult, Keep
from softmark.attacks.search import Candidate, Search, Tried
from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.watermark import Unmarked, Watermark
from softmark.models.networks import ConvNet
from softmark.training import Classifier, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial

NETWORK = functools.partial(ConvNet, width=4)


class HeadSign(Watermark):
    """A mark that is easy to see and to remove: the head's biases are all positive."""

    needs = "weights"

    def embed(self, victim, data, fit):
        with torch.no_grad():
            victim.head.bias.abs_()
        return victim, self.draw(data, 3, fit.entropy)

    def draw(self, like, classes, entropy):
        return Key.draw("message", classes, entropy)

    def evidence(self, suspect, key, probes):
        hits = 40 * int((suspect.network.head.bias > 0).all())
        return Evidence(torch.zeros(len(probes)), {"bias": Binomial(hits, 40, 0.5)})


class Flip(Attack):
    """Removes HeadSign's mark where ``strength`` is above 2, and the task too above 8."""

    access = "weights"

    def __init__(self, strength: float):
        self.strength = strength

    def apply(self, target, data, fit):
        with torch.no_grad():
            if self.strength > 2:
                target.head.bias.copy_(-target.head.bias.abs())
            if self.strength > 8:
                target.head.weight.zero_()
        return AttackResult(target, queries=7)


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = fit()(Classifier(network(), recipe(epochs=6)), samples(300), "classifier")
    return HeadSign().embed(model, samples(), fit())[0]


def search(**changes) -> Search:
    settings = {
        "recipe": recipe(epochs=6),
        "network": NETWORK,
        "method": HeadSign(),
        "trials": 12,
        "seconds": None,
        "level": 1e-3,
        "candidates": {
            "keep": Candidate(functools.partial(Keep), {}),
            "flip": Candidate(functools.partial(Flip), {"strength": [1.0, 30.0]}),
        },
    }
    return Search(**{**settings, **changes})


def test_a_search_finds_what_removes_the_mark_cheapest():
    target = trained()
    torch.manual_seed(1)
    stolen = search().apply(target, samples(300), fit())
    assert stolen.note.startswith("found: flip, strength ")
    assert not (stolen.network.head.bias > 0).any()
    assert stolen.network.head.weight.any()
    assert stolen.queries == 7


def test_a_search_is_repeated_by_its_seed():
    notes = []
    for _ in range(2):
        torch.manual_seed(3)
        notes.append(search().apply(copy.deepcopy(trained()), samples(300), fit()).note)
    assert notes[0] == notes[1]


def test_a_search_that_finds_nothing_leaves_the_model_and_says_so():
    target = trained()
    before = copy.deepcopy(target.state_dict())
    only = {"keep": Candidate(functools.partial(Keep), {})}
    stolen = search(candidates=only, trials=2).apply(target, samples(300), fit())
    assert stolen.note.startswith("nothing removed the mark; closest: keep (own mark p 9")
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


def test_a_search_never_tries_on_the_stolen_model():
    target = trained()
    tried = []

    class Spy(Keep):
        def apply(self, target, data, fit):
            tried.append(target)
            return AttackResult(target)

    only = {"spy": Candidate(functools.partial(Spy), {})}
    search(candidates=only, trials=3).apply(target, samples(300), fit())
    assert len(tried) == 3
    assert all(each is not target for each in tried)


def test_a_search_ends_when_its_time_is_up(monkeypatch):
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(searching, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    tried = []
    only = {"keep": Candidate(lambda: tried.append(1) or Keep(), {})}
    search(candidates=only, trials=50, seconds=25.0).apply(trained(), samples(300), fit())
    assert len(tried) == 3


def test_a_method_without_a_key_leaves_nothing_to_remove():
    stolen = search(method=Unmarked(), trials=3).apply(trained(), samples(300), fit())
    assert stolen.note.startswith("found: ")


def test_whole_numbers_stay_whole():
    seen = []

    class Whole(Keep):
        def __init__(self, epochs):
            seen.append(epochs)

    only = {"whole": Candidate(functools.partial(Whole), {"epochs": [1, 20]})}
    search(candidates=only, trials=5).apply(trained(), samples(300), fit())
    assert all(isinstance(each, int) and 1 <= each <= 20 for each in seen)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"trials": 0}, r"attack\.trials=0"),
        ({"seconds": 0.0}, r"attack\.seconds=0\.0"),
        ({"level": 0.0}, r"attack\.level=0\.0"),
        ({"candidates": {}}, r"attack\.candidates is empty"),
    ],
)
def test_budgets_are_checked(wrong, said):
    with pytest.raises(InputError, match=said):
        search(**wrong)


def test_ranges_are_checked():
    with pytest.raises(InputError, match=r"the range of lr is 1\.0 to 0\.5"):
        Candidate(functools.partial(Keep), {"lr": [1.0, 0.5]})


def test_a_removed_mark_is_always_worth_more_than_a_cheap_attack():
    def price(lost, p):
        return Tried("", Keep(), lost, p).price(1e-3)

    assert price(0.9, 0.5) < price(0.0, 1e-4)
    assert price(0.0, 1e-4) < price(0.0, 1e-12)
    assert price(0.01, 0.5) < price(0.02, 0.9)


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
