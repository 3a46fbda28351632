"""The mathematics of usp and csp: tails, templates, keys, and their exact evidence."""

import functools
import hashlib
import hmac
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from softmark.attacks.attack import Suspect
from softmark.data import Samples
from softmark.errors import InputError
from softmark.methods.csp import CSP, sign_matrix, tail_sums
from softmark.methods.soft_labels import (
    Detector,
    amplitude,
    class_tails,
    keyed_stream,
    lean,
    log_of,
    log_tail,
    rank_tail,
    shuffle_tails,
    templates,
    unit_tail,
)
from softmark.methods.usp import USP, direction, one_pattern
from softmark.methods.watermark import Key, as_bytes
from softmark.training import Recipe
from softmark.verification import Direction, Signs


def signs_of(classes: int, secret: bytes = b"s", message: bytes = b"m", salt: bytes = b"t"):
    parts = {"secret": secret, "message": message, "salt": salt}
    key = {name: torch.tensor(list(part), dtype=torch.uint8) for name, part in parts.items()}
    return sign_matrix(keyed_stream(key, classes**2), classes)


def answers(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(count, classes, generator=torch.manual_seed(seed))).softmax(1)


def test_log_tail_by_hand():
    p = torch.tensor([[0.1, 0.7, 0.2]])
    tail, top = log_tail(p.log())
    middle = (p[0, 0].log() + p[0, 2].log()) / 2
    expected = torch.stack([p[0, 0].log() - middle, torch.tensor(0.0), p[0, 2].log() - middle])
    torch.testing.assert_close(tail[0], expected)
    assert int(top) == 1


@settings(deadline=None)
@given(st.integers(3, 30), st.integers(0, 99))
def test_unit_tails_are_centred_unit_and_blind_to_temperature(classes, seed):
    p = answers(20, classes, seed)
    # A tail that is nearly flat keeps few digits of float32.
    p = p[log_tail(p.log())[0].norm(dim=1) > 0.05]
    tail, top = unit_tail(p.log())
    torch.testing.assert_close(tail.sum(1), torch.zeros(len(p)), atol=1e-4, rtol=0)
    torch.testing.assert_close(tail.norm(dim=1), torch.ones(len(p)))
    hot, _ = unit_tail((p.log() / 4).log_softmax(1))
    torch.testing.assert_close(hot, tail, atol=1e-4, rtol=0)
    assert (top == p.argmax(1)).all()


def test_a_flat_tail_has_no_direction():
    flat = torch.tensor([[0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0]])
    assert (unit_tail(log_of(flat))[0] == 0).all()
    assert (rank_tail(flat)[0] == 0).all()
    assert tail_sums(flat, torch.zeros(4, 4)).abs().sum() == 0


def test_rank_tail_by_hand():
    p = torch.tensor([[0.1, 0.5, 0.1, 0.2, 0.06, 0.04]])
    ranks = torch.tensor([0.5, 0.0, 0.5, 2.0, -1.0, -2.0])  # the two that tie share 3.5 of 1..5
    tail, top = rank_tail(p)
    torch.testing.assert_close(tail[0], ranks / ranks.norm())
    assert int(top) == 1


@given(st.integers(3, 30), st.integers(0, 99), st.floats(0.2, 5))
def test_rank_tails_are_blind_to_whatever_keeps_the_order(classes, seed, temperature):
    p = answers(20, classes, seed).double()
    tail, top = rank_tail(p)
    torch.testing.assert_close(tail.sum(1), torch.zeros(20), atol=1e-5, rtol=0)
    hot, same = rank_tail((p.log() / temperature).softmax(1))
    torch.testing.assert_close(hot, tail)
    assert (top == same).all()


def test_templates_are_distributions_with_the_pattern_in_the_tail():
    signs = signs_of(6)
    rows = templates(signs, eps=0.2, gamma=1.5)
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    torch.testing.assert_close(rows.diagonal(), torch.full((6,), 0.8))
    tail = 0.2 * (1.5 * signs[2, [0, 1, 3, 4, 5]]).softmax(0)
    torch.testing.assert_close(rows[2, [0, 1, 3, 4, 5]], tail)


