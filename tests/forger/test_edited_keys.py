"""A forger who may edit whatever isn't bound claims no innocent, in a thousand tries a method.

The forger knows the method, the judge's probes and the model's answers to them, draws keys, edits
their files freely, and commits to the result before the judge asks.
"""

import json
from random import Random

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from helpers.soft_labels import believe
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.experiment.context import repeatable
from softmark.methods.key_verifier import KeyVerifier
from softmark.models.access import Suspect
from softmark.nodes import make
from softmark.tails import compute_victim_stats, tail_sums
from softmark.verification.evidence import Evidence

TRIES = 1000
CLASSES = 10


@pytest.fixture(scope="module")
def answers() -> torch.Tensor:
    """An innocent's: skewed, as tails are, and in no key's favour."""
    random = torch.manual_seed(5)
    habit = 1.5 * torch.randn(CLASSES, CLASSES, generator=random)
    top = torch.arange(300) % CLASSES
    logits = habit[top] + torch.randn(300, CLASSES, generator=random)
    return logits.scatter(1, top[:, None], 9.0).softmax(1)


@pytest.fixture(scope="module")
def pool() -> Samples:
    images = torch.randint(256, (300, 1, 8, 8), dtype=torch.uint8)
    return Samples(images, torch.arange(300) % CLASSES)


def plant_pattern(tensors, about, answers, random):
    """The signs, and the direction, that the model itself shows."""
    sums = tail_sums(answers)
    for name in random.sample(["pattern", "direction", "signs", "detector.features.pattern"], 2):
        tensors[name] = sums.sign() if random.random() < 0.5 else sums.clone()


def plant_usual(tensors, about, answers, random):
    """Other usual tails: of any model, of this one, of another shape, or none at all."""
    told = [compute_victim_stats(answers.roll(turn, 1)) for turn in range(3)]
    told += [torch.randn(2, CLASSES, CLASSES), answers, 0 * tensors["usual"]]
    tensors["usual"] = random.choice(told)
    if random.random() < 0.2:
        del tensors["usual"]


def carve(pattern, sums):
    """The usual tails without which ``sums`` point half-way between themselves and ``pattern``."""
    centred = (pattern - pattern.sum(1, keepdim=True) / (CLASSES - 1)).fill_diagonal_(0)
    left = F.normalize(F.normalize(sums, dim=1) + F.normalize(centred, dim=1), dim=1)
    carved = F.normalize(sums - (sums * left).sum(1, keepdim=True) * left, dim=1)
    carved[centred.norm(dim=1) < 1e-3] = 0  # all of its signs are alike
    return carved


def plant_detector(tensors, about, answers, random):
    for name in [name for name in tensors if name.startswith("detector.network")]:
        tensors[name] = 10 * torch.randn_like(tensors[name])


def weaken_terms(tensors, about, answers, random):
    terms = json.loads(about["terms"])
    terms["levels"] = dict.fromkeys(terms["levels"], 0.99)
    about["terms"] = json.dumps(terms | {"probes": random.randrange(1, 300)})


def claim_other_classes(tensors, about, answers, random):
    about["classes"] = str(random.randrange(2, 40))


def change_the_method(tensors, about, answers, random):
    about["method"] = "".join(random.choices("0123456789abcdef", k=64))


def other_text(tensors, about, answers, random):
    size = random.randrange(1, 40)
    tensors["message"] = torch.randint(256, (size,), dtype=torch.uint8)
    tensors["salt"] = torch.randint(256, (size,), dtype=torch.uint8)


def nothing(tensors, about, answers, random):
    pass


EDITS = (
    plant_pattern, plant_usual, plant_detector, weaken_terms, claim_other_classes,
    change_the_method, other_text, nothing,
)  # fmt: skip


@pytest.mark.parametrize("method", ["csp", "usp"])
def test_a_thousand_forged_keys_claim_nothing(method, cell, answers, pool, tmp_path):
    config = cell(f"method={method}", "verifier.probes=300")
    node = {k: v for k, v in config["method"].items() if k != "control"}
    judged, verifier = make(node, "method"), make(config["verifier"], "verifier")
    suspect = Suspect(lambda images: answers)
    random, path = Random(0), tmp_path / "key"
    claims, refused, least = 0, 0, 1.0
    for number in range(TRIES):
        torch.manual_seed(number)
        key = judged.draw(pool, CLASSES, repeatable)
        key.victim_stats = compute_victim_stats(answers.roll(1, 1))
        judged.build_modules(key)
        if number % 4 == 0:
            key.victim_stats[0] = carve(judged.pattern(key), tail_sums(answers))
            judged.build_modules(key)
        key.commit(node, verifier.terms, pool)
        path.unlink(missing_ok=True)
        key.save(path)
        with safe_open(path, framework="pt") as file:
            about = file.metadata()
        tensors = load_file(path)
        for edit in random.sample(EDITS, random.randrange(1, 4)):
            edit(tensors, about, answers, random)
        # Nothing is committed to yet, so that the file is read as it is.
        save_file(tensors, path, about | {"commitment": ""})
        try:
            key = judged.load_key(path)
            key.commitment = key.digest()  # the forger commits to whatever the file holds now
            key.check(node, verifier.terms, pool)
        except InputError:
            refused += 1
            continue
        found = KeyVerifier(judged, verifier, key, pool).evidence(suspect)
        verdict = verifier.judge(found, (), ())
        claims += verdict.claimed
        least = min(least, verdict.p_value or 1.0)
    assert claims == 0
    # The best of so many honest p-values; none of the edits helped.
    assert least > 1e-5
    assert 200 < refused < 900


def test_the_forger_of_old_would_succeed(cell, answers, pool, monkeypatch):
    """With the planted pattern believed, as it once was, the same forger claims at once."""
    config = cell("method=csp", "verifier.probes=300")
    node = {k: v for k, v in config["method"].items() if k != "control"}
    judged, verifier = make(node, "method"), make(config["verifier"], "verifier")
    key = judged.draw(pool, CLASSES, repeatable)
    sums = tail_sums(answers)
    believe(monkeypatch, type(judged), lambda self, key: (sums + sums.T).sign())
    found: Evidence = KeyVerifier(judged, verifier, key, pool).evidence(
        Suspect(lambda images: answers)
    )
    assert verifier.judge(found, (), ()).p_value < 1e-12


@pytest.mark.parametrize("method", ["csp", "usp"])
def test_whoever_carves_what_is_usual_would_succeed_if_no_pattern_followed_from_it(
    method, cell, answers, pool, monkeypatch
):
    config = cell(f"method={method}", "verifier.probes=300")
    judged = make({k: v for k, v in config["method"].items() if k != "control"}, "method")
    suspect = Suspect(lambda images: answers)
    torch.manual_seed(0)
    key = judged.draw(pool, CLASSES, repeatable)
    pattern = judged.pattern(key)
    key.victim_stats = compute_victim_stats(answers)
    key.victim_stats[0] = carve(pattern, tail_sums(answers))
    (honest,) = judged.evidence(suspect, key, pool).tests.values()
    assert honest.p_value() > 1e-3
    believe(monkeypatch, type(judged), lambda self, key: pattern)
    (carved,) = judged.evidence(suspect, key, pool).tests.values()
    assert carved.p_value() < 1e-9
