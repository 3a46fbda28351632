"""DeepSigns, DeepMarks, CosWM and IPGuard: their secrets, their nulls, and marks of tiny models."""

import copy
import functools
import inspect
import math
from random import Random

import pytest
import torch
from scipy import signal
from torch import nn

from helpers.training import fit, network, recipe, samples
from softmark.attacks.collude import mean_of
from softmark.batches import Batches
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.coswm import (
    CosWM,
    CosWMModule,
    add_wave,
    confident_pictures,
    draw_secrets,
    lomb_scargle_power,
)
from softmark.methods.deepmarks import DeepMarks, codebook
from softmark.methods.deepsigns import DeepSigns, features_of
from softmark.methods.ipguard import IPGuard
from softmark.methods.key import generator
from softmark.methods.parts.feature_mark import class_means
from softmark.models.access import Suspect, labels_only
from softmark.models.networks import ConvNet, Ensemble
from softmark.training import Classifier, predict
from softmark.verification.nulls import Sampled

NUMBERS = {
    DeepSigns: {"bits": 16, "marked": 2, "strength": 3.0},
    DeepMarks: {"order": 7, "layer": -1, "strength": 3.0},
    CosWM: {"eps": 0.05, "frequency": 30.0, "highest": 251.0, "others": 20, "redraws": 99},
    IPGuard: {"num_triggers": 20, "margin": 1.0, "iterations": 500, "lr": 0.01},
}

SPECTRUM = torch.tensor([0.5, 7.0, 30.0], dtype=torch.float64)


def method(kind, message="customer", **changed):
    numbers = {**NUMBERS[kind], **changed}
    if kind is IPGuard:
        return kind(message=message, **numbers)
    return kind(message=message, recipe=recipe(epochs=12), **numbers)


def drawn(kind, seed: int = 0, message: str = "customer", classes: int = 3):
    return method(kind, message).draw(samples(6), classes, Random(seed).randbytes)


def entropy_of(seed: int):
    """A trainer whose secrets follow from ``seed``."""
    trainer = fit()
    trainer.entropy = Random(seed).randbytes
    return trainer


@functools.cache
def pictures(count: int = 160, seed: int = 1) -> Samples:
    """Noise of full range; the class is how bright the upper half is."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    images = torch.randint(156, (count, 1, 8, 8), dtype=torch.uint8, generator=random)
    images[:, :, :4] += (labels * 45).to(torch.uint8)[:, None, None, None]
    return Samples(images, labels)


@functools.cache
def marked(kind, message="customer", **changed):
    """A victim's marked copy and its key."""
    torch.manual_seed(0)
    return method(kind, message, **changed).embed(network(), pictures(), entropy_of(5))


def ask(which, suspect: Suspect, key, pool: Samples):
    return which.evidence(suspect, key, which.probes(key, pool, None))


# --- Secrets ------------------------------------------------------------------------------------


def secrets_of(kind, key):
    if kind is DeepSigns:
        return method(kind).secret(key, 32)
    if kind is DeepMarks:
        return method(kind).matrix(key, 144), method(kind).code(key)
    return draw_secrets(generator(key), 1, key.classes, 64)


@pytest.mark.parametrize("kind", [DeepSigns, DeepMarks, CosWM])
def test_what_is_secret_follows_from_the_key(kind, tmp_path):
    key = drawn(kind)
    key.save(tmp_path / "key.safetensors")
    again = method(kind).load_key(tmp_path / "key.safetensors")
    for one, other in zip(secrets_of(kind, key), secrets_of(kind, again), strict=True):
        assert torch.equal(one, other)
    others = [secrets_of(kind, drawn(kind, seed)) for seed in range(1, 6)]
    for position, one in enumerate(secrets_of(kind, key)):
        assert not all(torch.equal(one, other[position]) for other in others)


def test_customers_of_one_owner_differ_in_the_message_alone():
    for kind in (DeepSigns, DeepMarks):
        key = drawn(kind)
        *same, bits = secrets_of(kind, key)
        *kept, others = secrets_of(kind, key.for_message("another"))
        assert all(torch.equal(one, other) for one, other in zip(same, kept, strict=True))
        assert not torch.equal(bits, others)


@pytest.mark.parametrize("order", [2, 3, 5, 11])
def test_two_customers_share_one_point(order):
    codes = codebook(order)
    size = order**2 + order + 1
    assert codes.shape == (size, size)
    block = (codes < 0).int()
    assert torch.equal(block @ block.T, 1 + order * torch.eye(size, dtype=torch.int32))


# --- Nulls --------------------------------------------------------------------------------------


