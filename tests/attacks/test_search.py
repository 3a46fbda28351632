"""Searching among attacks: what is tried, what is found, and what is done to the stolen model."""

import copy
import functools
from types import SimpleNamespace

import pytest
import torch

from helpers.signs import Flip, HeadSign, trained
from helpers.training import fit, network, recipe, samples
from softmark.attacks import search as searching
from softmark.attacks.attack import AttackResult, Keep
from softmark.attacks.candidates import Candidate
from softmark.attacks.search import LEVELS, Search, StandIn, Tried
from softmark.errors import InputError
from softmark.methods.watermark import Unmarked
from softmark.models.networks import ConvNet

NETWORK = functools.partial(ConvNet, width=4)


def search(**changes) -> Search:
    settings = {
        "recipe": recipe(epochs=2),
        "network": NETWORK,
        "method": HeadSign(),
        "trials": 12,
        "seconds": None,
        "levels": {**LEVELS, "exact": 1e-3},
        "probes": 90,
        "candidates": {
            "keep": Candidate(functools.partial(Keep), {}),
            "flip": Candidate(functools.partial(Flip), {"strength": [1.0, 30.0]}),
        },
    }
    return Search(**{**settings, **changes})


def test_a_search_finds_what_removes_the_mark_cheapest():
    target = trained()
    torch.manual_seed(1)
    stolen = search(trials=25).apply(target, samples(300), fit())
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


class Shrink(Flip):
    """Removes nothing; the larger ``strength``, the nearer to nothing comes the head."""

    def apply(self, target, data, fit):
        with torch.no_grad():
            target.head.bias.div_(self.strength)
        return AttackResult(target)


def test_a_search_that_finds_nothing_does_what_came_closest_and_says_so():
    target = trained()
    before = copy.deepcopy(target.state_dict())
    only = {"shrink": Candidate(functools.partial(Shrink), {"strength": [2.0, 2.0]})}
    stolen = search(candidates=only, trials=2).apply(target, samples(300), fit())
    assert stolen.note.startswith("nothing removed the mark; closest: shrink, strength 2 (own mark")
    torch.testing.assert_close(stolen.network.head.bias, before["head.bias"] / 2)


def test_each_candidate_is_tried_once_at_its_strongest_first():
    tried = []

    class Noting(Keep):
        def __init__(self, name, strength=0.0):
            tried.append((name, strength))

    candidates = {
        "a": Candidate(functools.partial(Noting, "a"), {"strength": [1.0, 8.0]}),
        "b": Candidate(functools.partial(Noting, "b"), {}),
    }
    search(candidates=candidates, trials=3).apply(trained(), samples(300), fit())
    assert tried[:2] == [("a", 8.0), ("b", 0.0)]


class Moved(Flip):
    """Removes nothing from the weights, and serves answers whose classes are moved by one."""

    def __init__(self):
        self.transform = torch.nn.Linear(1, 1)

    def apply(self, target, data, fit):
        return AttackResult(target)

    def serve(self, answer):
        return lambda inputs: answer(inputs).roll(1, 1)


def test_what_a_search_found_to_serve_is_served_and_remembered():
    only = {"moved": Candidate(functools.partial(Moved), {})}
    attack = search(candidates=only, trials=1)

    def answer(inputs):
        return torch.eye(3)

    assert attack.serve(answer) is answer
    attack.apply(trained(), samples(300), fit())
    assert torch.equal(attack.serve(answer)(None), torch.eye(3).roll(1, 1))
    again = search(candidates=only, trials=1)
    again.transform.load_state_dict(attack.transform.state_dict())
    assert torch.equal(again.serve(answer)(None), torch.eye(3).roll(1, 1))
    assert torch.equal(
        again.serving["moved"].transform.weight, attack.transform.learnt.moved.weight
    )
    with pytest.raises(InputError, match="what is put before a model has no ranges"):
        Candidate(functools.partial(Moved), {"strength": [1.0, 2.0]})


def test_what_follows_is_done_too_and_what_cannot_be_is_worth_nothing():
    class Impossible(Keep):
        def apply(self, target, data, fit):
            raise InputError("there is nothing to prune")

    candidates = {
        "impossible": Candidate(functools.partial(Impossible), {}),
        "both": Candidate(functools.partial(Shrink, 2.0), {}, Flip(3.0)),
    }
    stolen = search(candidates=candidates, trials=2).apply(trained(), samples(300), fit())
    assert stolen.note.startswith("found: both")
    assert not (stolen.network.head.bias > 0).any()


@pytest.mark.parametrize(("probes", "left"), [(90, 2.0), (180, 4.0), (45, 2.0)])
def test_a_level_counts_for_as_many_probes_as_the_judge_asks(probes, left):
    stand_in = StandIn(search(probes=probes), network(), samples(210), samples(90), fit())
    assert stand_in.left(SimpleNamespace(kind="exact", p_value=lambda: 1e-6)) == pytest.approx(left)
    sampled = SimpleNamespace(kind="sampled", p_value=lambda: 1e-3)
    assert stand_in.left(sampled) == pytest.approx(1.0)


def test_a_search_never_tries_on_the_stolen_model():
    target = trained()
    tried = []

    class Spy(Keep):
        def apply(self, target, data, fit):
            tried.append(target)
            return AttackResult(target)

    only = {"spy": Candidate(functools.partial(Spy), {})}
    search(candidates=only, trials=3).apply(target, samples(300), fit())
    # Not before the last: what was found is done to it.
    assert len(tried) == 4
    assert all(each is not target for each in tried[:3])
    assert tried[3] is target


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
        ({"levels": {**LEVELS, "exact": 0.0}}, r"attack\.levels\.exact=0\.0"),
        ({"levels": {"exact": 1e-6}}, r"attack\.levels=.*names exact, sampled, innocents"),
        ({"probes": 0}, r"attack\.probes=0"),
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
    def price(lost, left):
        return Tried("", "", [], lost, left).price

    assert price(0.9, 0.1) < price(0.0, 1.3)
    assert price(0.0, 1.3) < price(0.0, 4.0)
    assert price(0.01, 0.9) < price(0.02, 0.1)
