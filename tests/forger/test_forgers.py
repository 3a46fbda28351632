"""Whoever owns a key and wants to accuse the innocent: of eleven none is claimed.

Each test is a forger who knows how softmark works and may choose whatever an owner may choose. The
innocents are models that never met a marked one, six of them not even networks.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import itertools
import json
import math
import runpy
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

import softmark
from helpers import ROOT, innocents, owners
from softmark import InputError
from softmark.methods.csp import paired
from softmark.methods.parts.soft_labels import pairs
from softmark.methods.usp import cosine
from softmark.models.files import read_tensors
from softmark.owner import key as keys
from softmark.owner import pattern_key
from softmark.owner.commitment import publication
from softmark.owner.evidence import evidence_of, write_evidence
from softmark.owner.new_key import commit_key
from softmark.owner.statement import Statement, canonical, hash_of
from softmark.owner.verify import examine
from softmark.owner.watermarks import owner_config, watermark_of_config, watermark_of_statement
from softmark.tails import (
    anscombe_residuals,
    compute_victim_stats,
    confusion_counts,
    project_out,
    tail_sums,
)

KINDS = ("csp", "usp", "csp_margin", "usp_margin")
COUNT = 200


@functools.cache
def probes() -> Tensor:
    return owners.pictures()[0][owners.HELD][:COUNT]


@functools.cache
def truth() -> Tensor:
    return owners.pictures()[1][owners.HELD][:COUNT]


@functools.cache
def victim() -> Tensor:
    """What an unmarked model of the forger shows."""
    return compute_victim_stats(innocents.answers("convolutions 1", owners.pictures()[0][:1000]))


def key_of(
    kind: str, inputs: Tensor, labels: Tensor | None, shown: Tensor | None = None, classes: int = 10
) -> softmark.Key:
    """A key that somebody makes as they are meant to."""
    return commit_key(kind, owner_config(kind), ["a"], classes, inputs, shown, labels, None)


def asked(key: softmark.Key, inputs: Tensor) -> Tensor:
    """The probes, and the triggers that the key draws."""
    method = watermark_of_statement(key.statement)
    from softmark.data.roles import Samples

    like = Samples(inputs, torch.zeros(len(inputs)))
    return torch.cat([inputs, method.trigger_probes(key.pattern_key("a"), like).inputs])


def judged(key: softmark.Key, inputs: Tensor, labels: Tensor | None = None) -> list[float]:
    """p of every innocent."""
    verdicts = [
        softmark.verify(innocents.answers(name, inputs), key, inputs, labels=labels)
        for name in innocents.NAMES
    ]
    assert not any(verdict.claimed for verdict in verdicts)
    return [1.0 if verdict.p_value is None else verdict.p_value for verdict in verdicts]


@pytest.fixture(autouse=True)
def repeatable(monkeypatch):
    """An innocent reaches 1e-6 once in a million keys: not in these."""
    monkeypatch.setattr("secrets.token_bytes", Random(0).randbytes)


# --- Nothing is forged: the innocents as they are. ---------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_no_innocent_is_claimed(kind):
    key = key_of(kind, probes(), truth(), victim())
    ps = judged(key, asked(key, probes()), truth())
    assert min(ps) > 1e-5


# --- Triggers. --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csp_margin", "usp_margin"])
def test_pictures_of_the_drawn_classes_in_the_place_of_triggers_are_refused(kind):
    key = key_of(kind, probes(), truth(), victim())
    drawn = watermark_of_statement(key.statement).triggers
    labels = drawn.triggers(key.pattern_key("a"), samples(probes()), drawn.num_triggers).labels
    pictures, classes = (part[:1000] for part in owners.pictures())
    natural = torch.stack([pictures[classes == label][0] for label in labels.tolist()])
    forged = torch.cat([probes(), natural])
    for name in innocents.NAMES:
        with pytest.raises(InputError, match="of the last 100 number 1 isn't the picture"):
            softmark.verify(innocents.answers(name, forged), key, forged)
    # One alone is noticed, too.
    honest = asked(key, probes())
    honest[-1, 0, 3, 3] ^= 1
    with pytest.raises(InputError, match="of the last 100 number 100 isn't"):
        softmark.verify(innocents.answers("SVC", honest), key, honest)


def samples(inputs: Tensor):
    from softmark.data.roles import Samples

    return Samples(inputs, torch.zeros(len(inputs)))


# --- Probes and labels that are chosen after the pattern is known. ------------------------------


def fitting(key: softmark.Key, kind: str) -> tuple[Tensor, Tensor]:
    """Natural pictures in slots of wrong labels: mistakes of every model that point as the key."""
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    cells = pattern.flatten().argsort(descending=True)[:20]
    pictures, classes = (part[:1000] for part in owners.pictures())
    chosen, labels = [], []
    for number in range(2 * COUNT):
        label, answer = divmod(int(cells[number % len(cells)]), 10)
        there = pictures[classes == answer]
        chosen.append(there[number // len(cells) % len(there)])
        labels.append(label)
    return torch.stack(chosen), torch.tensor(labels)


@pytest.mark.parametrize("kind", ["csp", "usp"])
def test_probes_and_labels_that_fit_a_pattern_give_another_pattern(kind):
    first = key_of(kind, probes(), truth(), victim())
    inputs, labels = fitting(first, kind)
    # Under the first key: refused. Under a key for them: the pattern is another one.
    same = inputs[:COUNT]
    with pytest.raises(InputError, match="fingerprint"):
        softmark.verify(innocents.answers("SVC", same), first, same, labels=labels[:COUNT])
    with pytest.raises(InputError, match="doesn't fit its labels"):
        replace(first, labels=labels[:COUNT])
    made = first.statement
    again = replace(made, probes=type(made.probes).of(inputs), labels=hash_of(labels, "<i4"))
    second = keys.Key(first.secret, first.messages, again, first.victim, labels)
    patterns = [
        watermark_of_statement(key.statement).pattern(key.pattern_key("a")).flatten()
        for key in (first, second)
    ]
    assert F.cosine_similarity(*patterns, dim=0).abs() < 0.5
    # The forger claims to see these labels; whoever verifies sees the pictures.
    for seen in (None, truth_of(inputs)):
        assert min(judged(second, inputs, seen)) > 1e-6


def truth_of(inputs: Tensor) -> Tensor:
    """What a person would say that the digits are."""
    pictures, classes = owners.pictures()
    places = {
        picture.numpy().tobytes(): int(c) for picture, c in zip(pictures, classes, strict=True)
    }
    return torch.tensor([places[picture.numpy().tobytes()] for picture in inputs])


def test_the_forger_of_old_would_succeed_if_labels_were_taken_for_true():
    """As the key said them, and with a pattern that doesn't follow from them."""
    key = key_of("csp", probes(), truth())
    inputs, labels = fitting(key, "csp")
    method, ps = watermark_of_statement(key.statement), []
    for name in innocents.NAMES:
        answers = innocents.answers(name, inputs)
        _, test, _ = method.exact(answers, labels, key.pattern_key("a"))
        ps.append(test.p_value())
        right = torch.where(labels == truth_of(inputs), labels, -1)
        _, test, _ = method.exact(answers, right, key.pattern_key("a"))
        assert test.p_value() > 1e-6
    assert max(ps) < 1e-6  # the level of then