def unmarked(kind) -> Suspect:
    """An untrained network; for a method that reads answers, one that answers at random."""
    torch.manual_seed(3)
    if kind is not CosWM:
        return Suspect.of(network())
    answers = (2 * torch.randn(60, 3)).softmax(1)
    return Suspect(lambda images: answers[: len(images)])


@pytest.mark.parametrize("kind", [DeepSigns, DeepMarks, CosWM])
def test_innocents_are_claimed_no_more_often_than_p_says(kind):
    which, suspect = method(kind), unmarked(kind)
    if kind is CosWM:
        which = method(kind, others=5, redraws=99)
    keys, found = 200, []
    for seed in range(keys):
        (test,) = ask(which, suspect, drawn(kind, seed), pictures(60)).tests.values()
        found.append(test.p_value())
    for level in (0.5, 0.1, 0.05):
        # The keys that are drawn again are the same for all: they say where p lies, too.
        slack = 4 * math.sqrt(level * (1 - level) * (1 / keys + (kind is CosWM) / 101))
        assert sum(p <= level for p in found) / keys <= level + slack
    assert min(found) < 0.1 < max(found)


# --- Marks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [DeepSigns, DeepMarks])
def test_a_marked_model_is_claimed_and_no_other(kind):
    network_, key = marked(kind)
    judge = pictures(90, seed=2)
    (test,) = ask(method(kind), Suspect.of(network_), key, judge).tests.values()
    assert test.p_value() <= 1e-6
    for other in (drawn(kind, 6), key.for_message("another")):
        (test,) = ask(method(kind), Suspect.of(network_), other, judge).tests.values()
        assert test.p_value() > 1e-3
    (test,) = ask(method(kind), Suspect.of(network()), key, judge).tests.values()
    assert test.p_value() > 1e-3


def test_deepsigns_reads_the_signs_of_projected_class_means():
    network_, key = marked(DeepSigns)
    which, judge = method(DeepSigns), pictures(90, seed=2)
    probes = which.probes(key, judge, None)
    found = which.evidence(Suspect.of(network_), key, probes)
    chosen, matrix, bits = which.secret(key, 32)
    assert set(probes.labels.tolist()) == set(chosen.tolist())
    right = 0
    for label, wanted in zip(chosen, bits, strict=True):
        mean = features_of(network_, judge.inputs[judge.labels == label]).mean(0)
        right += int(((matrix @ mean > 0).int() == wanted).sum())
    assert found.mark_recall == right / 32
    # The classifier reads these features.
    told = network_.head(features_of(network_, judge.inputs)).softmax(1)
    torch.testing.assert_close(told, predict(network_, judge.inputs))


def test_a_class_that_nobody_asked_for_counts_for_nothing():
    means, there = class_means(torch.ones(2, 4), torch.tensor([0, 0]), torch.tensor([2, 0]))
    assert there.tolist() == [False, True]
    assert means.tolist() == [[0] * 4, [1] * 4]
    key = drawn(DeepSigns)
    first = method(DeepSigns).secret(key, 1)[0][0]
    only = pictures()[pictures().labels == first]
    (test,) = ask(method(DeepSigns), Suspect.of(network()), key, only).tests.values()
    assert test.trials == 16


def test_averaged_copies_name_both_customers_and_nobody_else():
    copies = [marked(DeepMarks, message) for message in ("alice", "bob")]
    mean = mean_of([copy.deepcopy(network_) for network_, _ in copies], pictures())
    which, key = method(DeepMarks), copies[0][1]
    others = [f"customer {number}" for number in range(20)]
    codes = {name: which.code(key.for_message(name)) for name in ("alice", "bob", *others)}
    others = [n for n in others if not any(codes[n].equal(codes[b]) for b in ("alice", "bob"))]
    tests = which.identify(Suspect.of(mean), key, pictures(), ["alice", "bob", *others])
    for name, test in tests.items():
        assert (test.p_value() <= 1e-6) == (name in ("alice", "bob"))
    (own,) = ask(which, Suspect.of(mean), key, pictures()).tests.values()
    assert own == tests["alice"]
    assert own.score == pytest.approx(math.sqrt(0.5), abs=0.05)


# --- CosWM --------------------------------------------------------------------------------------


