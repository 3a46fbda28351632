"""A public beacon: random numbers that nobody can know before their time, of a drand chain.

The commitment names a round that is still to come, and that round's numbers go into the pattern. So
an owner can't choose among keys after the fact. See drand's HTTP API: /CHAIN/info and
/CHAIN/public/ROUND.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from softmark.console import report
from softmark.errors import InputError
from softmark.owner.statement import Round, short
from softmark.owner.suspects.http import HttpClient, checked_url

# "quicknet" of the League of Entropy: a round every three seconds.
QUICKNET = "52db9ba70e0cc0f6eaf7803dd07447a1f5477735fd3f661792ba94600c84e971"


def ask_to_publish(publication: Mapping[str, Any], until: datetime) -> None:
    """Say at the terminal what must be public before the round comes."""
    report(
        f"publish now, before {until.isoformat(timespec='seconds')}: commitment "
        f"{publication['commitment']}"
    )


@dataclass(frozen=True)
class Beacon:
    """``url``: of a drand server. ``chain``: the hash of its chain.

    ``delay``: seconds from a commitment to its round; within them it must become public.
    ``publish``: is given what to publish and the time of the round, when the delay begins.
    """

    url: str
    chain: str = QUICKNET
    delay: float = 600.0
    publish: Callable[[Mapping[str, Any], datetime], None] = ask_to_publish

    def coming(self) -> Round:
        """The first round that comes after the delay. Raises ``InputError`` as ``value``."""
        if not 0 < self.delay < 10**9:
            raise InputError(f"delay={self.delay}: seconds above 0 are needed")
        info = self._info()
        after = time.time() + self.delay - info["genesis_time"]
        number = max(1, int(after // info["period"]) + 2)
        return Round(self.chain, info["genesis_time"], info["period"], number)

    def value(self, wanted: Round, wait: bool = False) -> bytes:
        """The 32 random bytes of a round. ``wait``: until it has come.

        Raises ``InputError`` where the server gives another chain, another round, or bytes that
        don't fit its signature, and for a round that hasn't come.
        """
        info = self._info()
        if (wanted.chain, wanted.genesis, wanted.period) != (
            self.chain, info["genesis_time"], info["period"],
        ):  # fmt: skip
            raise InputError(
                f"the key names the chain {wanted.chain[:16]}..., begun {wanted.genesis}, a round "
                f"every {wanted.period} s: {self.url} serves another"
            )
        if wait:
            time.sleep(max(0.0, wanted.time - time.time()))
        if time.time() < wanted.time:
            raise InputError(f"round {wanted.round} of the beacon hasn't come yet")
        made = self._get(f"public/{wanted.round}")
        try:
            value, signature = (bytes.fromhex(made[name]) for name in ("randomness", "signature"))
            good = made["round"] == wanted.round and hashlib.sha256(signature).digest() == value
        except (KeyError, TypeError, ValueError):
            good = False
        if not good:
            raise InputError(f"{self.url}: no round {wanted.round}: {short(made)}")
        return value

    def _info(self) -> dict[str, Any]:
        info = self._get("info")
        good = isinstance(info, dict) and info.get("hash") == self.chain
        for name in ("genesis_time", "period"):
            good = good and type(info.get(name)) is int and 0 < info[name] < 10**11
        if not good:
            raise InputError(f"{self.url}: it doesn't serve the chain {self.chain[:16]}...")
        return info

    def _get(self, path: str) -> Any:
        client = HttpClient({}, rate=None, budget=None, timeout=30.0, retries=4)
        return client.send("GET", f"{checked_url(self.url).rstrip('/')}/{self.chain}/{path}")


def check_round(
    wanted: Round, randomness: bytes, beacon: Beacon, published: str | datetime
) -> None:
    """Raise ``InputError`` where the round isn't what a key says, or came before ``published``.

    ``published``: when the commitment was public, as its public record says; text in ISO 8601.
    """
    try:
        when = datetime.fromisoformat(published) if isinstance(published, str) else published
    except ValueError as error:
        raise InputError(f"published={published}: a time such as 2026-12-01T10:00Z") from error
    if when.tzinfo is None:
        raise InputError(f"published={published}: it needs a time zone, such as Z or +01:00")
    came = datetime.fromtimestamp(wanted.time, UTC)
    if when >= came:
        raise InputError(
            f"the commitment was published {when.isoformat()}, and its beacon's round came "
            f"{came.isoformat()}: the numbers were known before, and no verdict can stand on them"
        )
    if beacon.value(wanted) != randomness:
        raise InputError(
            f"round {wanted.round} of the beacon has other numbers than the key: no verdict can "
            "stand on it"
        )
