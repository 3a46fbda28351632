"""What a suspect tells: probabilities, or less, and what can still be tested then."""

from __future__ import annotations

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.tails import rank_tail
from softmark.verification.evidence import SUMS, usable

DECIMALS = 5  # more digits than this hide nothing of a tail


def probabilities(answers: Tensor, logits: bool, where: str) -> Tensor:
    """``answers`` (N, K) as probabilities.

    ``logits``: they are logits or log-probabilities. Raises ``InputError`` where they look like
    those and nobody said so, or where they are probabilities after all.
    """
    answers = answers.float()
    finite = answers[answers.isfinite().all(1)]
    sums = finite.sum(1)
    inside = (sums >= SUMS[0]) & (sums <= SUMS[1]) & (finite >= 0).all(1)
    if logits and len(finite) and inside.float().mean() > 0.5:
        raise InputError(
            f"{where}: the rows sum to 1: they are probabilities; leave --logits (logits=True) out"
        )
    if logits:
        return answers.softmax(1)
    if len(finite) and (finite >= 0).all() and ((sums > 50) & (sums < 150)).all():
        raise InputError(f"{where}: the rows sum to about 100: they are percentages; divide by 100")
    if len(finite) and inside.float().mean() < 0.5:
        raise InputError(
            f"{where}: the rows sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}: they "
            "are logits or log-probabilities, and probabilities are needed; if so, say --logits "
            "(logits=True)"
        )
    return answers


def remarks(answers: Tensor, triggers: bool, checked: bool) -> list[str]:
    """What ``answers`` (N, K) lack, in sentences; none for whole probabilities.

    ``triggers``: whether there are some besides, which labels show. ``checked``: whether whoever
    verifies gave labels of their own.
    """
    clean, unusable = usable(answers)
    rows, classes = answers.shape
    said = []
    if unusable == rows:
        return said  # there is no verdict, and it says why
    if unusable:
        said.append(f"{unusable} of {rows} answers are no probabilities and count as none")
    entries = int((answers.nan_to_num(0) > 0).sum(1).max())
    if entries == 1:
        where = (
            "in the triggers, hardly in the other probes"
            if triggers
            else "only where they are others than the unmarked model's, so that many more probes "
            "are needed"
        )
        if not (triggers or checked):
            where += ", and whoever verifies must give the labels that they see in the probes"
        return [*said, f"the suspect tells labels alone: the mark can be seen {where}"]
    decimals = _decimals(answers)
    if decimals is not None:
        said.append(f"the suspect rounds to {decimals} decimals: entries that tie tell nothing")
    elif entries < classes:
        said.append(
            f"the suspect tells its {entries} likeliest of {classes} classes: the order of the "
            "others tells nothing"
        )
    if flat := int((rank_tail(clean)[0].norm(dim=1) == 0).sum()) - unusable:
        said.append(f"{flat} of {rows} answers have a flat tail and tell nothing")
    different = len(torch.unique(answers, dim=0))
    if decimals is None and different < rows / 2:
        said.append(f"only {different} of {rows} answers differ: was each probe asked?")
    return said


def _decimals(answers: Tensor) -> int | None:
    """To how many decimals all ``answers`` are rounded; None for more than ``DECIMALS``."""
    values = answers.double().nan_to_num(0)
    for decimals in range(1, DECIMALS + 1):
        scaled = values * 10**decimals
        # float32 keeps seven digits.
        if torch.allclose(scaled, scaled.round(), atol=1e-6 * 10**decimals, rtol=0):
            return decimals
    return None