def test_what_is_served_is_the_papers_formula():
    which, key = method(CosWM), drawn(CosWM)
    asked = pictures(12)
    plain = predict(network(), asked.inputs)
    told = which.serve(lambda images: plain, key)(asked.inputs)
    (target,), (vector,) = draw_secrets(generator(key), 1, 3, 64)
    assert float(vector.norm()) == pytest.approx(1)
    for row, image in enumerate(asked.inputs):
        p = sum(v * x / 255 for v, x in zip(vector.tolist(), image.flatten().tolist(), strict=True))
        for i in range(3):
            a = math.cos(30 * p) if i == target else math.cos(30 * p + math.pi)
            share = 0.05 if i == target else 0.05 / 2
            expected = (float(plain[row, i]) + share * (1 + a)) / 1.1
            assert float(told[row, i]) == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(told.sum(1), torch.ones(12))


def test_the_periodogram_finds_a_planted_cosine_and_no_other():
    places = 3 * torch.rand(60, generator=torch.manual_seed(0))
    noise = 0.02 * torch.randn(60, generator=torch.manual_seed(1))
    for planted, found in ((30.0, True), (37.0, False), (11.0, False)):
        ratio = method(CosWM).power_ratio(places, 0.9 + 0.05 * (planted * places + 1).cos() + noise)
        assert (ratio > 8) == found
    assert method(CosWM).power_ratio(places, torch.full((60,), 0.9)) == 0
    assert method(CosWM).power_ratio(places[:2], noise[:2]) == 0


def test_the_power_is_that_of_scipy():
    places = 3 * torch.rand(40, generator=torch.manual_seed(0)).double()
    scores = torch.rand(40, generator=torch.manual_seed(1)).double()
    found, spectrum = lomb_scargle_power(places, scores, SPECTRUM), SPECTRUM.numpy()
    if "floating_mean" in inspect.signature(signal.lombscargle).parameters:
        theirs = signal.lombscargle(
            places.numpy(), scores.numpy(), spectrum, floating_mean=True, normalize=True
        )
        total = float(((scores - scores.mean()) ** 2).sum())
        assert (found / total).tolist() == pytest.approx(theirs.tolist())
    # By least squares, too.
    for frequency, expected in zip(spectrum, found, strict=True):
        waves = [torch.ones(40), (frequency * places).cos(), (frequency * places).sin()]
        fits = [torch.stack([w.double() for w in waves[:count]], 1) for count in (1, 3)]
        left = [torch.linalg.lstsq(fit, scores[:, None]).solution for fit in fits]
        before, after = (
            ((scores - (f @ x)[:, 0]) ** 2).sum() for f, x in zip(fits, left, strict=True)
        )
        assert float(expected) == pytest.approx(float(before - after))


def test_the_upper_half_of_a_class_is_looked_at():
    answers = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.3, 0.7]])
    assert confident_pictures(answers, 0).tolist() == [0]
    assert not len(confident_pictures(answers, 1))
    assert not len(confident_pictures(answers[:3], 1))


def test_the_interface_shows_the_wave_and_stolen_weights_do_not():
    which = method(CosWM, redraws=999)
    network_, key = marked(CosWM)
    judge = pictures(600, seed=2)
    plain = Suspect.of(network_)
    served = Suspect(which.serve(plain.answer, key))
    (test,) = ask(which, served, key, judge).tests.values()
    assert isinstance(test, Sampled)
    assert test.p_value() <= 1e-3
    (test,) = ask(which, plain, key, judge).tests.values()
    assert test.p_value() > 1e-2
    (test,) = ask(which, served, drawn(CosWM, 6), judge).tests.values()
    assert test.p_value() > 1e-2


def test_coswm_asks_what_the_interface_was_asked():
    log, pool = pictures(6), pictures(9)
    assert method(CosWM).probes(drawn(CosWM), pool, log) is log
    assert method(CosWM).probes(drawn(CosWM), pool, None) is pool


def test_the_wave_is_trained_through():
    """The loss is the served answers', and not the network's own."""
    torch.manual_seed(0)
    module = CosWMModule(network().eval(), recipe(), 1, torch.full((64,), 0.125), 30.0, 0.05)
    (batch,) = Batches(pictures(12), recipe())
    wave = (30 * batch.inputs.flatten(1).sum(1) / 8).cos()
    told = add_wave(module.network(batch.inputs).softmax(1), wave, 1, 0.05)
    expected = -told[torch.arange(12), batch.labels].log().mean()
    torch.testing.assert_close(module.loss(batch), expected)


# --- IPGuard ------------------------------------------------------------------------------------


@functools.cache
def fingerprinted():
    torch.manual_seed(0)
    victim = fit()(Classifier(network(), recipe(epochs=12)), pictures(), "classifier")
    return victim, *method(IPGuard).embed(victim, pictures(), entropy_of(5))


