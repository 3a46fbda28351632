"""A page that says what was marked, by whom, and what was published of it; nothing is secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softmark.owner.commitment import fingerprint
from softmark.owner.pages import render
from softmark.verification.verdict import Verdict

CERTIFICATE = "certificate.html"


def certificate_page(published: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """Return the certificate of a marking, as HTML that loads nothing.

    Args:
        published: what ``commitment.publication`` returned.
        verdicts: on each marked model, in the order of its file; none where none is trained yet.

    Example:
        >>> from softmark.owner.commitment import publication
        >>> published = publication(marked.key.statement, owner="Anna Ltd.")
        >>> "Anna Ltd." in certificate_page(published, [marked.verdict])
        True
    """
    found = [verdict.p_value for verdict in verdicts]
    return render(
        "certificate.html",
        published=published,
        statement=published["statement"],
        models=list(published["models"].items()),
        fingerprint=fingerprint(published),
        claimed=bool(verdicts) and all(verdict.claimed for verdict in verdicts),
        p=None if not found or None in found else max(found),
    )