def test_sign_matrix_is_the_first_bits_of_hmac_sha256():
    secret, salt, message = b"s" * 32, b"t" * 16, b"customer-17"
    stream = b"".join(
        hmac.new(secret, n.to_bytes(8, "big") + salt + message, hashlib.sha256).digest()
        for n in range(2)
    )
    bits = "".join(f"{byte:08b}" for byte in stream)
    signs = signs_of(18, secret, message, salt)  # 306 bits: two blocks
    expected = iter(bits)
    for row in range(18):
        for column in range(18):
            value = 0 if row == column else 2 * int(next(expected)) - 1
            assert signs[row, column] == value


def test_other_messages_secrets_and_salts_have_other_signs():
    first = signs_of(10, b"a", b"b", b"c")
    for other in ((b"a", b"x", b"c"), (b"x", b"b", b"c"), (b"a", b"b", b"x")):
        agree = (signs_of(10, *other) == first).float().mean()
        assert 0.2 < agree < 0.8


def test_directions_are_uniform_among_zero_sum_vectors():
    random = Random(0)
    drawn = torch.stack([direction(random.randbytes(32)) for _ in range(4000)])
    torch.testing.assert_close(drawn.sum(1), torch.zeros(4000), atol=1e-4, rtol=0)
    covariance = drawn.T @ drawn / len(drawn)
    expected = (torch.eye(4) - 0.25) * 4 / 3
    torch.testing.assert_close(covariance, expected, atol=0.08, rtol=0)


def test_one_pattern_is_the_direction_on_each_tail():
    pattern = one_pattern(direction(bytes(range(40))))
    assert (pattern.diagonal() == 0).all()
    torch.testing.assert_close(pattern.sum(1), torch.zeros(5), atol=1e-5, rtol=0)


def test_amplitude_is_the_nats_that_a_pattern_adds_to_a_tail():
    signs = signs_of(10)
    p = answers(200, 10)
    leaning = p.log() + 2.5 * signs[p.argmax(1)]
    # The likeliest class stays so: what is added to it doesn't count.
    leaning = leaning.scatter(1, p.argmax(1, keepdim=True), 9.0).log_softmax(1)
    row = signs[p.argmax(1)]
    mean = row.sum(1, keepdim=True) / 9
    added = 2.5 * ((row - mean * (row != 0)) ** 2).sum(1) / 9
    torch.testing.assert_close(amplitude(leaning, signs), amplitude(p.log(), signs) + added)


def test_nothing_is_short_of_an_amplitude_that_is_reached():
    signs = signs_of(10)
    p = templates(signs, 0.2, 3.0)
    reached = float(amplitude(p.log(), signs).min())
    assert float(lean(p.log(), signs, reached * 0.99)) == 0
    assert float(lean(torch.zeros(5, 10).log_softmax(1), signs, 1.0)) == pytest.approx(1.0)


def test_class_tails_average_each_class():
    p = answers(200, 4)
    tail, top = rank_tail(p)
    torch.testing.assert_close(class_tails(p)[2], tail[top == 2].mean(0))
    assert (class_tails(p[top != 1])[1] == 0).all()


def test_tail_sums_leave_out_what_every_model_shows():
    baseline = class_tails(answers(500, 5))
    tail, top = rank_tail(answers(300, 5, 1))
    sums = tail_sums(answers(300, 5, 1), baseline)
    for row in range(5):
        along = float(sums[row] @ baseline[row])
        raw = float(tail[top == row].sum(0) @ baseline[row])
        # What pointed along the baseline is gone; what pointed against it is nobody's habit.
        assert along == pytest.approx(0 if raw > 0 else raw / 2, abs=1e-3)


