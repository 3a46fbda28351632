"""The mathematics of usp and csp: templates, patterns, losses, and their exact evidence."""

import copy
import functools
import hashlib
import hmac
import itertools
import math
from random import Random
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch import nn
from torch.nn import functional as F

from helpers import nearly
from helpers.soft_labels import (
    answers,
    drawn,
    exact,
    key_of,
    marked_for,
    signs_of,
    skewed,
    soft,
    told,
)
from helpers.training import fit, network, recipe, samples
from softmark.attacks.distill import Distill, Student
from softmark.attacks.finetune import FineTune
from softmark.attacks.prune import Prune, pruned
from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.experiment.stages import most_confident
from softmark.methods.csp import CSP, CSPModule
from softmark.methods.key import Key, as_bytes
from softmark.methods.parts.control import Control, TeacherControl
from softmark.methods.parts.loss import Marking, templates
from softmark.methods.parts.soft_labels import answers_under_attack
from softmark.methods.parts.teacher import Teacher, TeacherModule
from softmark.methods.usp import USP, USPMarking, USPModule, directions, project_out_victim
from softmark.models.access import Suspect
from softmark.models.networks import ConvNet
from softmark.tails import (
    class_tails,
    compute_victim_stats,
    is_victim_stats,
    log_of,
    log_tail,
    margin_loss,
    tail_sums,
)
from softmark.training import predict
from softmark.verification.nulls import Direction
from softmark.verification.signs import Signs

PLANTED = {"feature_weight": 1.0, "feature_cosine": 0.9}
UNTAUGHT = {"teacher_weight": 0.0, "teacher_temperature": 1.0}


def marking_of(kind, numbers):
    return USPMarking(**numbers, detector_weight=0.1) if kind is USP else Marking(**numbers)


# --- patterns and templates -------------------------------------------------------------------


def test_templates_are_distributions_with_the_pattern_in_the_tail():
    signs = signs_of(6)
    rows = templates(signs, eps=0.2, gamma=1.5)
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    torch.testing.assert_close(rows.diagonal(), torch.full((6,), 0.8))
    tail = 0.2 * (1.5 * signs[2, [0, 1, 3, 4, 5]]).softmax(0)
    torch.testing.assert_close(rows[2, [0, 1, 3, 4, 5]], tail)


def test_a_template_without_eps_is_the_label():
    assert torch.equal(templates(signs_of(6), eps=0.0, gamma=1.5), torch.eye(6))


def stream_of(secret: bytes, salt: bytes, message: bytes, blocks: int) -> bytes:
    seed = hmac.new(secret, salt + message, hashlib.sha256).digest()
    counters = (number.to_bytes(8, "big") for number in range(blocks))
    return b"".join(hmac.new(seed, each, hashlib.sha256).digest() for each in counters)


def test_sign_matrix_is_the_first_bits_of_hmac_sha256():
    secret, salt, message = b"s" * 32, b"t" * 16, b"customer-17"
    # Of no message, which all customers share, and of the customer's: 276 bits each, two blocks.
    streams = [stream_of(secret, salt, each, 2) for each in (b"", message)]
    key = key_of(secret, message, salt, 24)
    for signs in (signs_of(24, secret, message, salt), soft(CSP).pattern(key)):
        for part, stream in zip((signs + signs.T, signs - signs.T), streams, strict=True):
            expected = iter("".join(f"{byte:08b}" for byte in stream))
            for row in range(24):
                assert part[row, row] == 0
                for column in range(row + 1, 24):
                    value = (2 * int(next(expected)) - 1) * math.sqrt(2)
                    assert float(part[row, column]) == pytest.approx(value)


def test_other_messages_secrets_and_salts_have_other_signs():
    first = signs_of(10, b"a", b"b", b"c")
    for other in ((b"a", b"x", b"c"), (b"x", b"b", b"c"), (b"a", b"b", b"x")):
        agree = (signs_of(10, *other) == first).float().mean()
        assert 0.2 < agree < 0.8


def test_directions_are_the_normal_quantiles_of_hmac_centred_on_each_tail():
    secret, salt, message = b"s" * 32, b"t" * 16, b"customer-17"
    halves = []
    for stream in (stream_of(secret, salt, each, 3) for each in (b"", message)):
        numbers = [int.from_bytes(stream[8 * n : 8 * n + 8], "big") for n in range(10)]
        halves.append(iter(special.ndtri([(number + 0.5) / 2.0**64 for number in numbers])))
    rows = torch.zeros(5, 5, dtype=torch.float64)
    for row in range(5):
        for column in range(row + 1, 5):
            both, apart = (float(next(half)) for half in halves)
            rows[row, column] = (both + apart) / math.sqrt(2)
            rows[column, row] = (both - apart) / math.sqrt(2)
    for row in range(5):
        rows[row] -= rows[row].sum() / 4
        rows[row, row] = 0
    rows *= math.sqrt(20) / rows.norm()
    pattern = soft(USP).pattern(key_of(secret, message, salt, 5))
    torch.testing.assert_close(pattern, rows.float())


