from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT
from helpers.data import SHARES, numbered, numbers_of, parts
from softmark.data import cache as caching
from softmark.data import roles as data
from softmark.data.roles import Shares
from softmark.data.sources import ImageFolder
from softmark.errors import InputError

CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"


# --- who holds what ---------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(30, 90), min_size=2, max_size=5),  # no role runs short of any
    owner=st.floats(0.3, 0.7),
    judge=st.floats(0.2, 0.5),
    seed=st.integers(0, 2**32),
)
def test_shares_are_disjoint_complete_and_in_proportion(counts, owner, judge, seed):
    decoded = numbered(counts)
    roles = data.share(decoded, Shares(owner, judge, seed, None, None, tuning=False))

    held = parts(roles)
    assert sorted(chain(*held.values())) == list(range(sum(counts)))
    assert len(held["judge"]) == round(judge * sum(counts))
    assert len(held["owner"]) == round(owner * (sum(counts) - len(held["judge"])))
    for role, numbers in held.items():
        labels = getattr(roles, role).labels
        assert labels.tolist() == decoded.labels[numbers].tolist()
    judged = np.bincount(roles.judge.labels, minlength=len(counts))
    assert some_point_cuts(judged, counts)
    trained = np.array(counts) - judged
    assert some_point_cuts(np.bincount(roles.owner.labels, minlength=len(counts)), trained)


def some_point_cuts(taken, counts):
    """Whether one fraction q explains all: |taken - q * count| < 1 in every class."""
    taken, counts = np.array(taken), np.array(counts)
    return max((taken - 1) / counts) < min((taken + 1) / counts)


@given(
    size=st.integers(8, 60),
    classes=st.integers(2, 6),
    owner=st.floats(0.3, 0.7),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_classes_of_one_size_differ_by_one_sample_at_most(size, classes, owner, seed):
    decoded = numbered([size + 4] * classes, train=size * classes)
    decoded = replace(decoded, labels=np.tile(np.arange(classes), size + 4))
    roles = data.share(decoded, Shares(owner, 0.5, seed, None, None, tuning=False))
    assert (np.abs(np.bincount(roles.owner.labels) - owner * size) < 1).all()


def test_the_test_split_is_the_judges_and_no_one_elses():
    decoded = numbered([60, 60], train=80)
    held = parts(data.share(decoded, SHARES))
    assert sorted(held["judge"]) == list(range(80, 120))
    assert held["judge"] != sorted(held["judge"])
    assert sorted(held["owner"] + held["attacker"]) == list(range(80))


def test_the_split_depends_on_split_seed_alone():
    decoded = numbered([50, 50, 50])
    first = parts(data.share(decoded, SHARES))
    torch.manual_seed(7)
    np.random.seed(7)  # noqa: NPY002
    assert parts(data.share(decoded, SHARES)) == first
    other = parts(data.share(decoded, replace(SHARES, split_seed=1)))
    for role in first:
        assert sorted(other[role]) != sorted(first[role])


def test_the_split_is_the_same_for_ever():
    """Pinned: a change of this order silently changes every result that was published."""
    order = data._stratified(np.array([0, 1] * 5), seed=0, salt=0)
    assert order.tolist() == [3, 2, 1, 8, 7, 6, 5, 0, 9, 4]


def test_limits_cut_beginnings_and_stay_in_proportion():
    decoded = numbered([100, 100], train=None)
    whole = parts(data.share(decoded, SHARES))
    roles = data.share(decoded, replace(SHARES, limit=40, judge_limit=10))
    cut = parts(roles)
    assert [len(cut[role]) for role in cut] == [20, 20, 10]
    assert cut["judge"] == whole["judge"][:10]
    assert cut["owner"] == whole["owner"][:20]
    for samples in (roles.owner, roles.attacker, roles.judge):
        zeros, ones = samples.labels.bincount().tolist()
        assert abs(zeros - ones) <= 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"owner": 1.5}, "data.roles.owner=1.5: a fraction between 0 and 1"),
        ({"owner": 1}, "data.roles.owner=1: a fraction"),
        ({"judge": 0.0}, "data.roles.judge=0.0"),
        ({"judge": float("nan")}, "data.roles.judge=nan"),
        ({"split_seed": -1}, "data.roles.split_seed=-1"),
        ({"split_seed": None}, "data.roles.split_seed=None"),
        ({"limit": 0}, "data.roles.limit=0: null or an integer"),
        ({"judge_limit": 2.5}, "data.roles.judge_limit=2.5"),
        ({"tuning": 1}, "data.roles.tuning=1"),
    ],
)
def test_a_share_that_cannot_be_is_named(change, message):
    with pytest.raises(InputError, match=message.replace(".", r"\.")):
        replace(SHARES, **change)


