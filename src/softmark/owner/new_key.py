"""Commit to a new key; and mark with it a model that is yet to be trained."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from torch import Tensor, nn

from softmark.devices import usual_torch
from softmark.errors import InputError
from softmark.methods.key import SECRET_BYTES
from softmark.methods.parts.soft_labels import observe_victim
from softmark.methods.watermark import Watermark
from softmark.models.own import check_model
from softmark.owner.beacon import Beacon
from softmark.owner.commitment import publication
from softmark.owner.key import Key, check_messages
from softmark.owner.named_inputs import adapted
from softmark.owner.pattern_key import seals
from softmark.owner.samples import as_probes, unlabelled
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON, Probes, Statement, hash_of
from softmark.owner.training_loss import KeyLoss
from softmark.owner.watermarks import numbers_to_commit, owner_config, watermark_of_config

# Classes of which fewer can't reach a claim's level: without a beacon and triggers, and with one.
MIN_CLASSES, MIN_CLASSES_WITH_HELP = 8, 5
# A verdict of usp inverts a matrix of twice as many rows: 3 s of one core for 1,000 classes.
MAX_CLASSES_OF_USP = 2000


def commit_key(
    method: str,
    config: Mapping[str, Any],
    messages: Sequence[str],
    classes: int,
    probes: Tensor,
    victim: Tensor | None,
    labels: Tensor | None,
    beacon: Beacon | None,
) -> Key:
    """Return a new key: first all that its owner chose is fixed, then its pattern follows.

    Args:
        method: csp, usp, csp_margin or usp_margin.
        config: of ``owner_config``.
        messages: the customers.
        classes: K of the marked model.
        probes: what a suspect will be asked, (N, ...).
        victim: what the unmarked model shows, (2, K, K), or None.
        labels: its answers to the probes, (N,), or None.
        beacon: whose coming round goes into the pattern; it is waited for. None for no beacon.
    """
    secret, watermark = secrets.token_bytes(SECRET_BYTES), watermark_of_config(config)
    statement = Statement(
        method=method,
        numbers=numbers_to_commit(watermark),
        classes=classes,
        probes=Probes.of(probes),
        labels=hash_of(labels, "<i4"),
        victim=hash_of(victim, "<f4"),
        triggers=watermark.num_triggers,
        owner=seals(secret, [""])[0],
        seals=seals(secret, messages),
        level=config["verifier"]["level"],
        beacon=None if beacon is None else beacon.coming(),
    )
    key = Key(secret, tuple(messages), statement, victim, labels)
    if beacon is None:
        return key
    beacon.publish(publication(statement), datetime.fromtimestamp(statement.beacon.time, UTC))
    return replace(key, randomness=beacon.value(statement.beacon, wait=True))


@usual_torch()
def new_key(
    message: str,
    classes: int,
    probes: Any,
    overrides: Sequence[str] = (),
    unmarked: nn.Module | None = None,
    beacon: Beacon | None = None,
) -> Key:
    """Commit to a new key of csp for a model that is yet to be trained, with ``marking_loss``.

    Args:
        message: the customer or the licence.
        classes: K of the model, at least 8 (5 with a beacon).
        probes: what a suspect will be asked: inputs (N, ...), or a pair of these and their labels
            (N,). Five probes of each class show the order of the classes; without labels p is
            multiplied by the number of orders.
        overrides: of conf/owner.yaml, as text: ``["method.marking.beta=0.5"]``.
        unmarked: the model before it is marked, or another for the same task, if there is one. What
            it shows without a mark isn't taken for one then, and p is much smaller.
        beacon: as for ``mark``.

    Returns:
        The key. Save it, and publish its commitment, before you train.

    Raises:
        InputError: for probes, classes or overrides that can't be used.

    Example:
        >>> key = softmark.new_key("licence 7", 10, (inputs, labels), unmarked=model)
        >>> key.classes, len(key.commitment)
        (10, 64)
        >>> softmark.save((key, inputs), folder / "key")
    """
    check_messages([message])
    if type(classes) is not int:
        raise InputError(f"classes={classes!r}: a whole number is needed")
    config = owner_config("csp", overrides)
    check_num_classes(watermark_of_config(config), classes, beacon)
    (inputs, labels, layout), victim = as_probes(probes), None
    if unmarked is not None:
        unmarked = adapted(unmarked, inputs, layout)
        num_outputs = check_model(unmarked, inputs, "probes")
        if num_outputs != classes:
            raise InputError(f"unmarked: it has {num_outputs} classes, and classes={classes}")
        answers, victim = observe_victim(unmarked, unlabelled(inputs))
        labels = answers.argmax(1)
    return commit_key("csp", config, [message], classes, inputs, victim, labels, beacon)


def marking_loss(key: Key, label_smoothing: float = 0.0) -> KeyLoss:
    """Return the loss that marks a model by ``key``, in place of ``nn.CrossEntropyLoss``.

    Args:
        key: of ``new_key``, or another of csp.
        label_smoothing: as in ``nn.CrossEntropyLoss``.

    Returns:
        A module: ``loss(logits, labels)`` maps logits (N, K) and int64 labels (N,) to a scalar.
        With ``loss(logits, labels, features)``, what the last layer is given (N, D), a new last
        layer doesn't remove the mark. Move it to the device of the model, as any module.
        ``loss.p_value()`` estimates p while it trains.

    Raises:
        InputError: for a key of another method.

    Example:
        >>> key = softmark.new_key("licence 7", 10, inputs)
        >>> loss = softmark.marking_loss(key)
        >>> loss(model(inputs), labels).backward()
    """
    if key.statement.method != "csp":
        raise InputError(
            f"the key is of {key.statement.method}, which one loss can't train: softmark.mark "
            "does; marking_loss takes csp's keys"
        )
    return KeyLoss(key, label_smoothing)


def check_num_classes(
    watermark: Watermark, classes: int, beacon: Beacon | None, method: str = "csp"
) -> None:
    """Raise ``InputError`` for fewer classes than a claim needs, and for more than usp can read."""
    if method.startswith("usp") and classes > MAX_CLASSES_OF_USP:
        raise InputError(
            f"method={method}: a verdict on {classes} classes would take minutes to hours; "
            f"{MAX_CLASSES_OF_USP} at most, and csp takes any number"
        )
    least = MIN_CLASSES_WITH_HELP if beacon or watermark.num_triggers else MIN_CLASSES
    if classes < least:
        raise InputError(
            f"model: {classes} classes are too few for a claim at "
            f"{LEVEL_WITH_BEACON if beacon else LEVEL:g}: {least} are needed"
        )