def test_other_secrets_and_salts_have_other_directions():
    first = soft(USP).pattern(key_of(b"a", b"b", b"c", 10)).flatten()
    for other in ((b"x", b"b", b"c"), (b"a", b"b", b"x")):
        second = soft(USP).pattern(key_of(*other, 10)).flatten()
        assert abs(F.cosine_similarity(first, second, dim=0)) < 0.5


@pytest.mark.parametrize("kind", [CSP, USP])
def test_messages_share_the_owner_s_half_of_the_pattern_alone(kind):
    nothing = torch.zeros(10, 10)
    patterns = [soft(kind).pattern(key_of(b"a", message, b"c", 10)) for message in (b"b", b"x")]
    halves = [
        [project_out_victim(pattern, nothing, sign)[0] for sign in (1, -1)] for pattern in patterns
    ]
    for first, second, wanted in zip(*halves, (1.0, 0.0), strict=True):
        cosine = float(F.cosine_similarity(first.flatten(), second.flatten(), dim=0))
        assert cosine == pytest.approx(wanted, abs=1e-6 if wanted else 0.4)


def random_directions(count: int, classes: int) -> torch.Tensor:
    """Patterns of random bytes, (count, K, K)."""
    random, size = Random(0), 4 * classes * (classes - 1)
    return torch.stack(
        [directions(random.randbytes(size), random.randbytes(size), classes) for _ in range(count)]
    )


@pytest.fixture(scope="module")
def many_directions() -> torch.Tensor:
    return random_directions(4000, 4)


def test_directions_are_uniform_among_patterns_whose_tails_sum_to_zero(many_directions):
    rows = many_directions
    assert (rows.diagonal(dim1=1, dim2=2) == 0).all()
    torch.testing.assert_close(rows.sum(2), torch.zeros(4000, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.flatten(1).norm(dim=1), torch.full((4000,), math.sqrt(12)))
    flat = rows.flatten(1)
    torch.testing.assert_close(flat.mean(0), torch.zeros(16), atol=0.08, rtol=0)
    # Norm^2 12 is spread evenly over 4 tails of 2 dimensions each.
    expected = torch.zeros(16, 16)
    for row in range(4):
        there = [4 * row + column for column in range(4) if column != row]
        for i in there:
            for j in there:
                expected[i, j] = 12 / 8 * ((i == j) - 1 / 3)
    torch.testing.assert_close(flat.T @ flat / 4000, expected, atol=0.12, rtol=0)


@pytest.mark.parametrize("tails", [[0], [0, 1, 2, 3]])
def test_the_cosine_of_a_direction_with_any_pattern_is_as_the_null_says(many_directions, tails):
    fixed = torch.zeros(4, 4)
    for row in tails:
        fixed[row, [(row + 1) % 4, (row + 2) % 4]] = torch.tensor([1.0, -1.0]) * (1 + row)
    cosines = F.cosine_similarity(many_directions.flatten(1), fixed.flatten()[None], dim=1)
    p = [Direction(float(cosine), 8).p_value() for cosine in cosines]
    for level in (0.3, 0.1, 0.01):
        share = sum(value <= level for value in p) / 4000
        assert share == pytest.approx(level, abs=4 * math.sqrt(level * (1 - level) / 4000))


# --- settings and training --------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"eps": -0.1},
        {"eps": 1.0},
        {"eps": math.nan},
        {"gamma": 0.0},
        {"gamma": math.nan},
        {"margin": 0.0},
        {"margin": -1.0},
        {"beta": -1.0},
        {"beta": math.nan},
        {"detector_weight": -0.1},
    ],
)
def test_a_wrong_marking_is_named_before_anything_trains(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=rf"method\.marking\.{name}="):
        USPMarking(**wrong)
    if name != "detector_weight":
        with pytest.raises(InputError, match=rf"method\.marking\.{name}="):
            Marking(**wrong)


def test_the_ends_of_what_a_marking_may_be_are_accepted():
    USPMarking(eps=0.0, gamma=1e-9, margin=1e-9, beta=0.0, detector_weight=0.0)


@pytest.mark.parametrize(
    ("epochs", "length", "expected"), [(10, 2.0, 20), (10, 0.5, 5), (3, 0.5, 2), (1, 0.01, 1)]
)
def test_a_longer_recipe_differs_in_its_epochs_alone(epochs, length, expected):
    longer = Control(recipe=recipe(epochs=epochs), epochs_factor=length)
    assert longer.training_recipe == recipe(epochs=expected)


@pytest.mark.parametrize(("size", "batch", "expected"), [(64, 0.5, 32), (5, 0.5, 2), (2, 0.1, 2)])
def test_smaller_batches_differ_in_their_size_alone(size, batch, expected):
    smaller = TeacherControl(recipe=recipe(batch_size=size), batch_size_factor=batch)
    assert smaller.training_recipe == recipe(batch_size=expected)


@pytest.mark.parametrize("batch", [0.0, -1.0, math.nan, math.inf])
def test_a_batch_is_above_zero(batch):
    for kind in (TeacherControl, USP):
        with pytest.raises(InputError, match=r"method\.batch_size_factor="):
            kind(batch_size_factor=batch)