@pytest.mark.parametrize(
    ("decoded", "change", "role"),
    [
        (numbered([40, 40]), {"judge_limit": 3}, "judge"),
        (numbered([40, 40]), {"owner": 0.02}, "owner"),
        (numbered([40, 40]), {"owner": 0.98}, "attacker"),
        (numbered([40, 40, 1]), {}, "owner|attacker|judge"),
        (numbered([40, 0]), {}, "owner"),
    ],
)
def test_a_class_that_a_role_lacks_is_named(decoded, change, role):
    with pytest.raises(InputError, match=rf"the ({role}) would hold [01] samples of class 'class"):
        data.share(decoded, replace(SHARES, **change))


@given(counts=st.lists(st.integers(2, 30), min_size=2, max_size=5), seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_halves_are_disjoint_complete_and_hold_half_of_each_class(counts, seed):
    decoded = numbered(counts)
    samples = data.Samples(torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels))
    both = data.halves(samples, seed)
    for half, again in zip(both, data.halves(samples, seed), strict=True):
        assert numbers_of(half) == numbers_of(again)
        assert half.labels.tolist() == decoded.labels[numbers_of(half)].tolist()
        assert some_point_cuts(np.bincount(half.labels, minlength=len(counts)), counts)
    first, second = map(numbers_of, both)
    assert sorted(first + second) == list(range(sum(counts)))
    assert (len(first), len(second)) == (sum(counts) // 2, (sum(counts) + 1) // 2)


@given(counts=st.lists(st.integers(4, 30), min_size=2, max_size=5), share=st.floats(0.2, 1.0))
@settings(max_examples=40, deadline=None)
def test_the_beginning_of_a_half_is_in_proportion_too(counts, share):
    decoded = numbered(counts)
    samples = data.Samples(torch.from_numpy(decoded.images), torch.from_numpy(decoded.labels))
    first = data.halves(samples, 0)[0]
    few = first[: round(share * len(first))]
    assert some_point_cuts(np.bincount(few.labels, minlength=len(counts)), counts)


def test_halves_of_two_seeds_differ():
    owner = data.share(numbered([100, 100]), SHARES).owner
    for one, other in zip(data.halves(owner, 0), data.halves(owner, 1), strict=True):
        assert sorted(numbers_of(one)) != sorted(numbers_of(other))


def test_samples_can_be_indexed_moved_and_told_apart():
    owner = data.share(numbered([40, 40]), SHARES).owner
    few = owner[torch.tensor([2, 0])]
    assert numbers_of(few) == [numbers_of(owner)[2], numbers_of(owner)[0]]
    assert len(owner[:5]) == 5
    assert owner[:5].labels.dtype == torch.int64
    assert owner.to("cpu").fingerprint == owner.fingerprint != owner[:5].fingerprint
    changed = data.Samples(owner.inputs.clone(), owner.labels)
    changed.inputs[0, 0, 7, 7] += 1
    assert changed.fingerprint != owner.fingerprint
    assert owner.to("meta").inputs.device.type == "meta"


# --- the configuration ------------------------------------------------------------------------


def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(overrides=[f"+{overrides[0]}", *overrides[1:]]).data


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "conf/data").glob("*.yaml")))
def test_every_data_config_can_be_made(name):
    config = composed(f"data={name}")
    assert {"name", "source", "roles"} <= set(config)
    assert callable(instantiate(config.source).read)
    assert 0 < Shares(**config.roles).owner < 1


