"""Trigger sets and the rivals' other marks: what follows from the key, which null is right."""

import itertools
import math
from random import Random

import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from helpers import nearly
from helpers.training import fit, recipe
from helpers.triggers import (
    CLASSES,
    EXACT,
    NUMBERS,
    TARGETS,
    batch_of,
    judge,
    key_of,
    key_verifier_of,
    marked,
    method,
    network,
    only_test,
    owner,
    untrained,
    victim,
)
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.blackmarks import BlackMarksModule, cluster_classes
from softmark.methods.frontier import Hypergeometric, learnt_mask
from softmark.methods.key import Key
from softmark.methods.margin import MarginModule
from softmark.methods.mea_defender import MeaDefenderModule, divergence_to_sources
from softmark.methods.parts.drawn_targets import DrawnTargets, draw_targets
from softmark.methods.parts.trigger_set import (
    concatenate,
    random_labels,
    store_pictures,
    with_triggers,
)
from softmark.methods.stamped import pictures_of_class
from softmark.models.access import Suspect
from softmark.training import Classifier, predict


@pytest.mark.parametrize("name", EXACT + TARGETS)
def test_the_judge_makes_triggers_once_and_asks_each_suspect_once(name, monkeypatch):
    made, key = method(name), key_of(name, 2)
    asked, drawn, probes_of = [], [], made.probes

    def answer(images):
        asked.append(len(images))
        return F.one_hot(images.sum((1, 2, 3)) % CLASSES, CLASSES).float()

    def probes(*given):
        drawn.append(given)
        return probes_of(*given)

    monkeypatch.setattr(type(made), "probes", lambda _, *given: probes(*given))
    key_verifier = key_verifier_of(made, key)
    for suspect in (Suspect(answer), Suspect(answer)):
        whole, part = key_verifier.evidence(suspect), key_verifier.evidence(suspect, 10)
        assert torch.equal(part.scores, whole.scores[:10])
    assert asked == [len(key_verifier.probes)] * 2
    assert len(drawn) == 1


# --- What follows from the key -----------------------------------------------------------------


@pytest.mark.parametrize("name", EXACT + TARGETS)
def test_triggers_follow_from_the_key_alone(name):
    made = method(name)
    sets = [made.triggers(key_of(name, seed), judge(), made.num_triggers) for seed in (1, 1, 2)]
    assert sets[0].fingerprint == sets[1].fingerprint
    assert sets[0].fingerprint != sets[2].fingerprint
    assert len(sets[0]) == made.num_triggers
    assert sets[0].inputs.dtype == torch.uint8
    state = torch.get_rng_state()
    made.triggers(key_of(name, 3), judge(), made.num_triggers)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["content", "ewe"])
def test_a_stamp_is_the_same_on_other_pictures(name):
    key, stamps = key_of(name, 1), []
    for grey in (100, 150):
        pool = Samples(torch.full((30, 1, 8, 8), grey, dtype=torch.uint8), judge().labels[:30])
        images = method(name).triggers(key, pool, 20).inputs.int()
        there = images[0] != grey
        assert there.sum() == 9
        assert (images == images[0]).all()
        stamps.append(torch.where(there, images[0], -1))
    assert torch.equal(*stamps)
    assert set(stamps[0].unique().tolist()) <= {-1, 0, 255}


def test_a_pattern_of_noise_is_the_same_on_other_pictures():
    key, patterns = key_of("noise", 1), []
    for grey in (110, 140):
        pool = Samples(torch.full((30, 1, 8, 8), grey, dtype=torch.uint8), judge().labels[:30])
        patterns.append(method("noise").triggers(key, pool, 20).inputs.int() - grey)
    assert torch.equal(*patterns)
    assert 15 < patterns[0].float().std() < 40


def test_a_composed_trigger_is_half_of_each_source():
    key, made = key_of("mea_defender", 1), method("mea_defender")
    # Each class is a shade, so that a half shows where it is from.
    shades = judge().labels[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8)
    triggers, sources = made.compose(key, Samples(shades, judge().labels), 30)
    assert (triggers.inputs[..., :4] == sources[:, 0, None, None, None]).all()
    assert (triggers.inputs[..., 4:] == sources[:, 1, None, None, None]).all()
    rules = torch.cat([sources, triggers.labels[:, None]], 1).unique(dim=0)
    assert len(rules) == len(rules[:, :2].unique(dim=0)) == 10
    assert all(len(rule.unique()) == 3 for rule in rules)


