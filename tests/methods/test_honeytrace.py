"""Neural Honeytrace: what its interface makes of answers, by hand, and what it finds."""

import pytest
import torch
from torch import nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.honeytrace import HoneyTrace
from softmark.methods.key import Key
from softmark.models.access import Suspect, answers_of
from softmark.training import Fit

NEAR, FAR = 0.1, 0.5
REFERENCE = torch.tensor([0.7, 0.1, 0.1, 0.1]).log()
METHOD = HoneyTrace(num_triggers=20, references=12)


def small_key() -> Key:
    """A key whose triggers' features are all 0."""
    key = Key.draw("customer", 4, lambda size: bytes(range(size)))
    key.register_buffer("features", torch.zeros(12, 64))
    key.register_buffer("reference", REFERENCE)
    key.register_buffer("distances", torch.tensor([NEAR, FAR]))
    return key


def pixels_as_features(bias: list[float]) -> nn.Module:
    """A network whose last layer is given the pixels, and which answers all alike."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor(bias))
    return network


def grey(similarity: float, count: int = 1) -> torch.Tensor:
    """Pictures whose features have this similarity to the triggers', the first pixels differing."""
    pixels = torch.full((count, 64), 255 * (FAR - similarity * (FAR - NEAR)))
    pixels[:, 0] += torch.arange(count) % 8 - 4
    pixels[:, 1] += torch.arange(count) // 8 - 4
    return pixels.round().to(torch.uint8).reshape(count, 1, 8, 8)


def answers_to(bias: list[float], inputs: torch.Tensor) -> torch.Tensor:
    network = pixels_as_features(bias)
    return METHOD.serve_network(network, answers_of(network), small_key())(inputs)


def test_similarity_is_one_as_near_as_triggers_and_none_far_away():
    features = torch.tensor([0.0, NEAR, 0.3, FAR, 0.9])[:, None].expand(5, 64)
    found = METHOD.similarity(features, small_key())
    assert found.tolist() == pytest.approx([1, 1, 0.5, 0, 0], abs=1e-5)


def test_answers_are_mixed_with_the_reference_by_the_square_of_the_similarity():
    sure = [0.0, 6.0, 0.0, 0.0]
    assert torch.allclose(answers_to(sure, grey(0.0)), torch.tensor(sure).softmax(0), atol=1e-6)
    assert torch.allclose(answers_to(sure, grey(1.0)), REFERENCE.exp(), atol=1e-6)
    told = answers_to(sure, grey(0.45))
    similarity = METHOD.similarity(grey(0.45).flatten(1) / 255, small_key())
    mixed = torch.lerp(torch.tensor(sure).log_softmax(0), REFERENCE, similarity.square())
    assert torch.allclose(told, mixed.softmax(0), atol=1e-5)  # .45^3 is below a tenth


def test_an_answer_is_replaced_as_often_as_the_similarity_says_and_always_alike():
    inputs = grey(0.8, 64)  # .8^3 is .51: five in ten
    told = answers_to([0.0, 9.0, 0.0, 0.0], inputs)
    replaced = torch.isclose(told, REFERENCE.exp(), atol=1e-6).all(1)
    assert 20 <= int(replaced.sum()) <= 44
    assert torch.equal(told[5:9], answers_to([0.0, 9.0, 0.0, 0.0], inputs[5:9]))


def test_of_unsure_answers_the_similarity_is_raised():
    """To .2^(1/4) = .67: its cube is .3."""
    told = answers_to([0.0, 0.5, 0.0, 0.0], grey(0.2))
    plain = torch.tensor([0.0, 0.5, 0.0, 0.0]).log_softmax(0)
    similarity = METHOD.similarity(grey(0.2).flatten(1) / 255, small_key()) ** 0.25
    mixed = torch.lerp(plain, REFERENCE, similarity.square()).softmax(0)
    assert torch.allclose(told, mixed, atol=1e-5) or torch.allclose(told, REFERENCE.exp())
    assert not torch.allclose(told, plain.exp(), atol=1e-2)


def test_a_key_of_a_model_serves_and_a_student_of_the_wanted_class_is_seen(tmp_path):
    inputs = torch.randint(256, (80, 1, 8, 8), generator=torch.manual_seed(0), dtype=torch.uint8)
    pool = Samples(inputs, torch.arange(80) % 4)
    network = pixels_as_features([0.0, 1.0, 2.0, 3.0])
    marked, key = METHOD.embed(network, pool, Fit("cpu"))
    assert marked is network
    key.commit({"_target_": "softmark.methods.honeytrace.HoneyTrace"}, {}, pool)
    key.save(tmp_path / "key.safetensors")
    loaded = METHOD.load_key(tmp_path / "key.safetensors")
    served = METHOD.serve_network(network, answers_of(network), loaded)(inputs)
    assert torch.allclose(served.sum(1), torch.ones(80))
    probes = METHOD.probes(key, pool)
    wanted = METHOD.secret(key)[2]
    student = Suspect(lambda asked: torch.eye(4)[[wanted] * len(asked)])
    found = METHOD.evidence(student, key, probes)
    assert (found.mark_recall, found.tests["triggers"].p_value([0.1] * 19)) == (1.0, 0.05)


def test_a_trigger_is_a_picture_with_a_quarter_of_another():
    labels = torch.arange(8) % 4
    pool = Samples((10 * labels).to(torch.uint8)[:, None, None, None].expand(8, 1, 8, 8), labels)
    key = Key.draw("customer", 4, lambda size: bytes(range(size)))
    first, second, wanted = METHOD.secret(key)
    triggers = METHOD.triggers(key, pool, 5)
    by_hand = torch.full((8, 8), 10 * first)
    by_hand[4:, 4:] = 10 * second
    assert (triggers.inputs == by_hand).all()
    assert triggers.labels.tolist() == [wanted] * 5


def test_what_it_cannot_use_is_named():
    network = pixels_as_features([0.0] * 4)
    drawn = Key.draw("customer", 4, lambda size: bytes(range(size)))
    with pytest.raises(InputError, match="drawn without a model"):
        METHOD.serve_network(network, answers_of(network), drawn)
    wrong = small_key()
    wrong.reference = torch.zeros(3)
    with pytest.raises(InputError, match="holds no features"):
        METHOD.build_modules(wrong)
    for name in ("features", "reference", "distances"):
        lacking = small_key()
        delattr(lacking, name)
        with pytest.raises(InputError, match="holds no features"):
            METHOD.build_modules(lacking)
    with pytest.raises(InputError, match="references=10: at least 11"):
        HoneyTrace(references=10)
    with pytest.raises(InputError, match="wants a third"):
        METHOD.secret(Key.draw("customer", 2, lambda size: bytes(range(size))))
