"""What is left of a method's marks after an attack, and which attacks count in a tally.

"Survived n of N" counts the attacks that leave a suspect worth stealing and that could hurt a mark.
Listed apart are suspects more than 5 points below the watermarked model (nobody would want them),
and maps that keep the order of every answer (no mark that lies in an order can feel them).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from softmark.report.columns import MAX_LOSS, mean_loss
from softmark.report.price import attack_name, outcome
from softmark.report.rows import Row

# Attacks after which every answer has its classes in the order in which the stolen model has them.
ORDER_KEEPING = frozenset({"serve_temperature"})


@dataclass(frozen=True)
class Outcome:
    """What is left of one method's marks after one attack.

    Attributes:
        method: The method's name.
        attack: The attack's name, with the settings in which rows differ.
        claimed: Whether each key is claimed at the level of its test.
        p_values: Of each key; None where nothing could be tested.
        loss: Points of accuracy, of 1, that the suspects lost: the mean over the keys.
        apart: Why the attack isn't counted: ``useless``, ``harmless``, or nothing.
    """

    method: str
    attack: str
    claimed: tuple[bool, ...]
    p_values: tuple[float | None, ...]
    loss: float
    apart: str

    @property
    def family(self) -> str:
        """Return the family of the attack: its name up to the first underscore."""
        return family(self.attack)

    def kept(self, level: float | None = None) -> float:
        """Return the share of keys that are claimed, at ``level`` or at that of each test."""
        return statistics.fmean(self._claims(level))

    def survived(self, level: float | None = None) -> bool:
        """Return whether every key is claimed, at ``level`` or at that of each test."""
        return all(self._claims(level))

    def _claims(self, level: float | None) -> Sequence[bool]:
        if level is None:
            return self.claimed
        return [p is not None and p <= level for p in self.p_values]


def family(attack: str) -> str:
    """Return the family of ``attack``.

    Example:
        >>> family("prune_finetune"), family("distill")
        ('prune', 'distill')
    """
    return attack.split()[0].partition("_")[0]


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return the outcome of each row that is an attack on a method with keys."""
    return [outcome_of(row) for row in rows if is_attack(row)]


def is_attack(row: Row) -> bool:
    """Return whether an attack was made on marks: an innocent suspect or a forged key is none."""
    return any(map(outcome, row.finished))


def outcome_of(row: Row) -> Outcome:
    """Return the outcome of a row with finished records."""
    records = row.finished
    return Outcome(
        records[0]["method"],
        attack_name(row),
        tuple(record["claimed"] for record in records),
        tuple(record["p_value"] for record in records),
        mean_loss(records),
        apart(row),
    )


def apart(row: Row) -> str:
    """Return why the attack of ``row`` isn't counted: useless, harmless; empty where it counts."""
    if mean_loss(row.finished) > MAX_LOSS:
        return "useless"
    return "harmless" if row.finished[0]["attack"] in ORDER_KEEPING else ""