@pytest.mark.parametrize("length", [0.0, -1.0, math.nan])
def test_a_length_is_above_zero(length):
    for kind in (Control, TeacherControl, USP):
        with pytest.raises(InputError, match=r"method\.epochs_factor="):
            kind(epochs_factor=length)


def test_an_empty_message_is_refused():
    with pytest.raises(InputError, match=r"method\.message"):
        soft(CSP, message="")


def test_the_control_is_the_victim_trained_on_for_as_long_as_the_mark():
    torch.manual_seed(0)
    victim, seen = network(), []
    before = copy.deepcopy(victim.state_dict())

    def noting(module, data, name):
        seen.append((type(module).__name__, module.recipe, data, name))
        assert all(torch.equal(before[k], v) for k, v in module.network.state_dict().items())
        return fit()(module, data, name)

    data = samples()
    control = Control(recipe=recipe(epochs=2), epochs_factor=1.5).train(victim, data, noting)
    assert seen == [("Classifier", recipe(epochs=3), data, "control")]
    small = recipe(batch_size=recipe().batch_size // 2)
    # Without a teacher nobody is asked: plainly trained.
    for weight in (0.5, 0.0):
        numbers = {"batch_size_factor": 0.5, "teacher_weight": weight}
        TeacherControl(recipe=recipe(), **numbers).train(victim, data, noting)
    assert seen[1:] == [(name, small, data, "control") for name in ("TeacherModule", "Classifier")]
    assert soft(CSP, epochs_factor=1.5).marking_recipe == recipe(epochs=3)
    assert all(torch.equal(before[name], value) for name, value in victim.state_dict().items())
    assert not torch.equal(control.head.weight, victim.head.weight)
    assert not control.training


def test_simulated_attacks_are_made_on_copies():
    torch.manual_seed(0)
    model, data = network().eval(), samples()
    before = copy.deepcopy(model.state_dict())
    student = functools.partial(Student, temperature=1.0, hard=False)
    distill = Distill(
        recipe=recipe(epochs=1), network=functools.partial(ConvNet, width=4), student=student
    )
    tune = FineTune(
        recipe=recipe(), epochs=1, lr_factor=1.0, layers="all", samples=None
    )  # it changes the model that it gets
    attacks = {"a": Prune(sparsity=0.5), "b": tune, "c": distill}
    found = answers_under_attack(model, attacks, data, 3, fit())
    assert [len(each) for each in found] == [64, 64, 64]
    assert not torch.allclose(found[1], predict(model, data.inputs), atol=1e-3)
    torch.testing.assert_close(found[0], predict(pruned(model, 0.5), data.inputs))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def batch_of(logits: torch.Tensor) -> Batch:
    index = torch.arange(len(logits))
    return Batch(logits, index % logits.shape[1], index)


def test_the_loss_of_csp_by_hand():
    pattern, logits = signs_of(5), torch.randn(20, 5, generator=torch.manual_seed(0))
    victim = answers(20, 5, 1)
    numbers = Marking(
        eps=0.1, gamma=1.5, beta=2.0, margin=3, feature_weight=0.0, feature_cosine=0.9,
        teacher_weight=0.25, teacher_temperature=2.0,
    )  # fmt: skip
    marking = CSPModule(nn.Identity(), recipe(), pattern, victim, numbers)
    rows = templates(pattern, 0.1, 1.5)[torch.arange(20) % 5]
    task = -(rows * logits.log_softmax(1)).sum(1).mean()
    # The template is mixed into the victim's probabilities; at temperature 2 they become roots.
    tails = templates(pattern, 1.0, 1.5)[torch.arange(20) % 5]
    roots = (0.9 * victim + 0.1 * tails).sqrt()
    roots = roots / roots.sum(1, keepdim=True)
    taught = -(roots * (logits / 2).log_softmax(1)).sum(1).mean()
    marked = 2 * margin_loss(logits.log_softmax(1), pattern, 3)
    expected = 0.75 * task + 0.25 * 4 * taught + marked
    torch.testing.assert_close(marking.loss(batch_of(logits)), expected)
    torch.testing.assert_close(
        marking.marking_loss(logits, torch.arange(20) % 5), task + marked
    )  # what softmark.marking_loss gives: it knows no victim


def test_a_teacher_is_learnt_of_each_sample_its_own_answer():
    victim, logits = answers(20, 5, 1), torch.randn(6, 5, generator=torch.manual_seed(0))
    index = torch.tensor([3, 0, 19, 7, 7, 1])
    module = TeacherModule(nn.Identity(), recipe(), Teacher(victim, 0.5, 1.0))
    loss = module.loss(Batch(logits, index % 5, index))
    taught = -(victim[index] * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, (F.cross_entropy(logits, index % 5) + taught) / 2)
    alone = TeacherModule(nn.Identity(), recipe(), Teacher(victim, 0.0, 1.0))
    torch.testing.assert_close(
        alone.loss(Batch(logits, index % 5, index)), F.cross_entropy(logits, index % 5)
    )


@pytest.mark.parametrize(("beta", "weight"), [(0.0, 0.0), (2.0, 0.0), (0.0, 0.5)])
def test_the_loss_of_usp_by_hand(beta, weight):
    pattern = drawn(USP, 5).detector.features.pattern
    logits = torch.randn(20, 5, generator=torch.manual_seed(0)).requires_grad_(True)
    detector = soft(USP).detector(pattern=pattern, victim_tails=torch.zeros(5, 5))
    detector.temperature_jitter = detector.noise = 0.0
    victim = answers(20, 5, 1)
    numbers = USPMarking(
        **UNTAUGHT,
        eps=0.1, gamma=1.5, beta=beta, margin=3, feature_weight=0.0, feature_cosine=0.9,
        detector_weight=weight,
    )  # fmt: skip
    marking = USPModule(nn.Identity(), recipe(), pattern, victim, numbers, detector)
    before = copy.deepcopy(detector.state_dict())
    loss = marking.loss(batch_of(logits))
    log_p = logits.log_softmax(1)
    task = -(templates(pattern, 0.1, 1.5)[torch.arange(20) % 5] * log_p).sum(1).mean()
    # The detector took its step first.
    seen = -F.logsigmoid(detector(log_p)).mean()
    expected = task + beta * margin_loss(log_p, pattern, 3) + weight * seen
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert logits.grad.isfinite().all()
    assert any(not torch.equal(before[name], v) for name, v in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())


# --- embedding --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [CSP, USP])
def test_what_follows_from_the_secret_is_not_stored_beside_it(kind):
    key = drawn(kind, 6)
    assert not any(name.startswith("detector.features") for name in key.state_dict())
    expected = F.normalize(soft(kind).pattern(key), dim=1) * math.sqrt(6)
    torch.testing.assert_close(key.detector.features.pattern, expected)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_mark_is_embedded_in_a_copy_with_a_key_that_is_complete(kind):
    torch.manual_seed(0)
    numbers = {"eps": 0.1, "gamma": 1.0, "beta": 1.0, "margin": 1.0, **PLANTED, **UNTAUGHT}
    method = soft(kind, marking=marking_of(kind, numbers))
    victim, data = network().eval(), samples()
    before = copy.deepcopy(victim.state_dict())
    asked = []
    training = fit()
    training.entropy = lambda count: asked.append(count) or bytes(range(count))
    marked, key = method.embed(victim, data, training)
    assert asked == [32, 16]
    assert bytes(key.secret.tolist()) == bytes(range(32))
    assert key.classes == 3
    assert not key.training
    assert not key.commitment
    assert all(torch.equal(before[name], value) for name, value in victim.state_dict().items())
    assert not torch.equal(marked.head.weight, victim.head.weight)
    torch.testing.assert_close(key.victim_stats, compute_victim_stats(predict(victim, data.inputs)))
    torch.testing.assert_close(key.detector.features.victim_tails, key.victim_stats[0])
    assert key.victim_stats.norm() > 0.9


@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_mark_is_trained_towards_its_keys_pattern_and_its_detector_to_see_it(kind):
    torch.manual_seed(0)
    victim, data, seen = network().eval(), samples(), []
    numbers = {"eps": 0.1, "gamma": 1.5, "beta": 1.0, "margin": 1.0, **PLANTED, **UNTAUGHT}
    method = soft(
        kind,
        epochs_factor=2.0,
        batch_size_factor=0.5,
        marking=marking_of(kind, numbers),
        simulated_attacks={"prune": Prune(sparsity=0.5)},
    )

    def training(module, given, name):
        seen.append((name, module, given))
        if name == "marking":
            module.network.head.bias.data[1] += 1.0
        return module.network

    training.entropy = Random(0).randbytes
    marked, key = method.embed(victim, data, training)
    (first, marking, own), (second, trained, (log_p, labels)) = seen
    assert (first, second) == ("marking", "detector")
    assert own is data
    assert marking.recipe == recipe(epochs=4).scaled(batch_size=0.5)
    assert marked is marking.network
    pattern = method.pattern(key)
    assert torch.equal(marking.marking_loss.pattern, pattern)
    torch.testing.assert_close(marking.marking_loss.templates, templates(pattern, 0.1, 1.5))
    torch.testing.assert_close(marking.teacher.answers, predict(victim, data.inputs))
    if kind is USP:
        assert marking.detector is key.detector
    assert trained is key.detector
    assert all(parameter.requires_grad for parameter in trained.parameters())
    # The marked model and its pruned copy, then the victim and its own, then shuffled tails.
    told = [predict(each, data.inputs) for each in (marked, pruned(marked, 0.5))]
    others = [predict(each, data.inputs) for each in (victim, pruned(victim, 0.5))]
    assert labels.tolist() == [1.0] * 128 + [0.0] * 256
    torch.testing.assert_close(log_p[:256], log_of(torch.cat(told + others)))
    torch.testing.assert_close(log_p[256:].sort(1).values, log_p[:128].sort(1).values)


# --- the exact tests --------------------------------------------------------------------------


def answering(p: torch.Tensor) -> Suspect:
    """A suspect that answers what it is told, whatever the pictures show."""
    return Suspect(lambda images: p[: len(images)])


@pytest.mark.parametrize(
    ("kind", "classes", "words"),
    [
        (CSP, 2, "no mark"),
        (CSP, 3, "6 bits"),
        (CSP, 4, "12 bits"),
        (USP, 2, "no mark"),
        (USP, 3, "3 dimensions"),
        (USP, 5, "15 dimensions"),
    ],
)
def test_few_classes_say_that_they_carry_too_little(kind, classes, words):
    torch.manual_seed(0)
    judged = soft(kind)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    probes = Samples(images, torch.zeros(50, dtype=torch.int64))
    found = judged.evidence(Suspect.of(model), drawn(kind, classes), probes)
    assert words in found.why
    assert bool(found.tests) == (classes > 2)
    for test in found.tests.values():
        assert kind is USP or test.p_value() >= 2.0 ** -(classes * (classes - 1))
    if classes == 2:
        assert judged.identify(Suspect.of(model), drawn(kind, 2), probes, ["customer"]) == {}


@pytest.mark.parametrize(("kind", "classes"), [(CSP, 5), (CSP, 10), (USP, 6), (USP, 10)])
def test_enough_classes_need_no_remark(kind, classes):
    p = answers(50, classes)
    assert exact(kind, p, drawn(kind, classes))[2] == ""


@pytest.mark.parametrize(("kind", "null"), [(CSP, Signs), (USP, Direction)])
def test_the_message_that_a_suspect_carries_has_the_strongest_test(kind, null):
    messages = [f"customer-{number}" for number in range(8)]
    key, probes, p = marked_for(kind, "customer-3")
    tests = soft(kind).identify(answering(p), key, probes, messages)
    assert list(tests) == messages
    for test in tests.values():
        assert [type(part) for part in test.tests] == [null, null]
    found = {message: test.p_value() for message, test in tests.items()}
    assert min(found, key=found.get) == "customer-3"
    assert found["customer-3"] < 1e-6
    assert min(p for message, p in found.items() if message != "customer-3") > 1e-4


@pytest.mark.parametrize("kind", [CSP, USP])
def test_the_messages_tests_are_those_of_their_own_keys(kind):
    key, probes, p = marked_for(kind, "customer")
    tests = soft(kind).identify(answering(p), key, probes, ["customer", "other"])
    own = exact(kind, p, key, probes.labels, part="customer")[1]
    assert tests["customer"].p_value() == nearly(own.p_value(), rel=1e-3)
    assert own.p_value() < 1e-6 < 1e-4 < tests["other"].p_value()
    theirs = Key(key.secret, key.salt, as_bytes("other"), 10)
    again = exact(kind, p, theirs, probes.labels, part="customer")[1]
    assert tests["other"].p_value() == nearly(again.p_value(), rel=1e-3)
    # The owner's half is in every customer's copy: it names nobody.
    assert exact(kind, p, theirs, part="owner")[1].p_value() < 1e-6


@pytest.mark.parametrize("kind", [CSP, USP])
@pytest.mark.parametrize("customers", [2, 6])
def test_copies_of_several_customers_averaged_keep_the_owner_s_half(kind, customers):
    key, probes, _ = marked_for(kind, "customer")
    names, top = [f"customer {n}" for n in range(customers)], probes.labels
    mean = torch.stack([soft(kind).pattern(key.for_message(name)) for name in names]).mean(0)
    torch.manual_seed(0)
    p = (mean[top] + torch.randn(300, 10)).scatter(1, top[:, None], 8.0).softmax(1)
    for name in [*names, "another"]:
        assert exact(kind, p, key.for_message(name), part="owner")[1].p_value() < 1e-8
        assert exact(kind, p, key.for_message(name))[1].p_value() < 1e-8
    assert exact(kind, p, drawn(kind, seed=1))[1].p_value() > 1e-3
    assert soft(kind).identify(answering(p), key, probes, ["another"])["another"].p_value() > 1e-3


@functools.cache
def marked_answers(kind) -> tuple[Key, torch.Tensor, float]:
    """A key that knows its victim, marked answers, and their p."""
    key, _, p = marked_for(kind, "customer", usual=answers(300, 10, 7))
    return key, p, exact(kind, p, key)[1].p_value()


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 1000), st.sampled_from([CSP, USP]), st.floats(0.05, 20), st.booleans())
def test_no_map_that_keeps_or_turns_round_the_order_hides_a_mark(seed, kind, heat, turned):
    """Whatever is served: a temperature for each class, or the reverse of every tail."""
    key, p, before = marked_answers(kind)
    tail, top = log_tail(p.log())
    heats = heat ** torch.rand(10, generator=torch.manual_seed(seed))  # a power for each class
    served = (-1 if turned else 1) * heats[top][:, None] * tail
    served = served.scatter(1, top[:, None], float(served.amax()) + 1).double().softmax(1)
    assert torch.equal(served.argmax(1), top)
    assert exact(kind, served, key)[1].p_value() == nearly(before, rel=1e-3)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_permutation_of_each_class_s_tail_leaves_the_labels_alone(kind):
    """It tells nothing of the probabilities to whoever asks, nor to a judge: as labels alone."""
    key, _, p = marked_for(kind, "customer")
    top, order = p.argmax(1), torch.manual_seed(3)
    columns = torch.stack([torch.randperm(10, generator=order) for _ in range(10)])
    for c in range(10):  # the likeliest class keeps its place
        columns[c][(columns[c] == c).nonzero()], columns[c][c] = columns[c][c].clone(), c
    served = p.gather(1, columns[top])
    assert torch.equal(served.argmax(1), top)
    assert exact(kind, served, key)[1].p_value() > 1e-3


