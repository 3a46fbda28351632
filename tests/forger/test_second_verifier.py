"""softmark, recheck.py and a verifier written from docs/FORMAT.md alone: one p, or all refuse."""

from __future__ import annotations

import argparse
import copy
import functools
import io
import json
import math
import runpy
import secrets
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from forger import second
from helpers import ROOT
from softmark.data.roles import Samples
from softmark.owner.commitment import publication
from softmark.owner.evidence import evidence_of
from softmark.owner.new_key import commit_key
from softmark.owner.verify import Examination, examine
from softmark.owner.watermarks import owner_config, watermark_of_config
from softmark.tails import compute_victim_stats

VERDICTS = 1000
RECHECK = runpy.run_path(str(ROOT / "scripts" / "recheck.py"))
LEVELS = {True: 1e-6, False: 1e-12}


class Case(NamedTuple):
    """What an owner would hand over, and what whoever verifies has of their own."""

    evidence: dict[str, Any]
    published: dict[str, Any]
    probes: np.ndarray
    labels: np.ndarray | None


@functools.cache
def composed_of(kind: str) -> dict[str, Any]:
    """Composing takes a tenth of a second: once for all verdicts of a kind."""
    return owner_config(kind, [])


def config_of(kind: str, triggers: int) -> dict[str, Any]:
    """The config of so many triggers, 0 for a method without any."""
    config = copy.deepcopy(composed_of(kind))
    if triggers:
        config["method"]["triggers"]["num_triggers"] = triggers
    return config


def test_the_number_of_triggers_is_all_that_is_changed_in_a_config():
    overrides = ["method.triggers.num_triggers=7"]
    assert config_of("csp_margin", 7) == owner_config("csp_margin", overrides)


def drawn(number: int) -> Case:
    """A verdict of its own: any method, any number of classes, a suspect that leans or doesn't."""
    random, torch_random = Random(number), torch.manual_seed(number)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(secrets, "token_bytes", random.randbytes)
    kind = random.choice(["csp", "usp", "csp", "usp", "csp_margin", "usp_margin"])
    classes = random.choice([5, 6, 7, 8, 9, 10, 10, 10, 12, 20])
    count = random.randrange(40, 200)
    triggers = random.randrange(1, 40)
    config = config_of(kind, triggers if "_" in kind else 0)
    shape = (random.choice([1, 3]), 8, 10) if "_" in kind else (random.randrange(1, 9),)
    probes = torch.randint(256, (count, *shape), dtype=torch.uint8, generator=torch_random)
    victim = labels = None
    if random.random() < 0.7:
        logits = 2 * torch.randn(300, classes, generator=torch_random)
        victim = compute_victim_stats(logits.softmax(1))
    if random.random() < 0.7:
        labels = torch.randint(classes, (count,), generator=torch_random)
    key = commit_key(kind, config, ["a"], classes, probes, victim, labels, None)
    monkeypatch.undo()
    way, pattern_key = watermark_of_config(config), key.pattern_key("a")
    inputs = probes
    if "_" in kind:
        like = Samples(probes, torch.zeros(count))
        inputs = torch.cat([probes, way.trigger_probes(pattern_key, like).inputs])
    top = torch.randint(classes, (len(inputs),), generator=torch_random)
    if labels is not None:
        agrees = torch.rand(count, generator=torch_random) < random.choice([0.7, 0.9, 0.98])
        top[:count] = torch.where(agrees, labels, top[:count])
    answers = _answers(way, pattern_key, top, random, torch_random)
    mine = None
    if labels is not None and random.random() < 0.6:
        right = torch.rand(count, generator=torch_random) < 0.9
        mine = torch.where(right, labels, (labels + 1) % classes)
    tried = random.choice([1, 1, 1, 7, 10**6])
    found = examine(answers, key, inputs, tried, labels=mine)
    monkeypatch.setattr(Examination, "curve", lambda self: {})  # for people to read
    published = publication(key.statement)
    made = evidence_of(found, "x", published, disclose=True)
    monkeypatch.undo()
    return Case(made, published, inputs.numpy(), None if mine is None else mine.numpy())


