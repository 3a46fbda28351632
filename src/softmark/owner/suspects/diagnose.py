"""What a suspect's answers are: probabilities, logits, labels, rounded or cut short."""

from __future__ import annotations

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.verification.evidence import SUMS, usable

MAX_DECIMALS = 5  # more digits than this hide nothing of a tail


def as_probabilities(answers: Tensor, logits: bool) -> Tensor:
    """Return ``answers`` as float32 probabilities; rows that are none stay as they are.

    Args:
        answers: (N, K), of any type of number.
        logits: they are logits or log-probabilities.

    Raises:
        InputError: where most rows aren't probabilities and ``logits`` is false, or where they are
            and ``logits`` is true.
    """
    answers = answers.float()
    finite = answers[answers.isfinite().all(1)]
    sums = finite.sum(1)  # (N,)
    normalised = (sums >= SUMS[0]) & (sums <= SUMS[1]) & (finite >= 0).all(1)
    if logits and len(finite) and normalised.float().mean() > 0.5:
        raise InputError(
            "suspect: the rows sum to 1: they are probabilities; leave --logits (logits=True) out"
        )
    if logits:
        return answers.softmax(1)
    if len(finite) and (finite >= 0).all() and ((sums > 50) & (sums < 150)).all():
        raise InputError("suspect: the rows sum to about 100: they are percentages; divide by 100")
    if len(finite) and normalised.float().mean() < 0.5:
        raise InputError(
            f"suspect: the rows sum to {float(sums.min()):.3g} to {float(sums.max()):.3g}: they "
            "are logits or log-probabilities, and probabilities are needed; if so, say --logits "
            "(logits=True)"
        )
    return answers


def remarks_on(answers: Tensor, has_triggers: bool, labels_checked: bool) -> list[str]:
    """Return what ``answers`` (N, K) lack, in sentences; none for full probabilities.

    ``has_triggers``: the key has triggers besides, which answers of labels alone show.
    ``labels_checked``: whoever verifies gave labels of their own.
    """
    probs, num_unusable = usable(answers)
    rows, classes = answers.shape
    if num_unusable == rows:
        return []  # there is no verdict, and it says why
    remarks = []
    if num_unusable:
        remarks.append(f"{num_unusable} of {rows} answers are no probabilities and count as none")
    num_entries = int((answers.nan_to_num(0) > 0).sum(1).max())
    if num_entries == 1:
        return [*remarks, _labels_alone(has_triggers, labels_checked)]
    decimals = _decimals(answers)
    if decimals is not None:
        remarks.append(f"the suspect rounds to {decimals} decimals: entries that tie show nothing")
    elif num_entries < classes:
        remarks.append(
            f"the suspect gives only its {num_entries} likeliest of {classes} classes: the order "
            "of the others shows nothing"
        )
    num_flat = int(_is_flat(probs).sum()) - num_unusable
    if num_flat:
        remarks.append(f"{num_flat} of {rows} answers have a flat tail and show nothing")
    num_different = count_different(answers)
    if decimals is None and num_different < rows / 2:
        remarks.append(f"only {num_different} of {rows} answers differ: was each probe asked?")
    return remarks


def count_different(answers: Tensor) -> int:
    """Return how many rows of ``answers`` (N, K) differ; ``torch.unique`` would sort them all."""
    return len({row.tobytes() for row in answers.numpy()})


def _labels_alone(has_triggers: bool, labels_checked: bool) -> str:
    """Say what can be seen in answers that are labels."""
    where = (
        "in the triggers, hardly in the other probes"
        if has_triggers
        else "only where they differ from the unmarked model's, so that many more probes are needed"
    )
    if not (has_triggers or labels_checked):
        where += ", and whoever verifies must give the labels that they see in the probes"
    return f"the suspect gives labels alone: the mark can be seen {where}"


def _is_flat(probs: Tensor) -> Tensor:
    """Return which rows of ``probs`` (N, K) tie but for their likeliest class: bool (N,)."""
    top = probs.argmax(1, keepdim=True)
    return probs.scatter(1, top, -1.0).amax(1) == probs.scatter(1, top, 2.0).amin(1)


def _decimals(answers: Tensor) -> int | None:
    """Return the decimals that ``answers`` are rounded to; None for more than MAX_DECIMALS."""
    values = answers.nan_to_num(0)
    if len(values) > 100 and _decimals(values[:100]) is None:
        return None
    values = values.double()
    for decimals in range(1, MAX_DECIMALS + 1):
        scaled = values * 10**decimals
        # float32 keeps seven digits.
        if torch.allclose(scaled, scaled.round(), atol=1e-6 * 10**decimals, rtol=0):
            return decimals
    return None
