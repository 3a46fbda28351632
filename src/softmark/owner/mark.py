"""Mark a model of one's own: any module that maps a batch to logits."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmark.console import report
from softmark.data.roles import Samples
from softmark.devices import compute_on, usual_torch
from softmark.errors import InputError
from softmark.methods.watermark import Watermark
from softmark.models.own import check_model, check_trainable, plain_copy
from softmark.owner.beacon import Beacon
from softmark.owner.committed_key_verifier import NAMING_LEVEL, warn_of_few_probes
from softmark.owner.features import has_features, without_features
from softmark.owner.key import Key, check_messages
from softmark.owner.named_inputs import adapted, without_adapter
from softmark.owner.new_key import check_num_classes, commit_key
from softmark.owner.samples import (
    as_named_samples,
    as_probes,
    check_alike,
    check_labels,
    unlabelled,
)
from softmark.owner.verify import Verdict, verify
from softmark.owner.watermarks import owner_config, watermark_of_config
from softmark.training import Fit, predict

# Training accuracy from which a model's answers to the probes are taken for their labels.
MIN_ACCURACY = 0.5
MAX_CAPACITY = 10**9  # customers


@dataclass(frozen=True)
class Marked:
    """A marked model, and what proves it.

    Args:
        model: the watermarked copy, on the CPU, in eval mode.
        key: what proves the mark: keep it, and keep it secret.
        probes: the inputs that a suspect will be asked, (N + T, ...), in their committed order, by
            name where the model's inputs have names. None is secret but the triggers, the last T of
            them, until they are asked.
        verdict: on the marked model itself.

    Example:
        >>> marked.verdict.claimed, marked.max_customers > 1000
        (True, True)
    """

    model: nn.Module
    key: Key = field(repr=False)
    probes: Tensor | dict[str, Tensor] = field(repr=False)
    verdict: Verdict

    @property
    def max_customers(self) -> int:
        """How many customers such a mark identifies, with no more errors than the claim's level."""
        if self.key.statement.has_triggers:
            return int(self.verdict.claimed)  # they are the same for all of a key's customers
        return identification_capacity(self.verdict, len(self.key.messages))

    @property
    def customers(self) -> int:
        """The name of ``max_customers`` before; it goes with the next version."""
        warnings.warn(
            "Marked.customers is Marked.max_customers now", DeprecationWarning, stacklevel=2
        )
        return self.max_customers


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
    """Train a watermarked copy of ``model``, and return it with the key that proves it.

    First all that you choose is fixed: probes, their labels (the model's own answers), method,
    numbers. Then the pattern follows from that and from the secret, which comes from the system's
    entropy. A mark that is too weak for a claim is trained anew, twice as long, up to ``tries``
    times in all (conf/owner.yaml); ``Marked.verdict`` says how it ended.

    Args:
        model: maps a batch to logits (N, K), or to an output that holds ``logits``, K at least 8 (5
            with a beacon or triggers). It is left as it is.
        data: what it was trained on or the like: a pair of tensors (inputs (N, ...), labels (N,)),
            a ``Dataset`` or a ``DataLoader``. Inputs may have names, as ``input_ids`` and
            ``attention_mask``. uint8 pictures reach the model as floats in [0, 1], anything else as
            it is.
        message: the customer or the licence.
        method: csp or usp, which mark the answers to any input; or csp_margin or usp_margin, which
            have triggers besides: fine-tuning leaves these where it removes the rest. They need
            uint8 pictures.
        probes: inputs for the judge, not trained on if you can spare them, or a pair of inputs and
            labels; 1,000 of ``data`` where None.
        recipe: numbers of the training that differ from conf/owner.yaml, such as
            ``{"epochs": 5, "lr": 0.02}``.
        overrides: the same and any other key of conf/owner.yaml, as text: ``["tries=1"]``.
        accelerator: Lightning's: auto, cpu, gpu, ...
        beacon: takes a later round of a public beacon into the pattern, so that a claim needs 1e-6
            instead of 1e-12. It is waited for, and within this time the commitment must become
            public (``Beacon.publish``).

    Returns:
        The marked model, its key, its probes, and the verdict on it.

    Raises:
        InputError: for a model, data or numbers that can't be marked or marked with.

    Example:
        >>> marked = softmark.mark(model, (inputs, labels), "licence 7", recipe={"epochs": 2})
        >>> marked.verdict.claimed
        True
        >>> softmark.save(marked, folder / "marked")
    """
    return mark_each(
        model, data, [message], method, probes, recipe, overrides, accelerator, beacon
    )[0]