@pytest.mark.parametrize("kind", [CSP, USP])
@pytest.mark.parametrize("part", ["owner", "customer"])
def test_each_half_is_as_likely_by_chance_as_it_says(kind, part):
    """p-values of one innocent over 400 random keys: at most a tenth are below a tenth."""
    p, usual, random = skewed(200, 10, 1), compute_victim_stats(skewed(400, 10, 2)), Random(0)
    found = [
        exact(kind, p, bytes_from(random, 10, usual), torch.arange(200) % 10, part)[1]
        for _ in range(400)
    ]
    for level in (0.1, 0.01):
        share = sum(test.p_value() <= level for test in found) / 400
        assert share <= level + 4 * math.sqrt(level / 400)
    best = [test.strongest.p_value() for test in found]
    assert sum(p <= 0.05 for p in best) > 20  # and they aren't idle: several tests, 5 % each


def bytes_from(random: Random, classes: int, usual: torch.Tensor | None) -> SimpleNamespace:
    """A key whose streams are new random bytes each time."""
    key = SimpleNamespace(stream=random.randbytes, classes=classes, victim_stats=usual)
    key.owner_part = lambda: key
    return key


@pytest.mark.parametrize("kind", [CSP, USP])
def test_labels_alone_are_evidence_where_they_are_others_than_expected(kind):
    key = told(kind, drawn(kind), answers(300, 10, 7))
    expected = torch.arange(3000) % 10
    logits = key.victim_stats[1].clamp_min(1e-3).log() + 0.5 * soft(kind).pattern(key)
    torch.manual_seed(0)
    told_ = torch.distributions.Categorical(logits=logits.fill_diagonal_(2.0)[expected]).sample()
    p = F.one_hot(told_, 10).float()
    test = exact(kind, p, key, expected)[1]
    assert len(test.tests) == 1
    assert test.p_value() < 1e-6
    other = told(kind, drawn(kind, seed=1), answers(300, 10, 7))
    assert exact(kind, p, other, expected)[1].p_value() > 1e-4
    for labels in (None, told_):
        assert exact(kind, p, key, labels)[1].p_value() == 1.0


