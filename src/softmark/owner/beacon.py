"""A public beacon: random numbers of a drand chain that nobody can know before their time.

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
    """A public source of randomness, which draws a key's pattern after its owner has committed.

    A claim with such a key needs p <= 1e-6 instead of 1e-12, if whoever verifies looks the round up
    and knows that the commitment was public before it.

    Args:
        url: of a drand server, such as https://api.drand.sh.
        chain: the hash of its chain, 64 hex digits; quicknet's by default.
        delay: seconds from the commitment to its round: within them it must become public.
        publish: is called with what to publish and the time of the round, when the delay begins.

    Example:
        >>> beacon = softmark.Beacon("https://api.drand.sh", delay=3600)
        >>> beacon.chain[:8]
        '52db9ba7'

        ``softmark.mark(..., beacon=beacon)`` waits for the round.
    """

    url: str
    chain: str = QUICKNET
    delay: float = 600.0
    publish: Callable[[Mapping[str, Any], datetime], None] = ask_to_publish

    def coming(self) -> Round:
        """Return the first round that comes after the delay. Raise ``InputError`` as ``value``."""
        if not 0 < self.delay < 10**9:
            raise InputError(f"delay={self.delay}: seconds above 0 are needed")
        info = self._info()
        seconds = time.time() + self.delay - info["genesis_time"]
        number = max(1, int(seconds // info["period"]) + 2)
        return Round(self.chain, info["genesis_time"], info["period"], number)

    def value(self, named_round: Round, wait: bool = False) -> bytes:
        """Return the 32 random bytes of a round.

        Args:
            named_round: the round, as a key's statement names it.
            wait: until the round has come.

        Raises:
            InputError: where the server gives another chain, another round, or bytes that don't
                fit its signature, and for a round that hasn't come.
        """
        info = self._info()
        if (named_round.chain, named_round.genesis, named_round.period) != (
            self.chain, info["genesis_time"], info["period"],
        ):  # fmt: skip
            raise InputError(
                f"the key names the chain {named_round.chain[:16]}..., begun "
                f"{named_round.genesis}, a round every {named_round.period} s: {self.url} serves "
                "another"
            )
        if wait:
            time.sleep(max(0.0, named_round.time - time.time()))
        if time.time() < named_round.time:
            raise InputError(f"round {named_round.round} of the beacon hasn't come yet")
        reply = self._get(f"public/{named_round.round}")
        try:
            value, signature = (bytes.fromhex(reply[name]) for name in ("randomness", "signature"))
            valid = hashlib.sha256(signature).digest() == value
            valid = valid and reply["round"] == named_round.round
        except (KeyError, TypeError, ValueError):
            valid = False
        if not valid:
            raise InputError(f"{self.url}: no round {named_round.round}: {short(reply)}")
        return value

    def _info(self) -> dict[str, Any]:
        """Return the server's description of the chain, once it is what it must be."""
        info = self._get("info")
        valid = isinstance(info, dict) and info.get("hash") == self.chain
        for name in ("genesis_time", "period"):
            valid = valid and type(info.get(name)) is int and 0 < info[name] < 10**11
        if not valid:
            raise InputError(f"{self.url}: it doesn't serve the chain {self.chain[:16]}...")
        return info

    def _get(self, path: str) -> Any:
        client = HttpClient({}, rate=None, budget=None, timeout=30.0, retries=4)
        return client.send("GET", f"{checked_url(self.url).rstrip('/')}/{self.chain}/{path}")


def check_round(
    named_round: Round, randomness: bytes, beacon: Beacon, published: str | datetime
) -> None:
    """Raise ``InputError`` where the round isn't what a key says, or came before ``published``.

    Args:
        named_round: the round in the key's statement.
        randomness: the key's, 32 bytes.
        beacon: where to look the round up.
        published: when the commitment became public, as its public record says; a text is in
            ISO 8601. It needs a time zone.
    """
    try:
        commitment_time = published
        if isinstance(published, str):
            commitment_time = datetime.fromisoformat(published)
    except ValueError as error:
        raise InputError(
            f"published={published}: a time such as 2026-12-01T10:00Z is needed"
        ) from error
    if commitment_time.tzinfo is None:
        raise InputError(f"published={published}: it needs a time zone, such as Z or +01:00")
    round_time = datetime.fromtimestamp(named_round.time, UTC)
    if commitment_time >= round_time:
        raise InputError(
            f"the commitment was published {commitment_time.isoformat()}, and its beacon's round "
            f"came {round_time.isoformat()}: the numbers were known before, and no verdict can "
            "stand on them"
        )
    if beacon.value(named_round) != randomness:
        raise InputError(
            f"round {named_round.round} of the beacon has other numbers than the key: no verdict "
            "can stand on it"
        )
