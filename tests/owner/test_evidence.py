"""The page of evidence: what a judge reads on it, and that it holds nothing secret."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import subprocess
import types
from pathlib import Path
from shutil import which

import pytest
import torch

import softmark
from helpers import owners
from helpers.secrets import leaks, secrets_of
from softmark import InputError
from softmark.methods.csp import CSP
from softmark.owner.evidence import evidence_of, parts_of, write_evidence
from softmark.owner.evidence_page import evidence_page
from softmark.owner.explanations import GLOSSARY, TESTS
from softmark.owner.new_key import commit_key
from softmark.owner.pages import one_in
from softmark.owner.suspects.query import how_asked
from softmark.owner.verify import examine
from softmark.owner.watermarks import owner_config


def pictures():
    inputs, labels = owners.pictures()
    return inputs[owners.HELD], labels[owners.HELD]


@functools.cache
def key(*messages: str) -> softmark.Key:
    inputs, labels = pictures()
    config = owner_config("csp")
    return commit_key("csp", config, messages or ["licence 7"], 10, inputs, None, labels, None)


def answers(key: softmark.Key, message: str, lean: float) -> torch.Tensor:
    """The probabilities of a model whose tails lean to the key's pattern: nothing is trained."""
    generator = torch.Generator().manual_seed(0)
    top = key.labels
    pattern = CSP().pattern(key.pattern_key(message))
    logits = lean * pattern[top] + torch.randn(len(top), 10, generator=generator)
    return logits.scatter(1, top[:, None], 8.0).softmax(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    softmark.save((key(), pictures()[0]), folder / "m", owner="Anna & Co.", name="digits 1")
    for name, lean in (("claimed", 1.5), ("not", 0.0)):
        softmark.evidence(
            answers(key(), "licence 7", lean), key(), pictures()[0], folder / name,
            name="<b>example.com",
            commitment=folder / "m" / "softmark.commitment.json", labels=pictures()[1],
        )  # fmt: skip
    return folder


def text_of(page: str) -> str:
    page = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_a_judge_reads_who_what_and_how_sure(made):
    page = (made / "claimed/evidence.html").read_text()
    text, evidence = text_of(page), json.loads((made / "claimed/evidence.json").read_text())
    assert evidence["claimed"]
    chance = -int(f"{evidence['p']:e}".partition("e")[2]) - 1
    assert "as the owner claims : a model that knows nothing" in text.replace("claims:", "claims :")
    assert f"chance of 1 in 10 {chance} ; this is not the probability of innocence" in text
    for said in ("Anna &amp; Co., as they say", "digits 1", "by somebody else, whose answers",
                 key().commitment, key().statement.probes.sha256, "expected", "given"):  # fmt: skip
        assert said in text
    assert text.count("no. ") == 10
    assert page.count("data:image/png") >= 10
    for word in (*GLOSSARY, *{part["name"] for part in evidence["parts"]} & {"tails", "mistakes"}):
        assert word in text
    assert hashlib.sha256((made / "claimed/evidence.json").read_bytes()).hexdigest() in text
    assert "<b>example" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_what_is_not_proven_is_not_called_innocent(made):
    text = text_of((made / "not/evidence.html").read_text())
    assert "do not prove what the owner claims" in text
    assert "this does not show that the suspect is independent" in text


def test_a_suspect_of_another_task_gets_no_verdict_and_the_cause_is_said(tmp_path):
    other = answers(key(), "licence 7", 0.0).roll(7, 0)
    softmark.evidence(other, key(), pictures()[0], tmp_path, name="x")
    text = text_of((tmp_path / "evidence.html").read_text())
    assert "No verdict: nothing can be said of “x”" in text
    assert "It doesn't answer this task as asked" in text.replace("&#39;", "'")
    assert "it does the task of the marked model" not in text


def test_each_test_is_named_explained_and_gives_its_effect(made):
    evidence = json.loads((made / "claimed/evidence.json").read_text())
    assert len(evidence["parts"]) == evidence["tests"]
    names = {part["name"].removesuffix(", in reverse") for part in evidence["parts"]}
    assert names <= set(TESTS)
    strongest = min(evidence["parts"], key=lambda part: part["p"])
    assert strongest["p"] * evidence["tests"] == pytest.approx(evidence["p"], rel=1e-6, abs=0)
    assert strongest["agree"] / strongest["of"] > 0.9
    assert strongest["effect"] > 0.9


def test_several_customers_show_the_tests_of_the_likeliest():
    two = key("anna", "bert")
    found = examine(answers(two, "bert", 1.5), two, pictures()[0])
    assert found.verdict.identified == "bert"
    parts = dict(parts_of(found))
    assert parts["tails"].p_value() < 1e-15
    assert "of the copy of bert" in text_of(evidence_page(evidence_of(found, "x")))


def test_the_page_holds_no_secret(made):
    assert leaks(made, secrets_of(key())) == ["m/key.safetensors: secret"]


def test_evidence_is_refused_before_anybody_is_asked(made):
    def suspect(inputs):
        raise AssertionError

    with pytest.raises(InputError, match="lies there already"):
        softmark.evidence(suspect, key(), pictures()[0], made / "claimed")
    other = softmark.new_key("b", 10, pictures())
    published = softmark.publish(other, made / "other")
    with pytest.raises(InputError, match="isn't the key's"):
        softmark.evidence(suspect, key(), pictures()[0], made / "x", commitment=published)


def test_a_full_disk_is_found_before_anybody_is_asked_and_nothing_is_left(made, monkeypatch):
    def write(path, *_, **__):
        path.touch()
        raise OSError(28, "No space left on device")

    evidence = json.loads((made / "not" / "evidence.json").read_text())
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", write)
        with pytest.raises(InputError, match="No space left"):
            write_evidence(evidence, made / "full")
    assert not list((made / "full").iterdir())
    usage = types.SimpleNamespace(free=1000)
    monkeypatch.setattr("softmark.owner.evidence.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"the disk has 1,000 bytes, and 1,\d+,\d+ are needed"):
        softmark.evidence(lambda _: 1 / 0, key(), pictures()[0], made / "full")


def test_more_ranks_than_recheck_reads_are_refused_before_anybody_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("softmark.owner.evidence.MAX_RANKS", 1000)
    owner_key = key("licence 7")
    with pytest.raises(InputError, match=r"1,000 at most; .* verify without it"):
        softmark.evidence(lambda _: 1 / 0, owner_key, pictures()[0], tmp_path / "e")


def test_how_a_suspect_is_asked_is_said():
    endpoint = softmark.Endpoint("http://127.0.0.1", protocol="json")
    assert how_asked(endpoint) == "over HTTP (protocol json), 32 inputs a request"
    assert how_asked(len).startswith("as a function")


@pytest.mark.parametrize("p", [1.0, 0.7, 0.03, 1e-3, 9.9e-4, 1e-12, 4.2e-110, 1e-300])
def test_a_chance_in_words_is_never_smaller_than_it_is(p):
    words = re.fullmatch(r"1 in (?:10<sup>(\d+)</sup>|([\d.]+))", str(one_in(p)))
    told = 10.0 ** -int(words[1]) if words[1] else 1 / float(words[2])
    assert p <= told * (1 + 1e-9) or p > 0.1


@pytest.mark.skipif(not which("chromium"), reason="there is no chromium")
def test_it_prints_on_two_pages(made, tmp_path):
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer",
               f"--print-to-pdf={tmp_path}/page.pdf"]  # fmt: skip
    page = made / "claimed/evidence.html"
    subprocess.run([*command, f"file://{page}"], capture_output=True, timeout=60, check=True)
    assert len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes())) == 2