def test_random_labels_are_uniform_and_independent():
    keys = [key_of("adi", seed) for seed in range(300)]
    labels = torch.stack([random_labels(key, 20) for key in keys])
    assert stats.chisquare(labels.flatten().bincount(minlength=10)).pvalue > 1e-3
    pairs = (10 * labels[:, 0::2] + labels[:, 1::2]).flatten()
    assert stats.chisquare(pairs.bincount(minlength=100)).pvalue > 1e-3


def test_bits_are_fair_and_follow_the_groups():
    made, keys = method("blackmarks"), [key_of("blackmarks", seed) for seed in range(100)]
    bits = torch.stack([made.bits(key, 40) for key in keys])
    assert stats.binomtest(int(bits.sum()), bits.numel()).pvalue > 1e-3
    groups = keys[0].groups.clone()
    keys[0].groups.copy_(1 - groups)
    other = made.bits(keys[0], 40)
    assert 8 < int((other != bits[0]).sum()) < 32
    triggers = made.triggers(keys[0], judge(), 40)
    assert torch.equal(keys[0].groups[triggers.labels], other)


# --- Nulls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["adi", "blackmarks"])
def test_an_innocent_is_as_unlikely_as_exact_p_values_say(name):
    found = [
        only_test(name, untrained(), key_of(name, seed), num_triggers=12).p_value()
        for seed in range(200)
    ]
    for level in (0.02, 0.1, 0.3, 0.5):
        share, slack = sum(p <= level for p in found) / 200, 4 * math.sqrt(level / 200)
        assert share <= level + slack
    # Nor is it a test that never finds anything.
    assert sum(p <= 0.5 for p in found) > 20


def test_bits_of_a_model_that_always_answers_one_group_are_a_coin():
    """The rate of an innocent's answers doesn't matter, since the bits are the key's."""
    one = torch.eye(CLASSES)[3]
    suspect = Suspect(lambda images: one.expand(len(images), -1))
    hits = [only_test("blackmarks", suspect, key_of("blackmarks", s)).hits for s in range(100)]
    assert stats.binomtest(sum(hits), 4000).pvalue > 1e-3
    assert stats.kstest(hits, stats.binom(40, 0.5).cdf).statistic < 0.25


@pytest.mark.parametrize("name", ["content", "mea_defender"])
def test_an_innocent_matches_the_targets_of_as_few_keys_as_p_says(name):
    found = [only_test(name, untrained(), key_of(name, seed)).p_value() for seed in range(200)]
    for level in (0.05, 0.2, 0.5):
        assert sum(p <= level for p in found) / 200 <= level + 4 * math.sqrt(level / 200)
    assert sum(p <= 0.5 for p in found) > 20


def test_targets_are_counted_one_by_one():
    counts = ((3, 1, 0), (0, 2, 2), (1, 0, 3))
    sums = [sum(found) for found in itertools.product(*counts)]
    for hits in range(1, 9):
        expected = sum(each >= hits for each in sums) / 27
        assert DrawnTargets(hits, counts, 12).p_value() == nearly(expected)
    assert DrawnTargets(0, counts, 12).p_value() == DrawnTargets(0, (), 0).p_value() == 1
    # Each of ten sources with its target among nine others: less than a level of 1e-6 needs.
    all_right = DrawnTargets(100, ((10, *[0] * 8),) * 10, 100)
    assert all_right.p_value() == nearly(9.0**-10)
    assert all_right.score == 1


def test_targets_are_uniform_among_the_other_classes():
    sources = torch.tensor([[0, 2], [3, 1]])
    draw = torch.manual_seed(0)
    drawn = torch.stack([draw_targets(sources, 5, draw) for _ in range(900)])
    for number, others in ((0, [1, 3, 4]), (1, [0, 2, 4])):
        counts = drawn[:, number].bincount(minlength=5)
        assert counts[others].sum() == 900
        assert stats.chisquare(counts[others]).pvalue > 1e-3
    pairs = (5 * drawn[:, 0] + drawn[:, 1]).unique(return_counts=True)[1]
    assert stats.chisquare(pairs).pvalue > 1e-3