@pytest.mark.parametrize("kind", [CSP, USP])
def test_evidence_scores_each_probe_by_the_keys_detector(kind):
    key, probes, p = marked_for(kind, "customer")
    p[0] = F.one_hot(torch.tensor(3), 10)  # its logarithm is not infinite
    found = soft(kind).evidence(answering(p), key, probes)
    torch.testing.assert_close(found.scores, key.detector(log_of(p)).detach())
    assert found.scores.isfinite().all()
    assert not found.scores.requires_grad


@pytest.mark.parametrize("kind", [CSP, USP])
@pytest.mark.parametrize("usual", [None, answers(300, 10, 7)], ids=["unknown", "known"])
def test_a_verdict_stands_on_what_the_key_says_of_the_unmarked_model(kind, usual):
    key, probes, p = marked_for(kind, "customer", noise=3.0, usual=usual)
    key.detector.features.victim_tails.copy_(compute_victim_stats(answers(300, 10, 8))[0])
    (found,) = soft(kind).evidence(answering(p), key, probes).tests.values()
    (named,) = soft(kind).identify(answering(p), key, probes, ["customer"]).values()
    for test, part, num_tests in ((found, "all", 5), (named, "customer", 3)):
        expected = exact(kind, p, key, probes.labels, part)[1]
        assert len(expected.tests) == (num_tests if usual is None else 2 * num_tests - 1)
        assert test.score == expected.score
        assert test.p_value() == expected.p_value()