def test_labels_count_just_where_whoever_verifies_gives_the_same():
    inputs, labels = torch.rand(3000, 4, generator=torch.manual_seed(0)), torch.arange(3000) % 10
    key = key_of("csp", inputs, labels)
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    chances = (1.5 * pattern).fill_diagonal_(5.0)[labels].softmax(1)
    told = torch.multinomial(chances, 1, generator=torch.manual_seed(1))[:, 0]
    answers = F.one_hot(told, 10).float()

    def p_of(given: Tensor | None) -> float:
        return softmark.verify(answers, key, inputs, labels=given).p_value

    third = torch.arange(3000) % 3 == 0
    wrong = torch.where(third, (labels + 1) % 10, labels)
    assert p_of(None) == p_of((labels + 1) % 10) == 1.0
    assert p_of(labels) < 1e-12
    assert p_of(labels) < p_of(wrong) < 1e-6
    assert p_of(torch.where(third, (labels + 2) % 10, labels)) == p_of(wrong)
    # Who may leave some out may choose them.
    unknown = torch.where(third, -1, labels)
    for given in (unknown, labels[:-1], labels / 7, "nothing", labels + 1):
        with pytest.raises(InputError, match="labels"):
            p_of(given)


# --- Keys that are ground before they are published. --------------------------------------------