def test_labels_of_held_out_pictures_are_never_their_own_and_change_with_any_picture():
    made, key = method("margin", num_triggers=200), key_of("margin", 1, num_triggers=200)
    triggers = made.triggers(key, judge(), 200)
    assert triggers.inputs.equal(key.images)
    steps = (triggers.labels - key.labels) % CLASSES
    assert stats.chisquare(steps.bincount(minlength=CLASSES)[1:]).pvalue > 1e-3
    assert (steps > 0).all()
    key.images = key.images.clone()
    key.images[5, 0, 0, 0] ^= 1
    again = made.triggers(key, judge(), 200).labels
    assert 20 < int((again == triggers.labels).sum()) < 60 or (again != triggers.labels).any()


def test_margin_trains_without_the_pictures_that_it_holds_out(monkeypatch):
    made, seen = method("margin"), []
    monkeypatch.setattr(type(made), "train", lambda *given: seen.append(given[2:4]))
    _, key = made.embed(victim(), owner(), fit())
    ((data, triggers),) = seen
    assert len(data) == len(owner()) - 20
    assert concatenate([data, Samples(key.images, key.labels)]).inputs.sum() == (
        owner().inputs.sum()
    )
    assert triggers.inputs.equal(key.images)


def test_the_split_of_right_answers_is_counted():
    for total, right, chosen in itertools.product((5, 6), (2, 4), (2, 3)):
        rights = [1] * right + [0] * (total - right)
        hits = [sum(pick) for pick in itertools.combinations(rights, chosen)]
        for most in range(max(hits) + 1):
            expected = sum(hit >= most for hit in hits) / len(hits)
            assert Hypergeometric(most, chosen, right, total).p_value() == nearly(expected)
    assert Hypergeometric(0, 0, 0, 0).p_value() == Hypergeometric(0, 0, 3, 5).p_value() == 1
    assert Hypergeometric(5, 5, 5, 5).p_value() == 1
    assert Hypergeometric(3, 4, 4, 8).score == pytest.approx(0.75 - 0.25)


def test_whoever_does_not_know_the_coins_matches_them_by_chance():
    asked, found = judge()[:40], []
    right = untrained().answers(asked).argmax(1) == asked.labels
    right[::3] = True
    for seed in range(200):
        key = store_pictures(Key.draw("customer", CLASSES, Random(seed).randbytes), asked)
        chosen = learnt_mask(key)
        found.append(
            Hypergeometric(
                int(right[chosen].sum()), int(chosen.sum()), int(right.sum()), 40
            ).p_value()
        )
    for level in (0.05, 0.2, 0.5):
        assert sum(p <= level for p in found) / 200 <= level + 4 * math.sqrt(level / 200)
    assert sum(p <= 0.5 for p in found) > 20


def test_coins_change_with_any_picture():
    key = store_pictures(Key.draw("customer", CLASSES, Random(0).randbytes), judge())
    before = learnt_mask(key)
    assert torch.equal(learnt_mask(key), before)
    assert 70 < int(before.sum()) < 130
    key.images = key.images.clone()
    key.images[5, 0, 0, 0] ^= 1
    assert 60 < int((learnt_mask(key) != before).sum()) < 140


# --- Marked and unmarked models ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["adi", "margin", "blackmarks", "content", "ewe", "mea_defender", "frontier", "uchida"]
)
def test_a_marked_model_is_claimed_and_its_victim_is_not(name):
    network, key = marked(name)
    assert only_test(name, Suspect.of(network), key).p_value() <= 1e-6
    # Another processor trains another victim: one p in a thousand may be as small by luck.
    luck = 1e-3
    assert only_test(name, Suspect.of(victim()), key).p_value() > luck
    right = predict(network, judge().inputs).argmax(1) == judge().labels
    assert right.float().mean() > 0.85
    stranger = key_of(name, 99)
    assert only_test(name, Suspect.of(network), stranger).p_value() > luck


def test_half_of_the_adversaries_fool_the_victim():
    asked = method("frontier", num_triggers=12).adversaries(victim(), owner())
    fooled = predict(victim(), asked.inputs).argmax(1) != asked.labels
    assert fooled.tolist() == [True] * 6 + [False] * 6


