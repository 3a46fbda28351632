"""A public beacon: its round is named before it comes, and looked up by whoever verifies."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

import softmark
from helpers import owners
from helpers.scripts import run_script
from softmark import InputError
from softmark.owner.statement import Round
from softmark.owner.verify import LEVEL, LEVEL_WITH_BEACON
from softmark.owner.watermarks import owner_config, watermark_of_config

CHAIN = hashlib.sha256(b"a chain of these tests").hexdigest()
OTHER = "0" * 64


class Drand(BaseHTTPRequestHandler):
    """A local server that answers as drand's HTTP API does: /CHAIN/info, /CHAIN/public/ROUND."""

    genesis, period, spoiled = int(time.time()) - 3600, 1, ""

    def do_GET(self) -> None:
        chain, _, rest = self.path.strip("/").partition("/")
        made = None
        if chain == CHAIN and rest == "info":
            made = {
                "public_key": "83cf", "period": self.period, "genesis_time": self.genesis,
                "hash": CHAIN, "groupHash": "f477", "schemeID": "bls-unchained-g1-rfc9380",
            }  # fmt: skip
        elif chain == CHAIN and rest.startswith("public/"):
            made = self.round(int(rest.removeprefix("public/")))
        body = json.dumps(made or {"error": "not found"}).encode()
        self.send_response(404 if made is None else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def round(self, number: int) -> dict | None:
        if self.genesis + (number - 1) * self.period > time.time():
            return None
        made = signed(number)
        if self.spoiled == "randomness":
            made["randomness"] = OTHER
        if self.spoiled == "round":
            made["round"] += 1
        if self.spoiled == "signature":
            del made["signature"]
        return made

    def log_message(self, *_) -> None:
        pass


def signed(number: int) -> dict:
    signature = hashlib.sha512(f"round {number}".encode()).digest()
    randomness = hashlib.sha256(signature).hexdigest()
    return {"round": number, "randomness": randomness, "signature": signature.hex()}


@contextlib.contextmanager
def served(**changed) -> Iterator[str]:
    kind = type("Changed", (Drand,), changed)
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as address:
        yield address


def soon(url: str, seen: list | None = None) -> softmark.Beacon:
    publish = lambda made, until: (seen if seen is not None else []).append((made, until))  # noqa: E731
    return softmark.Beacon(url, CHAIN, 0.1, publish)


@functools.cache
def new_key() -> tuple[softmark.Key, datetime]:
    """A key whose round has come, and when it was committed to."""
    now = datetime.now(UTC)
    with served() as address:
        return softmark.new_key("a", 10, owners.probes(), beacon=soon(address)), now


def marked_answers(key: softmark.Key, lean: float) -> torch.Tensor:
    pattern = watermark_of_config(owner_config("csp")).pattern(key.pattern_key("a"))
    top = torch.arange(500) % 10
    logits = lean * pattern[top] + torch.randn(500, 10, generator=torch.manual_seed(0))
    return logits.scatter(1, top[:, None], 9.0).softmax(1)


def test_the_round_is_named_before_it_comes_and_its_numbers_go_into_the_pattern(url):
    seen = []
    before = time.time()
    key = softmark.new_key("a", 10, owners.probes(), beacon=soon(url, seen))
    wanted = key.statement.beacon
    ((made, until),) = seen
    assert made["commitment"] == key.commitment
    assert made["statement"]["beacon"]["round"] == wanted.round
    assert before < until.timestamp() == wanted.time <= time.time()
    assert key.randomness.hex() == signed(wanted.round)["randomness"]
    pattern = watermark_of_config(owner_config("csp")).pattern
    other = replace(key, randomness=bytes(32))
    assert not torch.equal(pattern(key.pattern_key("a")), pattern(other.pattern_key("a")))


def test_a_key_whose_round_has_not_come_has_no_pattern():
    key = replace(new_key()[0], randomness=b"")
    with pytest.raises(InputError, match="beacon round hasn't been taken"):
        softmark.verify(owners.innocent(), key, owners.probes())


def test_the_level_is_that_of_a_judge_who_draws_where_the_round_is_looked_up(url):
    key, when = new_key()
    # Enough for one level and not for the other.
    answers = next(
        each for each in (marked_answers(key, lean) for lean in np.arange(0.02, 1, 0.005))
        if softmark.verify(each, key, owners.probes()).p_value < 1e-7
    )  # fmt: skip
    alone = softmark.verify(answers, key, owners.probes())
    assert (alone.claimed, alone.levels["signs"]) == (False, LEVEL)
    assert "nobody looked up" in alone.grounds
    beacon = softmark.Beacon(url, CHAIN)
    for published in (when, when.isoformat(), (when - timedelta(days=9)).isoformat()):
        seen = softmark.verify(answers, key, owners.probes(), beacon=beacon, published=published)
        assert (seen.claimed, seen.levels["signs"]) == (True, LEVEL_WITH_BEACON)
        assert seen.p_value == alone.p_value
        assert f"round {key.statement.beacon.round}" in seen.grounds
        assert "each further commitment" in seen.grounds


def test_a_commitment_that_was_public_only_after_the_round_is_refused(url):
    key, _ = new_key()
    beacon, came = (
        softmark.Beacon(url, CHAIN),
        datetime.fromtimestamp(key.statement.beacon.time, UTC),
    )
    for published in (came, came + timedelta(days=1)):
        with pytest.raises(InputError, match="the numbers were known before"):
            softmark.verify(
                owners.innocent(), key, owners.probes(), beacon=beacon, published=published
            )


def test_numbers_of_another_round_are_refused(url):
    """A forger who waits for a round that suits, or makes the numbers up."""
    key, when = new_key()
    beacon = softmark.Beacon(url, CHAIN)
    for forged in (replace(key, randomness=bytes(32)), later(key, 1), later(key, -1)):
        with pytest.raises(InputError, match="has other numbers than the key"):
            softmark.verify(
                owners.innocent(), forged, owners.probes(), beacon=beacon, published=when
            )


def later(key: softmark.Key, rounds: int) -> softmark.Key:
    number = key.statement.beacon.round + rounds
    return replace(key, randomness=bytes.fromhex(signed(number)["randomness"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"spoiled": "randomness"}, "no round"),
        ({"spoiled": "round"}, "no round"),
        ({"spoiled": "signature"}, "no round"),
        ({"genesis": 5}, "serves another"),
        ({"period": 2}, "serves another"),
        ({"period": 0}, "doesn't serve the chain"),
        ({"period": True}, "doesn't serve the chain"),
    ],
    ids=str,
)
def test_a_server_that_lies_is_refused(changed, message):
    key, when = new_key()
    with served(**changed) as address, pytest.raises(InputError, match=message):
        softmark.verify(
            owners.innocent(), key, owners.probes(), beacon=softmark.Beacon(address, CHAIN),
            published=when,
        )  # fmt: skip