def label_weights(answers: Tensor, labels: Tensor) -> np.ndarray:
    """csp's evidence of labels alone, one number a sign: (90,)."""
    seen = anscombe_residuals(confusion_counts(answers, labels), None)
    return paired(seen, pairs(10)).double().numpy()


TRIES = 200_000


def best_of(weights: np.ndarray) -> np.ndarray:
    """Of so many random patterns the one that fits all of the ``weights`` (M, 90) best: (90,)."""
    random, best, found = np.random.default_rng(0), -np.inf, None
    unit = weights / np.linalg.norm(weights, axis=1, keepdims=True).clip(1e-9)
    for _ in range(20):
        signs = 2.0 * random.integers(2, size=(TRIES // 20, weights.shape[1])) - 1
        worst = (signs @ unit.T).min(1)
        if worst.max() > best:
            best, found = worst.max(), signs[worst.argmax()]
    return found


def test_a_key_that_is_ground_for_wrong_labels_claims_nobody():
    """With labels wrong at random all models err alike, so that one key fits them all."""
    from softmark.verification.signs import Signs

    labels = torch.randint(10, (COUNT,), generator=torch.manual_seed(0))
    told = [innocents.answers(name, probes()) for name in innocents.NAMES]
    as_said = np.stack([label_weights(each, labels) for each in told])
    pattern = torch.from_numpy(best_of(as_said[:5]))
    ps = [Signs(torch.from_numpy(each), pattern).p_value() for each in as_said]
    # 200,000 keys without a price, and the five that the forger knows aren't alone: all are near.
    assert max(ps[5:]) < 1e-3
    # Labels count where whoever verifies sees them, too.
    right = torch.where(labels == truth(), labels, -1)
    as_seen = np.stack([label_weights(each, right) for each in told])
    ps = [Signs(torch.from_numpy(each), pattern).p_value() for each in as_seen]
    assert min(ps) > 1e-4
    best = torch.from_numpy(best_of(as_seen[:5]))
    assert min(Signs(torch.from_numpy(each), best).p_value() for each in as_seen) > 1e-12


def test_a_key_that_is_ground_for_tails_claims_nobody():
    """The best of 200,000 keys for five innocents at once, and for each alone."""
    from softmark.verification.signs import Signs

    told = [innocents.answers(name, probes()) for name in innocents.NAMES]
    seen = np.stack([paired(tail_sums(each), pairs(10)).double().numpy() for each in told])
    for known in (seen[6:], *seen[:, None]):
        best = torch.from_numpy(best_of(known))
        assert min(Signs(torch.from_numpy(each), best).p_value() for each in seen) > 1e-10


def test_every_try_pays_the_price(cheap):
    """No two patterns for one call of scrypt: whatever is changed, it is paid again."""
    key = key_of("csp", probes(), truth(), victim())
    key.pattern_key("a")
    assert len(cheap) == 1
    made, seen = key.statement, {cheap[0]}
    changes: list[dict[str, Any]] = [
        {"numbers": {**made.numbers, "beta": 0.31}},
        {"probes": type(made.probes).of(probes().flip(0))},
        {"level": 1e-13},
        {"method": "usp"},
    ]
    for changed in changes:
        other = keys.Key(key.secret, ("a",), replace(made, **changed), key.victim, key.labels)
        other.pattern_key("a")
    other_labels = (truth() + 1) % 10
    relabelled = replace(made, labels=hash_of(other_labels, "<i4"))
    keys.Key(key.secret, ("a",), relabelled, key.victim, other_labels).pattern_key("a")
    shown = victim().clone()
    shown[1, 3, 4] = torch.nextafter(shown[1, 3, 4], torch.tensor(1.0))
    other = keys.Key(
        key.secret, ("a",), replace(made, victim=hash_of(shown, "<f4")), shown, key.labels
    )
    other.pattern_key("a")
    for names in (("b",), ("a", "b"), ("b", "a")):
        renamed = replace(made, seals=pattern_key.seals(key.secret, names))
        keys.Key(key.secret, names, renamed, key.victim, key.labels).pattern_key(names[0])
    seen |= set(cheap)
    assert len(cheap) == len(seen) == 1 + len(changes) + 2 + 3


def test_the_price_is_what_it_says():
    assert pattern_key.SCRYPT["n"] * pattern_key.SCRYPT["r"] * 128 == 2**26
    assert pattern_key.pattern_root(b"seed", b"bound") == hashlib.scrypt(
        b"seed", salt=b"bound", n=65536, r=8, p=1, maxmem=2**27, dklen=32
    )


# --- Levels. ----------------------------------------------------------------------------------


def test_an_owner_alone_needs_1e_12():
    key = key_of("csp", probes(), None)
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    verdicts = [
        softmark.verify(marked_answers(pattern, lean), key, probes())
        for lean in np.arange(0.02, 0.6, 0.02)
    ]
    between = [verdict for verdict in verdicts if 1e-12 < verdict.p_value < 1e-6]
    assert len(between) > 1
    assert not any(verdict.claimed for verdict in between)
    assert {verdict.levels["signs"] for verdict in verdicts} == {1e-12}
    assert verdicts[-1].claimed
    assert "scrypt" in verdicts[-1].grounds


@pytest.mark.parametrize("level", [0.99, 2e-12, 1e-6, 0.0, -1.0, 1])
def test_a_weaker_level_is_refused(level):
    with pytest.raises(InputError, match=r"level=.*: softmark's own is 1e-12"):
        commit_key(
            "csp",
            owner_config("csp", [f"verifier.level={level}"]),
            ["a"],
            10,
            probes(),
            None,
            None,
            None,
        )


def test_a_weaker_level_in_a_file_is_refused(tmp_path):
    key = key_of("csp", probes(), truth(), victim())
    key.save(tmp_path / "key")
    tensors, about = read_tensors(tmp_path / "key")
    made = json.loads(about["statement"])
    for level in (0.99, 1e-6, "1e-12", True, [1e-12]):
        told = {**about, "statement": json.dumps({**made, "level": level})}
        safetensors.torch.save_file(tensors, tmp_path / "forged", told)
        with pytest.raises(InputError, match="softmark's own is 1e-12"):
            softmark.Key.load(tmp_path / "forged")


def test_a_stricter_level_holds():
    config = owner_config("csp", ["verifier.level=1e-40"])
    key = commit_key("csp", config, ["a"], 10, probes(), None, None, None)
    pattern = watermark_of_config(config).pattern(key.pattern_key("a"))
    answers = marked_answers(pattern)
    verdict = softmark.verify(answers, key, probes())
    assert verdict.levels == {"signs": 1e-40}
    assert not verdict.claimed
    assert verdict.p_value < 1e-12


def marked_answers(pattern: Tensor, lean: float = 1.5) -> Tensor:
    """Answers of a model that has a mark: (N, 10)."""
    top = torch.arange(COUNT) % 10
    logits = lean * pattern[top] + torch.randn(COUNT, 10, generator=torch.manual_seed(0))
    return logits.scatter(1, top[:, None], 9.0).softmax(1)


# --- What an owner may choose before: adversarial, repeated, all of one class, other models. ----


def adversarial() -> Tensor:
    """Pictures that the forger's own models take for another class: gradient steps."""
    model = innocents.fitted("convolutions 1")
    inputs = probes().float() / 255
    for _ in range(10):
        inputs.requires_grad_(True)
        loss = F.cross_entropy(model(inputs), truth())
        (slope,) = torch.autograd.grad(loss, inputs)
        inputs = (inputs.detach() + 0.05 * slope.sign()).clamp(0, 1)
    return (255 * inputs).round().to(torch.uint8)


CHOSEN = {
    "of one class": lambda: owners.pictures()[0][owners.pictures()[1] == 3][:COUNT][:150],
    "one picture": lambda: probes()[:1].repeat(COUNT, 1, 1, 1),
    "noise": lambda: torch.randint(256, (COUNT, 1, 8, 8), generator=torch.manual_seed(1)).byte(),
    "black": lambda: torch.zeros(COUNT, 1, 8, 8, dtype=torch.uint8),
    "adversarial": adversarial,
    "one probe": lambda: probes()[:1],
}


@pytest.mark.parametrize("kind", ["csp", "usp", "csp_margin"])
@pytest.mark.parametrize("how", CHOSEN)
def test_probes_of_any_choice_claim_nobody(how, kind, cheap):
    inputs = CHOSEN[how]()
    labels = innocents.answers("convolutions 1", inputs).argmax(1)
    ps = []
    for _ in range(5):
        key = key_of(kind, inputs, labels, victim())
        ps += judged(key, asked(key, inputs), labels)
    assert min(ps) > 1e-6


SHOWN = {
    "nothing": lambda: torch.zeros(2, 10, 10),
    "an innocent's own tails": lambda: compute_victim_stats(innocents.answers("SVC", probes())),
    "minus an innocent's": lambda: torch.stack(
        [-compute_victim_stats(innocents.answers("SVC", probes()))[0], victim()[1]]
    ),
    "another order of classes": lambda: victim().roll((1, 1), (1, 2)),
}


@pytest.mark.parametrize("kind", ["csp", "usp"])
@pytest.mark.parametrize("how", SHOWN)
def test_an_unmarked_model_of_any_choice_claims_nobody(how, kind, cheap):
    ps = []
    for _ in range(5):
        key = key_of(kind, probes(), truth(), SHOWN[how]())
        ps += judged(key, probes(), truth())
    assert min(ps) > 1e-6


def test_an_unmarked_model_that_no_model_can_be_is_refused():
    for shown in (torch.randn(2, 10, 10), torch.full((2, 10, 10), torch.nan), victim()[:1]):
        with pytest.raises(InputError, match="no model answers as the key says"):
            key_of("csp", probes(), truth(), shown)


# --- Customers and classes. ---------------------------------------------------------------------


def test_a_million_customers_are_refused_and_many_are_paid_for(cheap):
    names = [f"customer {number}" for number in range(100)]
    key = commit_key("csp", owner_config("csp"), names, 10, probes(), victim(), truth(), None)
    ps = judged(key, probes(), truth())
    assert min(ps) > 1e-6
    seal = key.statement.seals[0]
    more = tuple(hashlib.sha256(str(n).encode()).hexdigest() for n in range(10_001))
    for wrong in (more, (seal, seal), ()):
        with pytest.raises(InputError, match="seals of"):
            replace(key.statement, seals=wrong)


def test_another_customer_cannot_be_named_later():
    key = key_of("csp", probes(), truth(), victim())
    with pytest.raises(InputError, match="doesn't fit its secret or customers"):
        replace(key, messages=("b",))
    with pytest.raises(InputError, match="doesn't fit its secret or customers"):
        replace(key, secret=bytes(32))
    with pytest.raises(InputError, match="doesn't fit its unmarked model"):
        replace(key, victim=victim().roll((1, 1), (1, 2)))
    with pytest.raises(InputError, match="doesn't fit its randomness"):
        replace(key, randomness=bytes(32))


@pytest.mark.parametrize("classes", [9, 11, 100])
def test_a_key_for_another_number_of_classes_is_refused(classes):
    labels = truth().clamp_max(classes - 1)
    key = key_of("csp", probes(), labels, None, classes)
    for name in ("SVC", "network 1"):
        with pytest.raises(InputError, match="answers with 10 classes"):
            softmark.verify(innocents.answers(name, probes()), key, probes())


def test_the_order_of_classes_cannot_be_chosen():
    """Who brings the answers could exchange columns until they fit: p pays for all orders."""
    inputs, labels = (part[owners.HELD] for part in owners.pictures())
    key = key_of("csp", inputs, labels, victim())
    answers, random = innocents.answers("SVC", inputs), np.random.default_rng(0)
    key_verifier = examine(answers, key, inputs).key_verifier
    assert key_verifier.open_orders(answers) == 1
    for moved in range(2, 11):
        order = torch.arange(10)
        order[:moved] = order[:moved].roll(1)
        assert key_verifier.open_orders(answers[:, order]) == math.perm(10, moved) * moved**2
    assert key_verifier.open_orders(answers[:20]) == math.factorial(10) * 100  # too few of each
    for _ in range(50):
        order = torch.from_numpy(random.permutation(10))
        verdict = softmark.verify(answers[:, order], key, inputs)
        assert not verdict.claimed
        # Whose labels hardly agree gets no verdict at all.
        said = "don't show the column of", "no verdict: it doesn't answer this task as asked"
        assert any(words in verdict.why for words in said)


def ordered(answers: Tensor, pattern: Tensor) -> Tensor:
    """The best order of columns that a climb from pair to pair finds: (K,)."""

    def fit(order: Tensor) -> float:
        return float((tail_sums(answers)[order][:, order] * pattern).sum())

    order, classes = torch.arange(len(pattern)), len(pattern)
    for _ in range(6):
        for first, second in itertools.combinations(range(classes), 2):
            other = order.clone()
            other[[first, second]] = other[[second, first]]
            if fit(other) > fit(order):
                order = other
    return order


@pytest.mark.parametrize("told", ["nothing", "a few of each", "one class"])
def test_columns_in_the_order_that_fits_best_claim_nobody(told, cheap):
    """Twenty classes have 10^18 orders: the best of them fits any pattern well."""
    classes, generator = 20, torch.manual_seed(0)
    count = {"nothing": 300, "a few of each": 80, "one class": 300}[told]
    truth = (
        torch.zeros(count, dtype=torch.int64) if told == "one class" else torch.arange(count) % 20
    )
    habit = torch.randn(classes, classes, generator=generator)
    logits = 2 * habit[truth] + torch.randn(count, classes, generator=generator)
    answers = logits.scatter(1, truth[:, None], 9.0).softmax(1)
    inputs = torch.rand(count, 3, generator=generator)
    key = key_of("csp", inputs, None if told == "nothing" else truth, None, classes)
    order = ordered(answers, watermark_of_statement(key.statement).pattern(key.pattern_key("a")))
    found = examine(answers[:, order], key, inputs)
    (test,) = found.evidence.tests.values()
    assert test.p_value() < (1e-4 if told == "one class" else 1e-6)
    assert not found.verdict.claimed
    assert found.verdict.p_value is None or found.verdict.p_value > 1e-6
    assert (found.verdict.p_value is None) == (found.verdict.outcome == "no verdict")


def test_answers_that_are_left_out_are_few():
    """Who may leave out answers can leave out those that don't fit."""
    key = key_of("csp", probes(), truth(), victim())
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    for left_out in (torch.nan, 0.1):
        answers = marked_answers(pattern)
        answers[: COUNT // 20] = left_out
        assert softmark.verify(answers, key, probes()).p_value is not None
        answers[: COUNT // 20 + 1] = left_out
        verdict = softmark.verify(answers, key, probes())
        assert (verdict.claimed, verdict.p_value) == (False, None)


# --- Evidence. ------------------------------------------------------------------------------------


def recheck(capsys, *words: Any) -> tuple[int, str]:
    """The exit status of recheck.py, and what it prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["recheck.py", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(ROOT / "scripts/recheck.py"), run_name="__main__")
    printed = capsys.readouterr()
    return stopped.value.code, printed.out + printed.err


@functools.cache
def guilty() -> tuple[softmark.Key, Tensor]:
    """A key, and the answers of a model that has its mark."""
    key = key_of("csp", probes(), truth(), victim())
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    return key, marked_answers(pattern)


def files_of(key: softmark.Key, answers: Tensor, folder: Path, **more: Any) -> list[Path]:
    """Evidence, commitment and probes as an accuser hands them over."""
    published = publication(key.statement)
    write_evidence(
        evidence_of(examine(answers, key, probes(), **more), "x", published, True), folder
    )
    (folder / "c.json").write_text(json.dumps(published))
    np.savez(folder / "p.npz", inputs=probes().numpy())
    return [folder / "evidence.json", folder / "c.json", folder / "p.npz"]


def test_evidence_of_another_suspect_is_refused(tmp_path, capsys):
    """A model that has the mark is shown, and an innocent is named."""
    key, answers = guilty()
    # The committed labels are those of the digits, and the marked answers are made up.
    key = key_of("csp", probes(), None, victim())
    answers = marked_answers(watermark_of_statement(key.statement).pattern(key.pattern_key("a")))
    files = files_of(key, answers, tmp_path)
    code, said = recheck(capsys, *files)
    assert code == 0
    assert "not checked: that the answers are the suspect's" in said
    for name in innocents.NAMES:
        np.save(tmp_path / "theirs.npy", innocents.answers(name, probes()).numpy())
        code, said = recheck(capsys, *files, "--answers", tmp_path / "theirs.npy")
        assert (code, "the evidence is of other answers" in said) == (3, True)
    np.save(tmp_path / "theirs.npy", answers.numpy())
    assert recheck(capsys, *files, "--answers", tmp_path / "theirs.npy")[0] == 0


def test_evidence_of_the_innocent_is_no_claim_whatever_is_written_into_it(tmp_path, capsys):
    key = key_of("csp", probes(), truth(), victim())
    answers = innocents.answers("SVC", probes())
    np.save(tmp_path / "theirs.npy", answers.numpy())
    np.savetxt(tmp_path / "labels.csv", truth().numpy(), fmt="%d")
    evidence, *rest = files_of(key, answers, tmp_path, labels=truth())
    honest = json.loads(evidence.read_text())
    pattern = watermark_of_statement(key.statement).pattern(key.pattern_key("a"))
    top = np.array(honest["ranks"]).argmax(1)
    wished = marked_answers(pattern)
    forgeries: list[dict[str, Any]] = [
        {"claimed": True, "p": 1e-30},
        {"undecided": list(range(COUNT)), "answered": wished.argmax(1).tolist(), "p": 1e-30},
        {"labels": top.tolist()},
        {"tried": 0},
        {"tried": -1},
        {"p": 0.0},
        {"p": float("nan")},
        {"level": 0.99},
        {"statement": {**honest["statement"], "level": 0.99}},
        {"statement": {**honest["statement"], "classes": 9}},
        {"ranks": (1e6 * pattern[top]).tolist()},
        {"ranks": honest["ranks"][:-1]},
        {"ranks": [row[::-1] for row in honest["ranks"]]},
    ]
    theirs = ("--answers", tmp_path / "theirs.npy", "--labels", tmp_path / "labels.csv")
    assert recheck(capsys, evidence, *rest, *theirs)[0] == 3
    for forged in forgeries:
        evidence.write_text(json.dumps({**honest, **forged}))
        for options in ((), theirs):
            assert recheck(capsys, evidence, *rest, *options)[0] in (2, 3), forged


def test_recheck_takes_no_evidence_that_leaves_answers_out(tmp_path, capsys):
    """More than five in a hundred, by rows that tie throughout."""
    key = key_of("csp", probes(), None)
    answers = marked_answers(watermark_of_statement(key.statement).pattern(key.pattern_key("a")))
    evidence, *rest = files_of(key, answers, tmp_path)
    honest = json.loads(evidence.read_text())
    for left_out, code, words in (
        (COUNT // 20, 0, "claimed"),
        (COUNT // 20 + 1, 3, "tell nothing"),
    ):
        ranks = [[5.5] * 10] * left_out + honest["ranks"][left_out:]
        made = {**honest, "ranks": ranks}
        # The file's p is of all answers.
        made["p"] = examine(torch.tensor(ranks).softmax(1), key, probes()).verdict.p_value or 1.0
        evidence.write_text(json.dumps(made))
        found, said = recheck(capsys, evidence, *rest)
        assert (found, words in said) == (code, True)


STATEMENTS: dict[str, dict[str, Any]] = {
    "a weak level": {"level": 0.99},
    "the level of a beacon": {"level": 1e-6},
    "no numbers": {"numbers": {}},
    "a key more": {"more": 1},
    "two customers of one seal": {"seals": ["0" * 64] * 2},
    "a method without a name": {"method": "control"},
    "three classes": {"classes": 3},
    "a beacon of nothing": {"beacon": {}},
}


@pytest.mark.parametrize("how", STATEMENTS)
def test_recheck_takes_no_statement_that_softmark_would_refuse(how, tmp_path, capsys):
    """Though its commitment fits it, and the evidence holds the same."""
    key = key_of("csp", probes(), truth(), victim())
    evidence, published, inputs = files_of(key, innocents.answers("SVC", probes()), tmp_path)
    made = {**json.loads(published.read_text())["statement"], **STATEMENTS[how]}
    commitment = hashlib.sha256(canonical(made)).hexdigest()
    for path in (evidence, published):
        told = {**json.loads(path.read_text()), "statement": made, "commitment": commitment}
        path.write_text(json.dumps(told))
    with pytest.raises(InputError):
        Statement.read(made)
    code, said = recheck(capsys, evidence, published, inputs)
    assert (code, "isn't one of softmark's" in said) == (2, True)


def test_recheck_takes_no_commitment_that_is_not_the_hash_of_its_statement(tmp_path, capsys):
    """Else another pattern would follow from the same statement, and again another."""
    key = key_of("csp", probes(), truth(), victim())
    evidence, published, inputs = files_of(key, innocents.answers("SVC", probes()), tmp_path)
    for path in (evidence, published):
        path.write_text(json.dumps({**json.loads(path.read_text()), "commitment": "0" * 64}))
    code, said = recheck(capsys, evidence, published, inputs)
    assert (code, "isn't the hash of its statement" in said) == (2, True)


def test_answers_that_tie_at_the_top_count_as_no_mistakes(tmp_path, capsys):
    """Which of two likeliest classes is the answer is nobody's to choose."""
    key = key_of("csp", probes(), truth(), victim())
    answers = innocents.answers("SVC", probes())
    answers[::2] = answers[::2].scatter(1, ((truth() + 1) % 10)[::2, None], 2.0).clamp_max(1.0)
    first, second = answers.topk(2).indices[:, 0], answers.topk(2).indices[:, 1]
    half = torch.full((COUNT,), 0.5)
    answers = torch.zeros_like(answers).scatter(1, first[:, None], half[:, None])
    answers = answers.scatter(1, second[:, None], half[:, None])
    files = files_of(key, answers, tmp_path, labels=truth())
    made = json.loads(files[0].read_text())
    assert all(max(row) == 9.5 for row in made["ranks"])
    assert confusion_counts(answers, truth()).sum() == 0
    assert recheck(capsys, *files)[0] == 3


def test_usp_reads_labels_alone_with_five_classes():
    """The test of labels was dropped as too small, so that p was always 1."""
    key = key_of("usp", probes(), None, None, 5)
    method = watermark_of_statement(key.statement)
    pattern = method.pattern(key.pattern_key("a"))
    labels = torch.arange(3000) % 5
    logits = pattern.clone().fill_diagonal_(2.0)[labels]
    told = torch.distributions.Categorical(logits=logits).sample()
    _, test, _ = method.exact(F.one_hot(told, 5).float(), labels, key.pattern_key("a"))
    assert test.p_value() < 1e-4
    others = [key_of("usp", probes(), None, None, 5) for _ in range(3)]
    for other in others:
        _, test, _ = method.exact(F.one_hot(told, 5).float(), labels, other.pattern_key("a"))
        assert test.p_value() > 1e-4


def test_a_cosine_next_to_1_is_not_1():
    """In float32 it was, and p of few dimensions fell to nothing."""
    near = cosine(torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 1e-5, 0]))
    assert 1 - near == pytest.approx(5e-11, rel=1e-3)


def test_without_usual_tails_the_sums_are_as_they_are():
    """The forger's weights above are those of the method."""
    answers = innocents.answers("SVC", probes())
    key = key_of("csp", probes(), truth(), None)
    _, test, _ = watermark_of_statement(key.statement).exact(answers, truth(), key.pattern_key("a"))
    weights = paired(tail_sums(answers), pairs(10))
    torch.testing.assert_close(test.tests[0].weights, weights)
    assert project_out(tail_sums(answers), torch.zeros(10, 10)).norm() > 0


def test_a_statement_is_read_as_it_was_made():
    made = key_of("csp_margin", probes(), truth(), victim()).statement
    assert Statement.read(copy.deepcopy(made.as_dict())) == made
    assert Statement.read(json.loads(json.dumps(made.as_dict()))).commitment == made.commitment