def detector(pattern: torch.Tensor, hidden=(8,)) -> Detector:
    return Detector(pattern, torch.zeros_like(pattern), hidden, 1, 32, 1e-3, 0.0, 0.3, 0.2)


@pytest.fixture
def key() -> Key:
    torch.manual_seed(0)
    tensors = Key.draw("customer")
    tensors["pattern"] = signs_of(4)
    tensors["baseline"] = torch.zeros(4, 4)
    return Key(tensors, detector(tensors["pattern"]))


@pytest.fixture
def probes() -> Samples:
    return Samples(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))


def reload(path):
    return Key.load(path, lambda tensors: detector(tensors["pattern"]))


def test_a_key_survives_saving(key, probes, tmp_path):
    committed = key.commit(probes)
    key.save(tmp_path / "key")
    again = reload(tmp_path / "key")
    assert again.check(probes) == committed
    for name, tensor in key.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_a_commitment_binds_secret_message_salt_and_probes(key, probes):
    key.commit(probes)
    with pytest.raises(InputError, match="commitment"):
        key.check(probes[:7])
    for name in ("secret", "message", "salt"):
        tensor = getattr(key, name)
        tensor[0] ^= 1
        with pytest.raises(InputError, match="commitment"):
            key.check(probes)
        tensor[0] ^= 1
    key.check(probes)


def test_a_broken_key_file_is_named(key, probes, tmp_path):
    key.save(tmp_path / "key")
    whole = (tmp_path / "key").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("no safetensors at all")
    for name in ("cut", "text", "missing"):
        with pytest.raises(InputError, match=name):
            reload(tmp_path / name)
    with pytest.raises(InputError, match="another method or network"):
        Key.load(tmp_path / "key", lambda tensors: detector(tensors["pattern"], (9,)))


def test_an_empty_message_is_refused():
    with pytest.raises(InputError, match=r"method\.message"):
        Key.draw("")


@pytest.mark.parametrize(("classes", "words"), [(2, "no mark"), (3, "6 bits"), (4, "12 bits")])
def test_few_classes_say_that_they_carry_too_little(classes, words):
    torch.manual_seed(0)
    tensors = Key.draw("customer")
    tensors["pattern"] = signs_of(classes)
    tensors["baseline"] = torch.zeros(classes, classes)
    judged = soft(CSP)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    images = torch.randint(256, (50, 1, 8, 8), dtype=torch.uint8)
    probes = Samples(images, torch.zeros(50, dtype=torch.int64))
    found = judged.evidence(Suspect(network), Key(tensors, detector(tensors["pattern"])), probes)
    assert words in found.why
    for test in found.tests:
        assert test.p_value() >= 2.0 ** -(classes * (classes - 1))


def test_shuffled_tails_keep_the_top_and_the_values_and_lose_the_pattern():
    torch.manual_seed(0)
    signs = signs_of(10)
    p = templates(signs, 0.2, 1.5)[torch.randint(10, (2000,))]
    shuffled = shuffle_tails(p)
    assert torch.equal(shuffled.argmax(1), p.argmax(1))
    assert torch.equal(shuffled.sort(1).values, p.sort(1).values)
    assert amplitude(log_of(p), signs).min() > 0.5
    assert amplitude(log_of(shuffled), signs).mean().abs() < 0.05


def soft(kind, message="customer"):
    recipe = Recipe(1, 32, 0.1, 0.2, 0.9, 0.0, 0.0, 0, False)
    return kind(message, recipe, 1.0, functools.partial(dict, eps=0.1, gamma=1.0), None, {})


class Answers(nn.Module):
    """A suspect that answers what it is told, whatever the pictures show."""

    def __init__(self, p: torch.Tensor):
        super().__init__()
        self.p = p

    def forward(self, images):
        return log_of(self.p[: len(images)])


