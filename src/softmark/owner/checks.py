"""Checks of what whoever verifies brings: probes, triggers, labels, the number of keys tried."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.watermark import Watermark
from softmark.owner.samples import unlabelled
from softmark.owner.statement import Probes, Statement


def check_probes(statement: Statement, inputs: Tensor) -> None:
    """Raise ``InputError`` if ``inputs`` aren't the probes that were committed to.

    ``inputs`` (N + T, ...): the probes, and behind them the triggers, which are only counted here.
    """
    committed, num_triggers = statement.probes, statement.triggers
    if len(inputs) != committed.count + num_triggers:
        raise InputError(
            f"probes: there are {len(inputs)}, and the key was committed to "
            f"{committed.count + num_triggers}"
        )
    if Probes.of(inputs[: committed.count]) != committed:
        raise InputError(
            f"probes: their fingerprint isn't {committed.sha256[:16]}..., to which the key was "
            "committed: other probes, another order, or another type of number"
        )


def check_triggers(method: Watermark, key: Key, inputs: Tensor) -> None:
    """Raise ``InputError`` if ``inputs`` (T, ...) aren't the pictures that ``key`` draws."""
    drawn = method.trigger_probes(key, unlabelled(inputs))
    if not len(drawn) or torch.equal(drawn.inputs, inputs):
        return
    index = int((drawn.inputs != inputs).flatten(1).any(1).nonzero()[0])
    raise InputError(
        f"probes: of the last {len(inputs)} number {index + 1} isn't the picture that the key "
        "draws there: no verdict can stand on it"
    )


def checked_labels(labels: Any, count: int, classes: int) -> Tensor:
    """Return ``labels`` as int64 (N,). Raise ``InputError`` unless there is a class for each probe.

    All or none: who may choose the probes that count can choose those that fit.
    """
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"labels: they are no numbers ({error})") from error
    are_integers = given.shape == (count,) and not (given != given.round()).any()
    if not are_integers or not 0 <= given.min() <= given.max() < classes:
        one_missing = given.shape == (count - 1,)
        hint = "; a 0 in the first line of a CSV is taken for the column's name"
        raise InputError(
            f"labels of shape {tuple(given.shape)} and type {given.dtype}: a class from 0 to "
            f"{classes - 1} for each of {count} probes is needed, none left out"
            f"{hint if one_missing else ''}"
        )
    return given.long()


def check_keys_tried(count: Any) -> None:
    """Raise ``InputError`` unless ``count`` is a whole number from 1 on."""
    if type(count) is not int or count < 1:
        raise InputError(f"keys_tried={count!r}: a whole number from 1 on is needed")