def test_the_default_roles_of_the_digits(tmp_path):
    config = composed("data=digits")
    roles = caching.open_data(instantiate(config.source), Shares(**config.roles), tmp_path)
    assert [len(roles.owner), len(roles.attacker), len(roles.judge)] == [599, 599, 599]
    assert data.name_of(config) == "digits"


def test_top_level_keys_reach_the_source():
    config = composed("data=cifar10", "data.path=there", "data.size=16")
    source = instantiate(config.source)
    assert (source.dataset, source.path, source.size) == ("uoft-cs/cifar10", "there", 16)
    assert data.name_of(config) == "cifar10"
    config = composed("data=hub", "data.name=some/set")
    assert instantiate(config.source).dataset == data.name_of(config) == "some/set"
    config = composed("data=imagefolder", "data.path=/some/where/flowers", "data.size=32")
    assert instantiate(config.source) == ImageFolder("/some/where/flowers", 32)
    assert data.name_of(config) == "flowers"
    for name in ("hub", "imagefolder"):
        with pytest.raises(InputError, match=r"data.name and data.path are both null"):
            data.name_of(composed(f"data={name}"))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="CIFAR-10 is not here")
def test_cifar10(tmp_path):
    config = composed("data=cifar10", f"data.path={CIFAR10}")
    assert len(instantiate(config.source).signature()["files"]) == 2
    # The 50,000 training pictures take seven seconds to decode, the test split one.
    source = replace(instantiate(config.source), train_split="test", test_split=None)
    roles = caching.open_data(source, Shares(**{**config.roles, "judge": 0.5}), tmp_path)
    assert roles.owner.inputs.shape == roles.attacker.inputs.shape == (2500, 3, 32, 32)
    for samples, each in ((roles.owner, 250), (roles.attacker, 250), (roles.judge, 500)):
        assert samples.labels.bincount().tolist() == [each] * 10
    assert roles.classes[3] == "cat"
    assert 110 < roles.judge.inputs.float().mean() < 130


def test_tuning_happens_inside_the_owners_part():
    decoded = numbered([40] * 5)
    reported = data.share(decoded, SHARES)
    tuned = data.share(decoded, replace(SHARES, tuning=True))

    def held(samples):
        return {image.tobytes() for image in samples.inputs.numpy()}

    parts = [held(role) for role in (tuned.owner, tuned.attacker, tuned.judge)]
    assert set().union(*parts) == held(reported.owner)
    assert sum(map(len, parts)) == len(reported.owner)
    assert len(tuned.judge) == len(reported.owner) // 5
    assert (tuned.judge.labels.bincount() == len(tuned.judge) // 5).all()


@pytest.mark.parametrize("kind", ["samples", "blends", "noise"])
def test_probes_are_the_same_each_time_and_a_shorter_list_begins_alike(kind):
    roles = data.share(numbered([40] * 5), SHARES)
    probes = roles.probes(kind, 20)
    assert len(probes) == 20
    assert probes.fingerprint == roles.probes(kind, 20).fingerprint
    assert (probes.fingerprint == roles.judge[:20].fingerprint) == (kind == "samples")


def test_a_blend_is_the_mean_of_two_neighbours():
    judge = data.share(numbered([40] * 5), SHARES).judge
    blend = data.share(numbered([40] * 5), SHARES).probes("blends", 20).inputs
    for place in range(20):
        two = judge.inputs[[place, place - 1 if place else 19]].int()
        assert (blend[place] == two.sum(0) // 2).all()


def test_unknown_probes_and_too_many_are_refused():
    roles = data.share(numbered([40] * 5), SHARES)
    with pytest.raises(InputError, match="=pictures: samples, sure, blends or noise"):
        roles.probes("pictures", 5)
    with pytest.raises(InputError, match=r"verifier\.probes=1000: the judge has"):
        roles.probes("samples", 1000)


def test_a_limit_moves_nothing_from_one_role_to_another():
    decoded = numbered([100] * 4)
    whole = parts(data.share(decoded, SHARES))
    half = parts(data.share(decoded, replace(SHARES, limit=120)))
    for role in ("owner", "attacker"):
        assert len(half[role]) == 60
        assert set(half[role]) < set(whole[role])
    assert half["judge"] == whole["judge"]