def test_what_is_missing_or_wrong_is_named(url):
    key, when = new_key()
    beacon = softmark.Beacon(url, CHAIN)
    plain = softmark.new_key("a", 10, owners.probes())
    for given, told, message in (
        (key, {"beacon": beacon}, "either needs the other"),
        (key, {"published": when}, "either needs the other"),
        (plain, {"beacon": beacon, "published": when}, "names no beacon's round"),
        (key, {"beacon": beacon, "published": "yesterday"}, "published=yesterday"),
        (key, {"beacon": beacon, "published": "2026-01-01"}, "needs a time zone"),
        (key, {"beacon": softmark.Beacon(url, OTHER), "published": when}, "answers 404"),
    ):
        with pytest.raises(InputError, match=message):
            softmark.verify(owners.innocent(), given, owners.probes(), **told)
    with pytest.raises(InputError, match="delay=0"):
        softmark.Beacon(url, CHAIN, 0).coming()
    future = Round(CHAIN, Drand.genesis, 1, 10**9)
    with pytest.raises(InputError, match="hasn't come yet"):
        beacon.value(future)


def test_a_level_between_both_is_stricter_with_a_beacon_alone(url):
    key = softmark.new_key("a", 10, owners.probes(), ["verifier.level=1e-9"], beacon=soon(url))
    assert softmark.verify(owners.innocent(), key, owners.probes()).levels["signs"] == LEVEL
    told = {"beacon": softmark.Beacon(url, CHAIN), "published": "2020-01-01T00:00Z"}
    verdict = softmark.verify(owners.innocent(), key, owners.probes(), **told)
    assert verdict.levels["signs"] == 1e-9
    with pytest.raises(InputError, match="level=1e-09: softmark's own is 1e-12"):
        softmark.new_key("a", 10, owners.probes(), ["verifier.level=1e-9"])


