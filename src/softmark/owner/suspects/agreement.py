"""Whether a suspect answers the task as asked, and what went wrong where it doesn't."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from softmark.owner.suspects.diagnose import count_different
from softmark.tails import is_clear

# Measured (docs/suspects.md): independent models agree with a kappa (Cohen 1960) of .19 at least,
# and on .44 as many probes as they are sure of; what answers nothing of the task reaches .13, and
# .40 where its kappa is below .03.
MIN_KAPPA = 0.15
MIN_OF_CONFIDENCE = 0.4
# Below which it is said, whatever the verdict: models of 4,000 pictures and more have .76.
LOW_OF_CONFIDENCE = 0.7
# What another order of the columns must agree on, and by how much more than the given one.
MIN_OF_COLUMNS, MORE_OF_COLUMNS = 0.5, 0.3
CERTAIN = 1 - 1e-6  # confidence from which float32 hardly holds a tail
PROBES_PER_CLASS = 5  # fewer fit any order of the columns


@dataclass(frozen=True)
class Agreement:
    """How often a suspect answers the probes as the unmarked model did.

    Args:
        share: of the probes.
        by_chance: the share expected of answers as frequent that don't depend on the probes.
        confidence: the mean probability of its likeliest class; None of labels alone.

    Example:
        >>> Agreement(share=0.96, by_chance=0.1, confidence=0.97).answers_task
        True
        >>> Agreement(share=0.12, by_chance=0.1, confidence=0.97).answers_task
        False
    """

    share: float
    by_chance: float
    confidence: float | None

    @property
    def answers_task(self) -> bool:
        """Whether any model that learnt the task independently would agree no less."""
        kappa = (self.share - self.by_chance) / max(1 - self.by_chance, 1e-9)
        return kappa >= MIN_KAPPA and self.share >= MIN_OF_CONFIDENCE * (self.confidence or 0)

    @property
    def is_low(self) -> bool:
        """Whether the suspect is surer of its answers than such agreement lets expect."""
        return self.share < LOW_OF_CONFIDENCE * (self.confidence or 0)


def agreement_of(probs: Tensor, labels: Tensor | None) -> Agreement | None:
    """Return how the answers ``probs`` (N, K) agree with the unmarked model's ``labels`` (N,).

    None without labels. An answer without a single likeliest class agrees with none.

    Example:
        >>> agreement_of(torch.eye(10), torch.arange(10)).share
        1.0
    """
    if labels is None or not len(probs):
        return None
    clear, top = is_clear(probs), probs.argmax(1)  # (N,)
    classes = probs.shape[1]
    given, expected = (rows.bincount(minlength=classes) for rows in (top[clear], labels))  # (K,)
    share = float((clear & (top == labels)).float().mean())
    by_chance = float((given.double() * expected).sum()) / len(labels) ** 2
    confidence = float(probs[clear].amax(1).mean()) if clear.any() else 0.0
    return Agreement(share, by_chance, confidence if confidence < 1 else None)


def disagreement(agreement: Agreement, probs: Tensor, labels: Tensor, scaled: bool) -> str:
    """Return how rarely a suspect agrees with the unmarked model, and the likeliest cause.

    Args:
        agreement: of ``probs`` and ``labels``.
        probs: its answers, (N, K).
        labels: the unmarked model's, (N,).
        scaled: the probes are uint8 pictures that reached the suspect as floats in [0, 1].
    """
    return (
        f"it agrees with the unmarked model on {100 * agreement.share:.3g} % of {len(labels)} "
        f"probes, where chance alone gives {100 * agreement.by_chance:.3g} %: "
        f"{likely_cause(probs, labels, scaled)}"
    )


def likely_cause(probs: Tensor, labels: Tensor, scaled: bool) -> str:
    """Return why the answers ``probs`` (N, K) hardly agree with ``labels`` (N,), in words."""
    top = probs.argmax(1)  # (N,)
    num_kinds, commonest = count_different(probs), int(top.bincount().max())
    is_sorted = (probs[:, 1:] <= probs[:, :-1]).all(1).float().mean() > 0.99
    if is_sorted and num_kinds > len(probs) / 2:
        return "each answer is sorted by score, and a column for each class in order is needed"
    if commonest > 0.95 * len(top):
        were_read = f" If so, {_other_range(scaled)}" if num_kinds > len(probs) / 2 else ""
        name = int(top.mode().values)
        return f"it answers class {name} nearly always: were the probes read?{were_read}"
    if order := other_columns(probs, labels):
        return order
    if is_certain(probs):
        return _other_range(scaled)
    given, expected = (rows.bincount(minlength=probs.shape[1]) for rows in (top, labels))
    spread = (given - expected).abs().sum() / (2 * len(labels))
    if spread < 0.1 and len(expected.nonzero()) > 1:
        return (
            "it gives each class as often as expected, but to other probes: rows in another "
            "order, or a model of another task"
        )
    return f"a model of another task, other probes, or {_other_range(scaled)}"


def is_certain(probs: Tensor) -> bool:
    """Whether most answers (N, K) are certain to the last digit, so that no tail is left."""
    are_certain = (probs.amax(1) >= CERTAIN) & ((probs > 0).sum(1) > 1)  # (N,), and no labels
    return bool(are_certain.float().mean() > 0.5)


def _other_range(scaled: bool) -> str:
    if scaled:
        return (
            "inputs in another range than its own (it was given floats from 0 to 1; raw=True gives "
            "a function bytes, and --encoding bytes a server)"
        )
    return "inputs in another range than its own (0 to 1 for 0 to 255, or not normalised)"


def other_columns(probs: Tensor, labels: Tensor) -> str:
    """Return which other order of the columns (N, K) agrees with ``labels``; "" where none does."""
    top, classes = probs.argmax(1), probs.shape[1]
    needed = max(MIN_OF_COLUMNS, float((top == labels).float().mean()) + MORE_OF_COLUMNS)
    numbers = np.arange(classes)
    named = {
        "the names of the classes sorted as text (0, 1, 10, 11, 2)": sorted(numbers, key=str),
        "the names of the classes from 1 on sorted as text (1, 10, 11, 2)": np.array(
            sorted(numbers + 1, key=str)
        )
        - 1,
        "each class stands one column further on": np.roll(numbers, 1),
        "each class stands one column earlier": np.roll(numbers, -1),
    }
    # The best of them: of ten classes that are moved by one, eight are where text order has them.
    agreed = {
        name: float((torch.from_numpy(np.asarray(order))[top] == labels).float().mean())
        for name, order in named.items()
    }
    if agreed[best := max(agreed, key=agreed.get)] >= needed:
        return f"its columns are in another order: {best}"
    if len(top) < PROBES_PER_CLASS * classes:
        return ""
    counts = (labels * classes + top).bincount(minlength=classes**2).reshape(classes, classes)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    if counts[rows, columns].sum() >= needed * len(top):
        return (
            "its columns are in another order of the classes: name them, or bring them into the "
            "order of the labels that the model was trained with"
        )
    return ""