def _answers(way, key, top: Tensor, random: Random, generator) -> Tensor:
    """Answers that lean to the pattern by any amount, some rounded, some tied, some no numbers."""
    pattern = getattr(way, "soft", way).pattern(key)
    lean = random.choice([0.0, 0.0, 0.3, 0.6, 1.2])
    logits = lean * pattern[top] + torch.randn(len(top), len(pattern), generator=generator)
    answers = logits.scatter(1, top[:, None], random.choice([4.0, 9.0])).softmax(1)
    odd = random.random()
    if odd < 0.15:
        answers = (answers * 100).round() / 100
    elif odd < 0.25:
        answers[: len(answers) // 30] = torch.nan
    elif odd < 0.35:
        answers[::25] = 1 / len(pattern)
    elif odd < 0.4:
        answers = torch.eye(len(pattern))[answers.argmax(1)]
    return answers


def rechecked(case: Case, folder: Path) -> float:
    """The p that recheck.py prints."""
    files = {"evidence": folder / "e.json", "commitment": folder / "c.json"}
    files["evidence"].write_text(json.dumps(case.evidence))
    files["commitment"].write_text(json.dumps(case.published))
    files["probes"] = folder / "p.npz"
    np.savez(files["probes"], inputs=case.probes)
    options = {name: str(path) for name, path in files.items()}
    options |= dict.fromkeys(("labels", "answers", "round", "info", "published", "chain", "model"))
    if case.labels is not None:
        options["labels"] = str(folder / "labels.npy")
        np.save(options["labels"], case.labels)
    with redirect_stdout(io.StringIO()) as printed:
        RECHECK["recheck"](argparse.Namespace(**options))
    return float(printed.getvalue().split()[2].rstrip(";"))


def by_second(case: Case) -> float:
    made = case.published["statement"]
    return second.p_of(made, case.evidence, case.probes, case.labels)


def alike(first: float, other: float, within: float = 2.0) -> bool:
    """Up to a factor: with few signs, what rounding does on the grid can move p."""
    return abs(math.log(first / other)) < math.log(within)


def test_three_verifiers_compute_one_p(cheap, tmp_path):
    apart, near, small = [], 0, 0
    for number in range(VERDICTS):
        case = drawn(number)
        if (p := case.evidence["p"]) is None:
            continue
        small += p <= 1e-6
        others = rechecked(case, tmp_path), by_second(case)
        near += all(alike(p, each, 1.05) for each in others)
        if not all(alike(p, each) for each in others):
            apart.append((number, case.published["statement"]["method"], p, *others))
    assert apart == []
    assert near > 0.95 * VERDICTS
    assert small > VERDICTS / 10


def test_three_verifiers_pay_the_same_price(tmp_path):
    case = drawn(1)
    assert alike(case.evidence["p"], rechecked(case, tmp_path))
    assert alike(case.evidence["p"], by_second(case))


def test_the_levels_are_the_same(cheap):
    made = drawn(0).published["statement"]
    assert second.level_of(made, False) == LEVELS[False]
    named = {**made, "beacon": {"chain": "0" * 64, "genesis": 1, "period": 3, "round": 9}}
    assert second.level_of(named, True) == LEVELS[True]
    assert second.level_of({**named, "level": 1e-9}, True) == 1e-9


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, str):
        return ("0" if value[0] != "0" else "1") + value[1:]
    if isinstance(value, list):
        return value[1:] + value[:1] if len(value) > 1 else value * 2
    return "00" * 32 if value is None else value + 1


def first_where(good: Callable[[Case], Any]) -> Case:
    """The first case with a p for which ``good`` holds."""
    cases = (case for case in map(drawn, range(60)) if case.evidence["p"])
    return next(case for case in cases if case.evidence["tried"] == 1 and good(case))


EVIDENCE = ("commitment", "ranks", "labels", "tried", "randomness", "p")
DISCLOSED = ("seed", "victim")


@pytest.mark.parametrize("name", EVIDENCE + DISCLOSED)
def test_all_refuse_evidence_of_which_one_part_was_altered(name, cheap, tmp_path):
    """Or compute another p: of ``tried``, which is the accuser's word, and of reordered rows."""
    case = first_where(lambda c: c.evidence["labels"] and c.evidence["disclosed"]["victim"])
    made, p = json.loads(json.dumps(case.evidence)), case.evidence["p"]
    part = made["disclosed"] if name in DISCLOSED else made
    part[name] = [1] if name == "victim" else other(part[name])
    case = case._replace(evidence=made)
    for verifier in (lambda: rechecked(case, tmp_path), lambda: by_second(case)):
        try:
            computed = verifier()
        except (ValueError, RECHECK["Refused"], RECHECK["Unusable"]):
            continue
        # One more key, rows in another order, or a p that is compared with what was computed.
        assert {"tried": alike(computed, min(1.0, p * 2)), "p": alike(computed, p)}.get(name, True)
        assert name in ("tried", "ranks", "p")


@pytest.mark.parametrize("place", ["first", "last"])
def test_all_refuse_probes_of_which_one_pixel_was_altered(place, cheap, tmp_path):
    case = next(
        c for c in map(drawn, range(40)) if c.published["statement"]["triggers"] and c.evidence["p"]
    )
    probes = case.probes.copy()
    probes.reshape(-1)[0 if place == "first" else -1] ^= 1
    case = case._replace(probes=probes)
    with pytest.raises(RECHECK["Refused"]):
        rechecked(case, tmp_path)
    with pytest.raises(ValueError, match=r"committed|hash|probes|triggers"):
        by_second(case)