def marked_for(kind, message: str, classes: int = 10, noise: float = 1.0):
    """A key, probes, and answers whose tails lean towards the pattern of ``message``."""
    torch.manual_seed(0)
    tensors = Key.draw("customer") | {"baseline": torch.zeros(classes, classes)}
    pattern = soft(kind).pattern(tensors | {"message": as_bytes(message)}, classes)["pattern"]
    key = Key(tensors | soft(kind).pattern(tensors, classes))
    top = torch.randint(classes, (300,))
    logits = pattern[top] + noise * torch.randn(300, classes)
    p = logits.scatter(1, top[:, None], 8.0).softmax(1)
    probes = Samples(torch.zeros(300, 1, 8, 8, dtype=torch.uint8), top)
    return key, probes, p


@pytest.mark.parametrize(("kind", "null"), [(CSP, Signs), (USP, Direction)])
def test_the_message_that_a_suspect_carries_has_the_strongest_test(kind, null):
    messages = [f"customer-{number}" for number in range(8)]
    key, probes, p = marked_for(kind, "customer-3")
    tests = soft(kind).accuse(Suspect(Answers(p)), key, probes, messages)
    assert list(tests) == messages
    assert all(isinstance(test, null) for test in tests.values())
    found = {message: test.p_value() for message, test in tests.items()}
    assert min(found, key=found.get) == "customer-3"
    assert found["customer-3"] < 1e-3


def test_the_messages_tests_are_those_of_their_own_keys():
    key, probes, p = marked_for(CSP, "customer")
    tests = soft(CSP).accuse(Suspect(Answers(p)), key, probes, ["customer", "other"])
    own = soft(CSP).exact(p, key.tensors())
    assert tests["customer"].p_value() == pytest.approx(own.p_value(), rel=1e-3)
    assert tests["other"].p_value() > 1e-4


def test_no_message_is_tested_on_what_are_no_probabilities():
    key, probes, p = marked_for(CSP, "customer")
    p[0] = float("nan")
    assert soft(CSP).accuse(Suspect(Answers(p)), key, probes, ["customer"]) == {}


@pytest.mark.parametrize("kind", [CSP, USP])
def test_labels_alone_are_no_evidence(kind):
    key, probes, _ = marked_for(kind, "customer")
    labels = nn.functional.one_hot(probes.labels, 10).float()
    assert soft(kind).exact(labels, key.tensors()).p_value() == 1.0


def test_a_key_for_another_number_of_classes_gives_no_evidence():
    key, probes, _ = marked_for(CSP, "customer", classes=10)
    found = soft(CSP).evidence(Suspect(Answers(answers(300, 7))), key, probes)
    assert found.tests == ()
    assert "not (probes, 10)" in found.why


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_usp_is_as_likely_by_chance_as_it_says(seed):
    """p-values of an innocent over random keys are uniform: those below a tenth are a tenth."""
    p = answers(50, 6, seed)
    baseline = class_tails(answers(500, 6, seed + 1))
    random, below = Random(seed), 0
    for _ in range(400):
        key = {"direction": direction(random.randbytes(48)), "baseline": baseline}
        below += soft(USP).exact(p, key).p_value() <= 0.1
    assert 15 <= below <= 75  # 40 +- 6 expected: four standard deviations and more


def test_a_suspect_is_only_what_it_answers():
    assert set(vars(Suspect(torch.nn.Identity()))) == {"network", "queries", "_answers"}
    assert Suspect(torch.nn.Identity())._answers == {}


def test_a_suspect_is_asked_the_same_probes_once():
    asked = []

    class Counted(nn.Module):
        def forward(self, images):
            asked.append(len(images))
            return torch.zeros(len(images), 3)

    suspect = Suspect(Counted())
    probes = Samples(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    again = Samples(probes.images.clone(), probes.labels.clone())
    assert torch.equal(suspect.answers(probes), suspect.answers(again))
    suspect.answers(probes[:3])
    assert asked == [8, 3]


def test_a_key_whose_secret_was_emptied_is_refused(key, probes):
    key.commit(probes)
    key.secret = torch.empty(0, dtype=torch.uint8)
    with pytest.raises(InputError, match="commitment"):
        key.check(probes)