@pytest.mark.parametrize("kind", [CSP, USP])
def test_whoever_chooses_what_is_usual_chooses_another_pattern(kind):
    """Or a forger could carve a pattern out of what every model shows."""
    key, usual = drawn(kind), answers(300, 10, 7)
    knowing = told(kind, key, usual)
    other = Key(knowing.secret, knowing.salt, knowing.message, 10, knowing.victim_stats.clone())
    other.victim_stats[1, 3, 4] = torch.nextafter(other.victim_stats[1, 3, 4], torch.tensor(1.0))
    patterns = [soft(kind).pattern(each).flatten() for each in (key, knowing, other)]
    for first, second in itertools.combinations(patterns, 2):
        assert abs(float(F.cosine_similarity(first, second, dim=0))) < 0.5


def test_tails_that_cancel_show_nothing():
    """What rounding leaves of them isn't the direction of any model."""
    first = torch.tensor([[0.9, 0.01, 0.02, 0.03, 0.04], [0.9, 0.04, 0.03, 0.02, 0.01]])
    usual = compute_victim_stats(torch.cat([first, answers(200, 5)]))
    assert is_victim_stats(usual, 5)
    assert not compute_victim_stats(first)[0].any()
    shown = torch.tensor([[0.9, 0.01, 0.02, 0.03, 0.04]] * 7 + [[0.9, 0.04, 0.03, 0.02, 0.01]] * 7)
    assert is_victim_stats(compute_victim_stats(shown), 5)
    assert not compute_victim_stats(shown)[0].any()


