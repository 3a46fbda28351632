"""Marking a model of one's own: any module that maps a batch to logits."""

from __future__ import annotations

import contextlib
import copy
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmark.console import report
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import SECRET_BYTES
from softmark.methods.marking import MarkingLoss
from softmark.methods.soft_labels import observe_victim
from softmark.methods.watermark import Watermark
from softmark.owner.beacon import Beacon
from softmark.owner.commitment import publication, told_apart
from softmark.owner.court import unlabelled
from softmark.owner.key import Key, check_messages, seals
from softmark.owner.kinds import numbers_of, settings, watermark, watermark_of
from softmark.owner.samples import as_probes, as_samples, check_labels, check_model
from softmark.owner.statement import LEVEL, LEVEL_WITH_BEACON, Probes, Statement, hash_of
from softmark.owner.verify import Verdict, verify
from softmark.training import Fit, compute_on, predict

# Classes of which fewer can't reach a claim's level: with a beacon or triggers, and without both.
LEAST, LEAST_ALONE = 5, 8
TRAINED = 0.5  # accuracy from which a model's answers to the probes are taken for their labels


@dataclass(frozen=True)
class Marked:
    """``model``: the watermarked copy, on the CPU, in eval mode. ``key``: keep it, and secret.

    ``probes``: the inputs that a suspect will be asked, in their committed order; none is secret
    but triggers, the last of them, until they are asked. ``verdict``: what the marked model itself
    shows. ``customers``: how many customers such a mark tells apart with no more errors than the
    claim's level.
    """

    model: nn.Module
    key: Key
    probes: Tensor
    verdict: Verdict

    @property
    def customers(self) -> int:
        if self.key.statement.has_triggers:
            return int(self.verdict.claimed)  # they are the same for all of a key's customers
        return told_apart(self.verdict, len(self.key.messages))


def mark(
    model: nn.Module,
    data: Any,
    message: str,
    method: str = "csp",
    probes: Any = None,
    recipe: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    accelerator: str = "auto",
    beacon: Beacon | None = None,
) -> Marked:
    """A watermarked copy of ``model``, and the key that proves it.

    ``model`` maps a batch to logits (N, K), K at least 8 (5 with a beacon or
    triggers), and is left as it is. ``data``: what it
    was trained on or the like, see ``as_samples``; uint8 pictures reach the model as floats in
    [0, 1], anything else as it is. ``message``: the customer or the licence. ``method``: csp, usp,
    or csp_margin, usp_margin: these have triggers besides, which fine-tuning leaves where it
    removes the rest; they need uint8 pictures. ``probes``: inputs for the judge, not trained on if
    you can spare them; 1,000 of ``data`` where None. ``recipe``: numbers of the training that
    differ from conf/owner.yaml, such as ``{"epochs": 5, "lr": 0.02}``. ``overrides``: the same and
    any other, as text.

    Where the mark is too weak for a claim it is trained anew, with twice as many epochs, up to
    ``tries`` times in all (conf/owner.yaml); ``Marked.verdict`` says how it ended.

    First all that you chose is fixed: probes, their labels (the model's own answers), method,
    numbers. Then the pattern follows from that and from the secret. ``beacon``: takes a later round
    of a public beacon as well, so that a claim needs 1e-6 instead of 1e-12; it is waited for, and
    within this time the commitment must become public (``Beacon.publish``).

    Secret and salt come from the system's entropy. Raises ``InputError`` for what can't be marked.
    """
    return mark_each(
        model, data, [message], method, probes, recipe, overrides, accelerator, beacon
    )[0]


def mark_each(
    model: nn.Module,
    data: Any,
    messages: Sequence[str],
    method: str = "csp",
    probes: Any = None,
    recipe: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    accelerator: str = "auto",
    beacon: Beacon | None = None,
) -> list[Marked]:
    """A watermarked copy for each of ``messages``, all under one key: ``verify`` names who leaked.

    The others as for ``mark``; the triggers of csp_margin and usp_margin are one customer's.
    """
    check_messages(messages)
    compute_on(accelerator, None, "accelerator")
    config = settings(method, overrides, recipe)
    way = watermark(config)
    samples = as_samples(data)
    classes = check_model(model, samples.inputs)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("model: none of its weights can be trained (requires_grad)")
    if way.num_triggers and len(messages) > 1:
        raise InputError(f"method={method}: its triggers are one customer's; csp marks for several")
    check_classes(way, classes, beacon)
    check_labels(samples.labels, classes)
    if probes is None:
        drawn = _drawn(samples, config["verifier"]["probes"])
        asked, known = drawn.inputs, drawn.labels
    else:
        asked, known = as_probes(probes)
        check_model(model, asked, "probes")
    for inputs in (samples.inputs, asked):
        way.check_inputs(inputs)
    fit = Fit(accelerator, config["precision"], lambda name: contextlib.nullcontext())
    answers, victim = way.observe_victim(model, samples)
    # What the model answers shows best what the mark changes; one that isn't trained knows nothing.
    trained = (answers.argmax(1) == samples.labels).float().mean() >= TRAINED
    labels = predict(model, asked).argmax(1) if trained else known
    now = datetime.now(UTC)
    key = committed(method, config, messages, classes, asked, victim, labels, beacon)
    first = key.pattern_keys()[messages[0]]
    added = way.trigger_probes(first, unlabelled(asked)).inputs
    asked = torch.cat([asked, added])
    looked_up = {} if beacon is None else {"beacon": beacon, "published": now}
    work = Work(model, samples, answers, asked, config, fit, looked_up)
    return [work.marked(key, message) for message in messages]


