"""One key, ready to be looked for in suspects: what stays the same for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.verification.evidence import Evidence
from softmark.verification.judge import Verifier
from softmark.verification.nulls import Null


class KeyVerifier:
    """Ask suspects for evidence of one key.

    Args:
        method: the watermark that embedded the key.
        verifier: the terms of a claim.
        key: the committed key.
        pool: the judge's probes, N of them, which no key has chosen.

    Attributes:
        probes: what a suspect is asked: ``pool``, or what the method makes of it and the key.
    """

    def __init__(self, method: Watermark, verifier: Verifier, key: Key, pool: Samples):
        self.method, self.verifier, self.key, self.pool = method, verifier, key, pool
        self.probes = method.probes(key, pool, None)

    def evidence(self, suspect: Suspect, count: int | None = None) -> Evidence:
        """Return what ``suspect`` shows of the key on the first ``count`` probes; None for all."""
        probes = self.probes
        if suspect.log is not None:
            probes = self.method.probes(self.key, self.pool, suspect.log)
        if count is not None:
            probes = suspect.first(probes, count)
        return self.verifier.ask(self.method, suspect, self.key, probes, self.pool)

    def messages(self, suspect: Suspect, names: Sequence[str] | None = None) -> dict[str, Null]:
        """Return the exact test of each of ``names``; None: of each registered message.

        There are none where nothing can be asked.
        """
        names = self.verifier.messages if names is None else names
        visible = self.verifier.admit(self.method, suspect, self.key, self.probes)
        if not names or isinstance(visible, Evidence):
            return {}
        return self.method.identify(visible, self.key, self.probes, names)

    def owner_test(self, suspect: Suspect) -> Null | None:
        """Return the exact test of what all customers' copies share; None for no such."""
        visible = self.verifier.admit(self.method, suspect, self.key, self.probes)
        if isinstance(visible, Evidence):
            return None
        return self.method.owner_test(visible, self.key, self.probes)