def test_csp_leaves_out_what_the_unmarked_model_shows():
    p, key = answers(300, 5, 1), told(CSP, drawn(CSP, 5), answers(500, 5))
    name, test, _ = exact(CSP, p, key)
    assert name == "signs"
    plain, less, turned, less_turned = (paired_weights(each, 5) for each in test.tests)
    torch.testing.assert_close(turned, -plain)
    sums, usual = tail_sums(p), key.victim_stats[0]
    torch.testing.assert_close(plain, sums)
    for row in range(5):
        raw, along = (float(m[row] @ usual[row]) for m in (sums, less))
        # What pointed along the usual is gone; what pointed against it is nobody's habit.
        assert along == pytest.approx(0 if raw > 0 else raw, abs=1e-4)
        torch.testing.assert_close(less[row] - along * usual[row], sums[row] - raw * usual[row])
        # If the order was turned round, it is the other way about.
        along = float(less_turned[row] @ usual[row])
        assert along == pytest.approx(0 if raw < 0 else -raw, abs=1e-4)


def paired_weights(test: Signs, classes: int) -> torch.Tensor:
    """The matrix (K, K) whose pairs' sums and differences are the weights of a test of csp."""
    above = torch.ones(classes, classes, dtype=torch.bool).triu(1)
    both, difference = torch.zeros(2, classes, classes)
    both[above], difference[above] = test.weights.chunk(2)
    return (both + both.T + difference - difference.T) / 2


def test_usp_leaves_out_what_the_unmarked_model_shows():
    p, key = answers(300, 6, 1), told(USP, drawn(USP, 6), answers(500, 6))
    name, test, _ = exact(USP, p, key)
    plain, less, *reverse = test.tests
    assert [part.cosine for part in reverse] == [-plain.cosine, -less.cosine]
    assert (name, plain.dimensions, less.dimensions) == ("direction", 6 * 4, 6 * 3)

    def across(rows):
        return torch.stack(
            [row - (row @ b) * b for row, b in zip(rows, key.victim_stats[0], strict=True)]
        )

    sums, pattern = tail_sums(p), soft(USP).pattern(key)
    for part, seen, wanted in ((plain, sums, pattern), (less, across(sums), across(pattern))):
        expected = (seen * wanted).sum() / seen.norm() / wanted.norm()
        assert part.cosine == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_mark_that_is_lost_among_what_every_model_shows_is_found_by_what_is_usual(kind):
    torch.manual_seed(1)
    habits, top = 2 * torch.randn(10, 10), torch.arange(600) % 10

    def answer(mark):
        logits = habits[top] + mark[top] + torch.randn(600, 10)
        return logits.scatter(1, top[:, None], 20.0).softmax(1)

    key = told(kind, drawn(kind), answer(torch.zeros(10, 10)))
    tests = exact(kind, answer(0.3 * soft(kind).pattern(key)), key)[1].tests
    plain, less = (min(test.p_value() for test in part) for part in (tests[:2], tests[2:]))
    assert less < 1e-3 * plain


@pytest.mark.parametrize("kind", [CSP, USP])
def test_the_order_of_the_probes_changes_no_test(kind):
    key, _, p = marked_for(kind, "customer", usual=answers(300, 10, 5))
    labels, order = torch.arange(300) % 10, torch.randperm(300)
    first = exact(kind, p, key, labels)[1].p_value()
    again = exact(kind, p[order], key, labels[order])[1].p_value()
    assert again == nearly(first, rel=1e-2)


@pytest.mark.parametrize("seen", ["first", "sure", "labels"])
@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_false_claim_is_as_unlikely_as_the_exact_test_says(kind, seen):
    """p-values of one innocent over 2,000 random keys: those below a tenth are a tenth."""
    random, classes = Random(0), 6
    p, usual = skewed(480, classes, 1), compute_victim_stats(skewed(400, classes, 2))
    p = p[most_confident(answers(480, classes, 3), 120)] if seen == "sure" else p[:120]
    labels = skewed(480, classes, 2).argmax(1)[:120] if seen == "labels" else None
    assert (usual[0].norm(dim=1) > 0.5).all()
    message, found = as_bytes("customer"), []
    for _ in range(2000):
        secret = torch.tensor(list(random.randbytes(32)), dtype=torch.uint8)
        key = Key(secret, torch.zeros(16, dtype=torch.uint8), message, classes, usual)
        # The last of the tests: of the whole pattern, without what is usual, or of the labels.
        found.append(exact(kind, p, key, labels)[1].tests[-1])
    fewer = 2 if seen == "labels" else 3
    assert kind is CSP or {test.dimensions for test in found} == {classes * (classes - fewer)}
    # All have the same weights: the larger the score, the smaller p, and few need be computed.
    best = sorted(found, key=lambda test: test.score)[-400:]
    below = [test.p_value() for test in best]
    assert all(later <= earlier for earlier, later in itertools.pairwise(below))
    assert below[0] > 0.1
    for level in (0.1, 0.01):
        share, slack = sum(v <= level for v in below) / 2000, 4 * math.sqrt(level / 2000)
        assert share <= level + slack
        # It isn't one that never claims: usp's is exact, and csp's a bound that is close.
        assert share >= (level if kind is USP else level / 2) - slack