def committed(
    method: str,
    config: Mapping[str, Any],
    messages: Sequence[str],
    classes: int,
    probes: Tensor,
    victim: Tensor | None,
    labels: Tensor | None,
    beacon: Beacon | None,
) -> Key:
    """A new key: first all that its owner chose is fixed, then its pattern follows.

    ``victim`` (2, K, K), ``labels`` (N,): what the unmarked model shows, and its answers to the
    ``probes``. With a ``beacon`` it waits for the round that it has named.
    """
    secret, way = secrets.token_bytes(SECRET_BYTES), watermark(config)
    statement = Statement(
        method=method,
        numbers=numbers_of(way),
        classes=classes,
        probes=Probes.of(probes),
        labels=hash_of(labels, "<i4"),
        victim=hash_of(victim, "<f4"),
        triggers=way.num_triggers,
        seals=seals(secret, messages),
        level=config["verifier"]["level"],
        beacon=None if beacon is None else beacon.coming(),
    )
    key = Key(secret, tuple(messages), statement, victim, labels)
    if beacon is None:
        return key
    beacon.publish(publication(statement), datetime.fromtimestamp(statement.beacon.time, UTC))
    return replace(key, randomness=beacon.value(statement.beacon, wait=True))


@dataclass(frozen=True)
class Work:
    """What all copies of a model are marked with.

    ``answers``: the unmarked model's, to the samples. ``looked_up``: the beacon, and when its round
    was committed to, for ``verify``.
    """

    model: nn.Module
    samples: Samples
    answers: Tensor
    probes: Tensor
    config: Mapping[str, Any]
    fit: Fit
    looked_up: Mapping[str, Any]

    def marked(self, key: Key, message: str) -> Marked:
        """A copy of the model with the mark of the customer ``message``.

        A mark that is too weak for a claim is trained anew, twice as long, by the same key.
        """
        way, pattern, tries = watermark(self.config), key.pattern_key(message), 0
        while True:
            way.build_modules(pattern)
            start = copy.deepcopy(self.model).to("cpu")
            network = way.mark(start, pattern, self.answers, self.samples, self.fit, detector=False)
            verdict = verify(network, key, self.probes, **self.looked_up)
            tries += 1
            if verdict.claimed or tries == self.config["tries"]:
                return Marked(network, key, self.probes, verdict)
            way = way.scale_epochs(2)
            p = "none" if verdict.p_value is None else f"{verdict.p_value:.1e}"
            report(f"{message!r}: p {p}, too weak; marking anew for {way.epochs} epochs")


def new_key(
    message: str,
    classes: int,
    probes: Any,
    overrides: Sequence[str] = (),
    unmarked: nn.Module | None = None,
    beacon: Beacon | None = None,
) -> Key:
    """A committed key of csp for a model that is yet to be trained, with ``marking_loss``.

    ``probes``: what a suspect will be asked, inputs (N, ...), or a pair of these and their labels
    (N,): five probes of each class show the order of the classes, else p is multiplied by the
    number of orders. ``unmarked``: the model before it is
    marked, or another for the same task, if there is one: what it shows without a mark isn't taken
    for one then, and p is much smaller. ``beacon``: as for ``mark``. Raises ``InputError`` as
    ``mark``.
    """
    check_messages([message])
    if type(classes) is not int:
        raise InputError(f"classes={classes!r}: a whole number is needed")
    config = settings("csp", overrides)
    check_classes(watermark(config), classes, beacon)
    (asked, labels), victim = as_probes(probes), None
    if unmarked is not None:
        if (found := check_model(unmarked, asked, "probes")) != classes:
            raise InputError(f"unmarked: it tells {found} classes apart, and classes={classes}")
        answers, victim = observe_victim(unmarked, unlabelled(asked))
        labels = answers.argmax(1)
    return committed("csp", config, [message], classes, asked, victim, labels, beacon)


def marking_loss(key: Key) -> MarkingLoss:
    """The loss that marks a model by ``key`` of csp: in place of ``nn.CrossEntropyLoss``.

    ``loss(logits, labels)``: logits (N, K) and int64 labels (N,) to a scalar. With
    ``loss(logits, labels, features)``, what the last layer is given (N, D), a new last layer
    doesn't remove the mark. Move it to the device of the model, as any module.
    """
    if key.statement.method != "csp":
        raise InputError(
            f"the key is of {key.statement.method}, which one loss can't train: softmark.mark "
            "does; marking_loss takes csp's keys"
        )
    pattern = watermark_of(key.statement).pattern(key.pattern_key(key.messages[0]))
    return MarkingLoss(pattern, **key.statement.numbers)


def check_classes(way: Watermark, classes: int, beacon: Beacon | None) -> None:
    """Raises ``InputError`` for fewer classes than a claim needs."""
    least = LEAST if beacon or way.num_triggers else LEAST_ALONE
    if classes < least:
        raise InputError(
            f"model: {classes} classes are too few for a claim at "
            f"{LEVEL_WITH_BEACON if beacon else LEVEL:g}: {least} are needed"
        )


def _drawn(samples: Samples, count: int) -> Samples:
    """``count`` of ``samples`` in an order that no key decides."""
    # The raw stream never changes (NEP 19): whoever has the data finds the same probes.
    order = np.argsort(np.random.PCG64(0).random_raw(len(samples)), kind="stable")
    return samples[torch.from_numpy(order[:count].copy())]