@pytest.mark.parametrize("name", ["blackmarks", "frontier"])
def test_what_a_key_keeps_is_read_again(name, tmp_path):
    made, (_, key) = method(name), marked(name)
    key.commit({"name": name}, {}, judge())
    key.save(tmp_path / "key.safetensors")
    read = made.load_key(tmp_path / "key.safetensors")
    assert read.digest() == key.digest()
    assert made.probes(read, judge(), None).fingerprint == (
        made.probes(key, judge(), None).fingerprint
    )


@pytest.mark.parametrize("groups", [None, torch.zeros(CLASSES).long(), torch.tensor([0, 1])])
def test_a_key_with_wrong_groups_is_refused(groups, tmp_path):
    key = Key.draw("customer", CLASSES, Random(0).randbytes)
    if groups is not None:
        key.register_buffer("groups", groups)
    key.save(tmp_path / "key.safetensors")
    with pytest.raises(InputError):
        method("blackmarks").load_key(tmp_path / "key.safetensors")


# --- What can't be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        *((name, "epochs_factor", 0.0) for name in (*EXACT, "content", "mea_defender", "uchida")),
        *(
            (name, "num_triggers", 0)
            for name in (*EXACT, "noise", "ewe", "mea_defender", "frontier")
        ),
        *((name, "trigger_fraction", part) for name in ("adi", "frontier") for part in (0.0, 1.0)),
        *(("dawn", "input_fraction", part) for part in (0.0, 1.0)),
        *((name, "pairs", 0) for name in ("content", "ewe")),
        ("margin", "trigger_weight", 0.0),
        *((name, "eps", eps) for name in ("margin", "frontier") for eps in (0.0, 1.5, math.nan)),
        *((name, "iterations", 0) for name in ("margin", "frontier")),
        *((name, "strength", -1.0) for name in ("blackmarks", "mea_defender", "uchida")),
        ("content", "kind", "stamp"),
        ("content", "size", 0.0),
        ("noise", "strength", 2.0),
        ("ewe", "layers", 0),
        ("ewe", "temperature", 0.0),
        ("ewe", "weight", -1.0),
        ("mea_defender", "rules", 0),
        ("frontier", "num_triggers", 1),
        ("uchida", "bits", 0),
    ],
)
def test_a_wrong_number_is_named(name, number, value):
    with pytest.raises(InputError, match=rf"^method\.{number}={value}: "):
        method(name, **{number: value})


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_a_message_names_somebody(name):
    with pytest.raises(InputError, match=r"method\.message is empty"):
        method(name, message="")


def test_more_triggers_than_pictures_are_the_same_again():
    images = pictures_of_class(judge(), 3, 50)
    assert torch.equal(images[:20], images[20:40])
    assert torch.equal(images[:20], judge().inputs[judge().labels == 3])
    for name in ("content", "ewe", "mea_defender"):
        made = method(name, num_triggers=500)
        assert len(made.triggers(key_of(name, 1), judge(), 500)) == 500


@pytest.mark.parametrize("name", ["content", "ewe", "mea_defender"])
def test_a_class_without_pictures_is_named(name):
    nothing = Samples(judge().inputs, torch.full_like(judge().labels, 11))
    with pytest.raises(InputError, match="there is no picture of class"):
        method(name).triggers(key_of(name, 1), nothing, 20)


def test_more_rules_than_classes_are_refused():
    with pytest.raises(InputError, match=r"method\.rules=91: 10 classes have 90 pairs"):
        method("mea_defender", rules=91).triggers(key_of("mea_defender", 1), judge(), 20)


def test_adversaries_that_are_not_there_are_missed():
    with pytest.raises(InputError, match=r"method\.eps=0\.0001: none of .*a larger one"):
        method("frontier", eps=0.0001).adversaries(victim(), owner())
    right = predict(victim(), owner().inputs).argmax(1) == owner().labels
    assert (
        len(method("frontier", num_triggers=10_000).adversaries(victim(), owner())) == right.sum()
    )


def test_a_network_without_features_cannot_be_entangled():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(InputError, match="Sequential has no layers called features"):
        method("ewe").embed(flat, owner(), fit())


def test_beside_gives_triggers_their_share():
    triggers = judge()[:7]
    both = with_triggers(owner(), triggers, 0.2)
    assert torch.equal(both.inputs[:300], owner().inputs)
    assert (len(both) - 300) / len(both) == pytest.approx(0.2, abs=0.02)
    assert len(with_triggers(owner()[:10], judge(), 0.01)) == 210