def test_a_fingerprint_leaves_the_victim_and_is_kept_with_the_key(tmp_path):
    victim, marked_, key = fingerprinted()
    assert marked_ is victim
    assert all(parameter.requires_grad for parameter in victim.parameters())
    key.save(tmp_path / "key.safetensors")
    again = method(IPGuard).load_key(tmp_path / "key.safetensors")
    assert again.digest() == key.digest()
    asked = method(IPGuard).probes(again, pictures(), None)
    assert torch.equal(asked.inputs, key.points)
    assert torch.equal(asked.labels, predict(victim, key.points).argmax(1))
    # Near the boundary: two classes are likely, and the third is not.
    likely = predict(victim, key.points).sort(descending=True).values
    assert float(likely[:, 1].median()) > 0.05
    assert float(likely[:, 2].median()) < 0.1


def test_a_copy_answers_the_points_and_another_model_does_not():
    victim, _, key = fingerprinted()
    torch.manual_seed(9)
    other = fit()(Classifier(network(), recipe(epochs=12)), pictures(160, 8), "classifier")
    found = ask(method(IPGuard), Suspect.of(victim), key, pictures())
    innocent = ask(method(IPGuard), Suspect.of(other), key, pictures())
    assert found.mark_recall == 1 == found.tests["points"].score
    assert innocent.mark_recall < 0.9
    assert found.tests["points"].p_value([innocent.tests["points"].score] * 19) == 0.05
    assert innocent.tests["points"].p_value([innocent.tests["points"].score] * 19) == 1


# --- What can't be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        *((DeepSigns, each) for each in ({"bits": 0}, {"marked": 0}, {"strength": 0.0})),
        *((DeepMarks, each) for each in ({"order": 4}, {"order": 1}, {"order": -3})),
        (DeepMarks, {"strength": math.nan}),
        *((CosWM, {name: 0}) for name in ("eps", "frequency", "highest", "others", "redraws")),
        *((IPGuard, {name: 0}) for name in ("num_triggers", "iterations", "lr")),
        (IPGuard, {"margin": -1.0}),
    ],
)
def test_a_wrong_number_is_named(kind, wrong):
    with pytest.raises(InputError, match=rf"method\.{next(iter(wrong))}="):
        method(kind, **wrong)
    with pytest.raises(InputError, match=r"method\.message is empty"):
        method(kind, message="")


def test_what_a_model_cannot_carry_is_named():
    with pytest.raises(InputError, match=r"method\.bits=33: the model has 32 features"):
        method(DeepSigns, bits=33).embed(network(), pictures(), fit())
    with pytest.raises(InputError, match=r"method\.marked=4: the model has 3 classes"):
        method(DeepSigns, marked=4).embed(network(), pictures(), fit())
    with pytest.raises(InputError, match="no features"):
        method(DeepSigns).embed(Ensemble([network()]), pictures(), fit())
    with pytest.raises(InputError, match=r"method\.order=13: .*144"):
        method(DeepMarks, order=13).embed(network(), pictures(), fit())
    with pytest.raises(InputError, match=r"method\.layer=9: "):
        method(DeepMarks, layer=9).embed(network(), pictures(), fit())


def test_a_suspect_that_cannot_be_read_is_no_evidence():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    narrow = ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.4], std=[0.3], width=1)
    hard = Suspect(labels_only(Suspect.of(network()).answer))
    cases = [
        (DeepSigns, Suspect.of(Ensemble([network()])), "no features before a classifier"),
        (DeepSigns, Suspect.of(narrow), "fewer features than bits"),
        (DeepMarks, Suspect.of(flat), "no convolution -1"),
        (DeepMarks, Suspect.of(narrow), "no convolution -1"),
        (CosWM, hard, "labels and no scores"),
        (IPGuard, Suspect.of(network()), "no points"),
    ]
    for kind, suspect, why in cases:
        found = ask(method(kind), suspect, drawn(kind), pictures())
        assert not found.tests
        assert found.why.startswith("no evidence: ")
        assert why in found.why
    assert method(DeepMarks).identify(Suspect.of(flat), drawn(DeepMarks), None, ["a"]) == {}
    none_of_them = pictures()[:0]
    found = ask(method(DeepSigns), Suspect.of(network()), drawn(DeepSigns), none_of_them)
    assert "no picture of a marked class" in found.why


def test_another_architecture_is_read_and_shows_nothing():
    wider = ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.4], std=[0.3], width=6)
    for kind in (DeepSigns, DeepMarks):
        (test,) = ask(method(kind), Suspect.of(wider), marked(kind)[1], pictures()).tests.values()
        assert test.p_value() > 1e-3