@usual_torch()
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
    """Train a watermarked copy of ``model`` for each customer, all under one key.

    ``verify`` names whose copy a suspect derives from; p is multiplied by the number of customers.

    Args:
        messages: the customers, each once. With csp_margin and usp_margin there is one alone: its
            triggers are the same in all copies.

    All other arguments are those of ``mark``.

    Returns:
        The marked copies, in the order of ``messages``.

    Raises:
        InputError: as for ``mark``. Whatever ends the training of one copy has those that are done
            as its attribute ``copies``: ``softmark.save`` takes them.

    Example:
        >>> anna, bert = softmark.mark_each(
        ...     model, (inputs, labels), ["anna", "bert"], recipe={"epochs": 2}
        ... )
        >>> softmark.verify(bert.model, anna.key, anna.probes).identified
        'bert'
    """
    check_messages(messages)
    compute_on(accelerator, None, "accelerator")
    config = owner_config(method, overrides, recipe)
    watermark = watermark_of_config(config)
    samples, layout = as_named_samples(data)
    model = adapted(plain_copy(model), samples.inputs, layout)
    classes = check_model(model, samples.inputs)
    check_trainable(model, samples.inputs)
    if not has_features(model, samples.inputs, classes):
        config = owner_config(method, without_features(list(overrides), classes), recipe)
        watermark = watermark_of_config(config)
    if watermark.num_triggers and len(messages) > 1:
        raise InputError(f"method={method}: its triggers are one customer's; csp marks for several")
    check_num_classes(watermark, classes, beacon, method)
    check_labels(samples.labels, classes)
    asked = model
    if probes is None:
        drawn = draw_probes(samples, config["verifier"]["probes"])
        probe_inputs, true_labels = drawn.inputs, drawn.labels
    else:
        probe_inputs, true_labels, layout = as_probes(probes)
        asked = adapted(without_adapter(model), probe_inputs, layout)
        check_model(asked, probe_inputs, "probes")
        check_alike(samples.inputs, probe_inputs)
    for inputs in (samples.inputs, probe_inputs):
        watermark.check_inputs(inputs)
    fit = Fit(accelerator, config["precision"], lambda name: contextlib.nullcontext())
    answers, victim = watermark.observe_victim(model, samples)
    # What the model answers shows best what the mark changes; one that isn't trained knows nothing.
    is_trained = (answers.argmax(1) == samples.labels).float().mean() >= MIN_ACCURACY
    probe_labels = predict(asked, probe_inputs).argmax(1) if is_trained else true_labels
    warn_of_few_probes(probe_labels, classes)
    published = datetime.now(UTC)
    key = commit_key(method, config, messages, classes, probe_inputs, victim, probe_labels, beacon)
    inputs = _with_triggers(watermark, key, probe_inputs)
    lookup = {} if beacon is None else {"beacon": beacon, "published": published}
    named_probes = inputs if layout is None else layout.unpack(inputs)
    marking = Marking(model, samples, answers, named_probes, config, fit, lookup)
    return marking.marked_each(key, messages)


def _with_triggers(watermark: Watermark, key: Key, probe_inputs: Tensor) -> Tensor:
    """Return the probes (N, ...), and behind them the pictures that ``key`` draws: (N + T, ...)."""
    first_key = key.pattern_keys()[key.messages[0]]
    triggers = watermark.trigger_probes(first_key, unlabelled(probe_inputs)).inputs
    return torch.cat([probe_inputs, triggers])


@dataclass(frozen=True)
class Marking:
    """The training of a model's marked copies: what is the same for all customers.

    ``answers`` (N, K): the unmarked model's, to the ``samples``. ``probes``: with the triggers.
    ``lookup``: the beacon, and when its round was committed to, for ``verify``.
    """

    model: nn.Module
    samples: Samples
    answers: Tensor
    probes: Tensor | dict[str, Tensor]
    config: Mapping[str, Any]
    fit: Fit
    lookup: Mapping[str, Any]

    def marked_each(self, key: Key, messages: Sequence[str]) -> list[Marked]:
        """Train a copy for each of ``messages``; what ends that holds the ``copies`` so far."""
        copies: list[Marked] = []
        try:
            for message in messages:
                copies.append(self.marked(key, message))
        except BaseException as error:
            error.copies = copies
            raise
        return copies

    def marked(self, key: Key, message: str) -> Marked:
        """Train a copy of the model with the mark of the customer ``message``.

        A mark that is too weak for a claim is trained anew, twice as long, by the same key.
        """
        watermark, pattern_key = watermark_of_config(self.config), key.pattern_key(message)
        tries = 0
        while True:
            network = watermark.mark(
                copy.deepcopy(self.model).to("cpu"),
                pattern_key,
                self.answers,
                self.samples,
                self.fit,
                detector=False,
            )
            network = without_adapter(network)
            verdict = verify(network, key, self.probes, **self.lookup)
            tries += 1
            if verdict.claimed or tries == self.config["tries"]:
                return Marked(network, key, self.probes, verdict)
            watermark = watermark.scale_epochs(2)
            p = "none" if verdict.p_value is None else f"{verdict.p_value:.1e}"
            report(f"{message!r}: p {p}, too weak; marking anew for {watermark.epochs} epochs")


def identification_capacity(verdict: Verdict, keys_tried: int) -> int:
    """Return among how many customers the one of a copy can be named, by ``NAMING_LEVEL``.

    At most ``MAX_CAPACITY``; 0 where nothing is claimed. ``keys_tried``: what the verdict's p is
    multiplied by.
    """
    if not verdict.claimed:
        return 0
    p = verdict.customer_p_value
    return math.floor(min(MAX_CAPACITY, keys_tried * NAMING_LEVEL / p))


def draw_probes(samples: Samples, count: int) -> Samples:
    """Return ``count`` of ``samples`` in an order that no key decides."""
    # The raw stream never changes (NEP 19): whoever has the data finds the same probes.
    order = np.argsort(np.random.PCG64(0).random_raw(len(samples)), kind="stable")
    return samples[torch.from_numpy(order[:count].copy())]