# --- Losses ------------------------------------------------------------------------------------


def test_apart_is_the_mean_divergence_to_the_sources():
    torch.manual_seed(1)
    log = torch.randn(7, 4).log_softmax(1)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    own = torch.tensor([0, 0, 0, 0, 0, 1, 1]).bool()
    sources = torch.tensor([[0, 1]] * 6 + [[1, 3]])
    members = F.one_hot(labels, 4) * ~own[:, None]

    def divergence(one: int, others: list[int]) -> torch.Tensor:
        p = log[one].exp()
        return torch.stack([(p * (log[one] - log[other])).sum() for other in others]).mean()

    # Nothing of class 3 is there.
    parts = [divergence(5, [0, 1]), divergence(5, [2, 3, 4]), divergence(6, [2, 3, 4])]
    torch.testing.assert_close(divergence_to_sources(log, members, sources, own), sum(parts) / 2)
    assert float(divergence_to_sources(log, members, sources, torch.zeros(7).bool())) == 0


def test_composing_moves_the_triggers_answers_and_not_the_sources():
    torch.manual_seed(0)
    log = torch.randn(6, 4, requires_grad=True)
    own = torch.tensor([0, 0, 0, 0, 1, 1]).bool()
    members = F.one_hot(torch.tensor([0, 1, 0, 1, 2, 2]), 4) * ~own[:, None]
    loss = divergence_to_sources(log.log_softmax(1), members, torch.tensor([[0, 1]] * 6), own)
    (slope,) = torch.autograd.grad(loss, log)
    assert (slope[:4] == 0).all()
    assert (slope[4:] != 0).any()
    net, plain = network().eval(), batch_of(owner(), [0, 1, 2])
    marking = MeaDefenderModule(net, recipe(), 300, torch.tensor([[0, 1]]), CLASSES, 5.0)
    torch.testing.assert_close(marking.loss(plain), Classifier(net, recipe()).loss(plain))


def test_signing_adds_the_part_of_the_wrong_group():
    torch.manual_seed(0)
    groups = torch.tensor([0, 1] * 5)
    net, batch = network().eval(), batch_of(owner(), [0, 1, 12, 13])
    marking = BlackMarksModule(net, recipe(), 12, groups, 0.5)
    p = net(batch.inputs).softmax(1)
    wrong = (p[2, 1::2].sum() + p[3, 0::2].sum()) / 2
    expected = Classifier(net, recipe()).loss(batch) + 0.5 * wrong
    torch.testing.assert_close(marking.loss(batch), expected)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_classes_that_are_answered_alike_share_a_group():
    groups = torch.tensor([0, 1, 1, 0, 1, 0])
    labels = torch.arange(60) % 6
    near = 0.3 * F.one_hot(groups[labels], 2)[:, groups] + 0.01
    answers = near + F.one_hot(labels, 6)
    found = cluster_classes(answers / answers.sum(1, keepdim=True), labels)
    assert torch.equal(found, groups) or torch.equal(found, 1 - groups)
    assert cluster_classes(torch.full((60, 6), 1 / 6), labels).tolist() == [0, 1, 0, 1, 0, 1]


def test_widening_joins_moved_triggers_to_each_batch():
    torch.manual_seed(0)
    triggers = Samples(judge().inputs[:5], judge().labels[:5])
    net = network()
    marking = MarginModule(
        network=net,
        recipe=recipe(batch_size=32),
        triggers=triggers,
        fraction=0.2,
        weight=0.1,
        eps=0.05,
        iterations=3,
    )
    assert marking.triggers_per_batch == 8
    sizes: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda module, inputs: sizes.append(inputs[0]))
    batch = batch_of(owner(), list(range(32)))
    marking.loss(batch)
    assert net.training
    assert [len(each) for each in sizes] == [8, 8, 8, 40]
    assert torch.equal(sizes[-1][:32], batch.inputs)
    gap = (sizes[-1][32:, None] - triggers.inputs[None].float() / 255).abs().amax((2, 3, 4))
    assert gap.amin(1).max() <= 0.05 + 1e-6
    assert gap.amin(1).max() > 0.04