@pytest.mark.parametrize("kind", [CSP, USP])
def test_the_best_of_nine_tests_is_corrected(kind):
    """Of one innocent over 400 keys: whole or symmetric, as it is or less, turned round, labels."""
    labels = torch.arange(200) % 10
    p, usual, random = skewed(200, 10, 1), compute_victim_stats(skewed(400, 10, 2)), Random(0)
    below, parts = 0, []
    for _ in range(400):
        test = exact(kind, p, bytes_from(random, 10, usual), labels)[1]
        best = min(test.tests, key=lambda part: part.p_value())
        assert test.p_value() == min(1.0, 9 * best.p_value())
        assert test.score == best.score
        below += test.p_value() <= 0.1
        parts.append([part.p_value() <= 0.05 for part in test.tests])
    assert 3 <= below <= 60
    # None of them is idle.
    assert all(sum(part) > 4 for part in zip(*parts, strict=True))


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.booleans())
def test_usp_is_as_likely_by_chance_as_it_says(seed, told):
    """p-values of an innocent over random keys are uniform: those below a tenth are a tenth."""
    p, usual = (
        answers(50, 6, seed),
        compute_victim_stats(answers(500, 6, seed + 1)) if told else None,
    )
    random, below = Random(seed), 0
    for _ in range(400):
        below += exact(USP, p, bytes_from(random, 6, usual))[1].tests[-1].p_value() <= 0.1
    # 40 +- 6 expected: four standard deviations and more.
    assert 15 <= below <= 75


# --- directions and their symmetric part -----------------------------------------------------


@pytest.mark.parametrize("told", [False, True])
def test_what_is_levelled_keeps_to_its_space_and_is_the_nearest_there(told):
    usual = F.normalize(class_tails(answers(500, 6)), dim=1) if told else torch.zeros(6, 6)
    matrix = torch.randn(6, 6, generator=torch.manual_seed(1))
    nearest, dimensions = project_out_victim(matrix, usual)
    assert dimensions == (3 if told else 9)
    torch.testing.assert_close(nearest, nearest.T)
    for left in (nearest.diagonal(), nearest.sum(1), (nearest * usual).sum(1)):
        torch.testing.assert_close(left, torch.zeros(6, dtype=torch.float64), atol=1e-9, rtol=0)
    # What was taken off is orthogonal to all that the space holds.
    for seed in range(5):
        other, _ = project_out_victim(torch.randn(6, 6, generator=torch.manual_seed(seed)), usual)
        assert float(((matrix - nearest) * other).sum()) == pytest.approx(0, abs=1e-9)
    again, _ = project_out_victim(nearest, usual)
    torch.testing.assert_close(again, nearest)


def test_the_symmetric_part_of_a_direction_is_uniform_in_its_space():
    drawn = random_directions(4000, 5)
    planted, dimensions = project_out_victim(drawn, torch.zeros(5, 5))
    assert dimensions == 5
    torch.testing.assert_close(planted, planted.mT)
    fixed, _ = project_out_victim(torch.randn(5, 5, generator=random_of(3)), torch.zeros(5, 5))
    cosines = F.cosine_similarity(planted.flatten(1), fixed.flatten()[None], dim=1)
    p = [Direction(float(cosine), dimensions).p_value() for cosine in cosines]
    for part in (0.3, 0.1, 0.01):
        share = sum(value <= part for value in p) / 4000
        assert share == pytest.approx(part, abs=4 * math.sqrt(part * (1 - part) / 4000))


def random_of(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_the_symmetric_part_is_tested_by_itself(kind):
    p, key = answers(300, 10, 1), told(kind, drawn(kind, 10), answers(500, 10))
    pattern, test = soft(kind).pattern(key), exact(kind, p, key)[1].tests[3]
    sums, usual = tail_sums(p), key.victim_stats[0]
    if kind is CSP:
        along = (sums * usual).sum(1, keepdim=True).clamp_min(0)
        rest = sums - along * usual
        above = [(row, column) for row in range(10) for column in range(row + 1, 10)]
        for place, (row, column) in enumerate(above):
            both = float(rest[row, column] + rest[column, row])
            assert float(test.weights[place]) == pytest.approx(both, abs=1e-5)
            assert test.signs[place] == (pattern[row, column] + pattern[column, row]).sign()
        return
    (evidence, dimensions), (wanted, _) = (
        project_out_victim(rows, usual) for rows in (sums, pattern)
    )
    assert test.dimensions == dimensions == 45 - 20
    expected = (evidence * wanted).sum() / evidence.norm() / wanted.norm()
    assert test.cosine == pytest.approx(float(expected), abs=1e-6)
