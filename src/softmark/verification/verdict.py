"""What a judge says of a suspect, and what is known of an innocent."""

from __future__ import annotations

from dataclasses import dataclass, field

from softmark.verification.evidence import Evidence


@dataclass(frozen=True)
class Innocent:
    """Hold the evidence of an independent model."""

    kind: str
    """Which kind of model it is, such as plain or distilled."""
    evidence: Evidence
    """Of the same key and probes as the suspect's."""


@dataclass(frozen=True)
class Identification:
    """Say which registered message a suspect carries."""

    name: str | None
    """The message, or None where none is proven."""
    p_value: float
    """Of the likeliest message, corrected for the number of messages."""
    p_values: dict[str, float]
    """Of each message, corrected as well."""


@dataclass(frozen=True)
class Verdict:
    """Say whether a suspect is claimed, and on which evidence.

    Example:
        >>> verdict = softmark.verify(marked.model, marked.key, marked.probes)
        >>> verdict.claimed, verdict.null, verdict.levels
        (True, 'signs', {'signs': 1e-12})
        >>> verdict.outcome, verdict.agreement > 0.9
        ('claimed', True)
    """

    score: float | None
    """Of the first test, larger for more evidence."""
    p_value: float | None
    """The weakest test's, since all must reach their level for a claim; None without any test."""
    null: str | None
    """The names of the tests, joined by a plus."""
    claimed: bool
    """Whether every test reaches its level."""
    tests: dict[str, float] = field(default_factory=dict)
    """The p-value of each test, corrected for the number of keys that were tried."""
    watermark_accuracy: float | None = None
    """How often a decision on one probe is right, between watermarked and innocent models."""
    watermark_accuracy_of_10: float | None = None
    """The same for decisions on ten probes."""
    mark_recall: float | None = None
    """The part of a trigger set or of a message that was read."""
    unusable: int = 0
    """How many answers were no probabilities."""
    false_claims: int = 0
    """Evaluation innocents that are claimed."""
    innocents: int = 0
    """Evaluation innocents that could be asked."""
    skipped: int = 0
    """Innocents of both pools that this method can't ask."""
    false_claims_upper: float | None = None
    """A bound of the rate of false claims, at 95 % confidence."""
    by_kind: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Of each kind of evaluation innocent: number, part of probes that is flagged, and claims."""
    levels: dict[str, float] = field(default_factory=dict)
    """The p-value that each test must reach."""
    identified: str | None = None
    """The registered customer whom the mark names."""
    customer_p_value: float | None = None
    """Of the likeliest customer's part of the pattern alone, corrected for all customers."""
    why: str = ""
    """Why there is no test, or what limits those that there are."""
    grounds: str = ""
    """What keeps an owner from drawing keys until one fits, where the judge didn't draw them."""
    agreement: float | None = None
    """The part of an owner's probes that is answered as the unmarked model did; None if unknown."""

    @property
    def outcome(self) -> str:
        """Claimed, not claimed, or no verdict, where nothing could be tested."""
        if self.p_value is None:
            return "no verdict"
        return "claimed" if self.claimed else "not claimed"