def test_scripts_wait_for_the_round_and_look_it_up(url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = functools.partial(run_script, monkeypatch, capsys)
    Path("seen_by_a_beacon.py").write_text(
        "from torch import nn\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))\n"
    )
    before = datetime.now(UTC).isoformat()
    ran = call(
        "mark", "seen_by_a_beacon:build", "--message", "a", "--to", "marked", "recipe.epochs=20",
        "method.marking.beta=1", "--beacon", url, "--chain", CHAIN, "--delay", 1,
    )  # fmt: skip
    assert (ran.code, "publish now, before" in ran.err) == (0, True), ran.err
    model = ("seen_by_a_beacon:build", "--weights", "marked/model.safetensors")
    ran = call("verify", "marked", *model)
    assert (ran.code, "needs 1e-12" in ran.out, "nobody looked up" in ran.out) == (0, True, True)
    looked_up = ("--beacon", url, "--published", before)
    ran = call("verify", "marked", *model, *looked_up)
    assert (ran.code, "answers 404" in ran.err) == (2, True)  # a chain that nobody said they trust
    looked_up = (*looked_up, "--chain", CHAIN)
    ran = call("verify", "marked", *model, *looked_up, "--to", "e", "--disclose")
    assert (ran.code, "needs 1e-06" in ran.out) == (0, True)
    key, _ = softmark.load("marked")
    wanted = key.statement.beacon
    info = {"hash": CHAIN, "genesis_time": wanted.genesis, "period": wanted.period}
    Path("info.json").write_text(json.dumps(info))
    Path("round.json").write_text(json.dumps(signed(wanted.round)))
    files = ("e/evidence.json", "marked/softmark.commitment.json", "marked/probes.npz")
    ran = call("recheck", *files)
    assert (ran.code, "needs 1e-12" in ran.out, "not looked up" in ran.out) == (0, True, True)
    given = ("--round", "round.json", "--info", "info.json", "--published")
    ran = call("recheck", *files, *given, before)
    assert (ran.code, "the key names the chain" in ran.err) == (3, True)
    given = ("--chain", CHAIN, *given)
    ran = call("recheck", *files, *given, before)
    assert (ran.code, "needs 1e-06" in ran.out) == (0, True)
    ran = call("recheck", *files, *given, datetime.now(UTC).isoformat())
    assert (ran.code, "came before the commitment was public" in ran.err) == (3, True)
    Path("round.json").write_text(json.dumps(signed(wanted.round + 1)))
    ran = call("recheck", *files, *given, before)
    assert (ran.code, "of another chain, or another one" in ran.err) == (3, True)
    for forged in (
        {**signed(wanted.round + 1), "round": wanted.round},
        {**signed(wanted.round), "signature": "00"},
    ):
        Path("round.json").write_text(json.dumps(forged))
        ran = call("recheck", *files, *given, before)
        assert (ran.code, "the round has other numbers" in ran.err) == (3, True)
    ran = call("recheck", *files, *given[:4], "--published", before)
    assert (ran.code, "each needs the others" in ran.err) == (2, True)


def test_a_folder_with_its_commitment_alone_takes_the_key_later(url, tmp_path):
    """mark.py writes it before the round; save() must not lose or refuse it."""
    from softmark.owner.commitment import publish

    key, _ = new_key()
    publish(key, tmp_path / "m")
    published = (tmp_path / "m/softmark.commitment.json").read_bytes()
    softmark.save((key, owners.probes()), tmp_path / "m")
    assert (tmp_path / "m/softmark.commitment.json").read_bytes() == published
    assert softmark.load(tmp_path / "m")[0].randomness == key.randomness
    other = softmark.new_key("b", 10, owners.probes())
    publish(other, tmp_path / "n")
    with pytest.raises(InputError, match="isn't the key's"):
        softmark.save((key, owners.probes()), tmp_path / "n")
