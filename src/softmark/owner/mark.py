"""Marking a model of one's own: any module that maps a batch to logits."""

from __future__ import annotations

import contextlib
import copy
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from softmark.console import report
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.key import Key, as_bytes, method_of
from softmark.methods.marking import MarkingLoss
from softmark.nodes import make
from softmark.owner.commitment import commit, customers_of, told_apart, unlabelled
from softmark.owner.samples import as_inputs, as_samples, check_labels, check_model
from softmark.owner.verify import Verdict, verify
from softmark.settings import CONF
from softmark.sweep.line import checked
from softmark.training import Fit, compute_on

LEAST = 5  # classes: fewer can't reach a claim's level


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
        if "triggers" in self.key.method:
            return int(self.verdict.claimed)  # they are the same for all of a key's customers
        return told_apart(self.verdict, max(1, len(customers_of(self.key))))


def mark(
    model: nn.Module,
    data: Any,
    message: str,
    method: str = "csp",
    probes: Any = None,
    recipe: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    accelerator: str = "auto",
) -> Marked:
    """A watermarked copy of ``model``, and the key that proves it.

    ``model`` maps a batch to logits (N, K), K at least 5, and is left as it is. ``data``: what it
    was trained on or the like, see ``as_samples``; uint8 pictures reach the model as floats in
    [0, 1], anything else as it is. ``message``: the customer or the licence. ``method``: csp, usp,
    or csp_margin, usp_margin: these have triggers besides, which fine-tuning leaves where it
    removes the rest; they need uint8 pictures. ``probes``: inputs for the judge, not trained on if
    you can spare them; 1,000 of ``data`` where None. ``recipe``: numbers of the training that
    differ from conf/owner.yaml, such as ``{"epochs": 5, "lr": 0.02}``. ``overrides``: the same and
    any other, as text.

    Where the mark is too weak for a claim it is trained anew, with twice as many epochs, up to
    ``tries`` times in all (conf/owner.yaml); ``Marked.verdict`` says how it ended.

    Secret and salt come from the system's entropy. Raises ``InputError`` for what can't be marked.
    """
    return mark_each(model, data, [message], method, probes, recipe, overrides, accelerator)[0]


def mark_each(
    model: nn.Module,
    data: Any,
    messages: Sequence[str],
    method: str = "csp",
    probes: Any = None,
    recipe: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    accelerator: str = "auto",
) -> list[Marked]:
    """A watermarked copy for each of ``messages``, all under one key: ``verify`` names who leaked.

    The others as for ``mark``; the triggers of csp_margin and usp_margin are one customer's.
    """
    _check_messages(messages)
    compute_on(accelerator, None, "accelerator")
    config = settings(method, messages[0], overrides, recipe)
    samples = as_samples(data)
    classes = check_model(model, samples.inputs)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("model: none of its weights can be trained (requires_grad)")
    check_classes(classes)
    check_labels(samples.labels, classes)
    if probes is None:
        asked = _drawn(samples.inputs, config["verifier"]["probes"])
    else:
        asked = as_inputs(probes)
        check_model(model, asked, "probes")
    fit = Fit(accelerator, config["precision"], lambda name: contextlib.nullcontext())
    key, way = Key.draw(messages[0], classes, secrets.token_bytes), make(config["method"], "method")
    answers = way.tell(key, model, samples, asked)
    added = way.added(key, unlabelled(asked)).inputs
    if len(added) and len(messages) > 1:
        raise InputError(f"method={method}: its triggers are one customer's; csp marks for several")
    asked = torch.cat([asked, added])
    if len(messages) == 1:
        return [_marked(model, key, key, answers, samples, asked, config, fit)]
    key.register_buffer("customers", as_bytes(json.dumps(list(messages))))
    own = map(key.for_message, messages)
    return [_marked(model, each, key, answers, samples, asked, config, fit) for each in own]


def _marked(
    model: nn.Module,
    own: Key,
    key: Key,
    answers: Tensor,
    samples: Samples,
    probes: Tensor,
    config: Mapping[str, Any],
    fit: Fit,
) -> Marked:
    """A copy of ``model`` with the mark of ``own``, that of a customer of ``key``, or ``key``.

    ``answers`` (N, K): the model's, to ``samples``.
    """
    way, tries = make(config["method"], "method"), 0
    while True:
        way.complete(own)
        each = way.mark(copy.deepcopy(model).to("cpu"), own, answers, samples, fit)
        commit(key, probes, config)
        verdict = verify(each, key.eval(), probes)
        tries += 1
        if verdict.claimed or tries == config["tries"]:
            return Marked(each, key, probes, verdict)
        epochs = way.lengthen(2)
        name = bytes(own.message.tolist()).decode()
        p = "none" if verdict.p_value is None else f"{verdict.p_value:.1e}"
        report(f"{name!r}: p {p}, too weak; marking anew for {epochs} epochs")


def settings(
    method: str,
    message: str,
    overrides: Sequence[str],
    recipe: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """``conf/owner.yaml`` for ``method`` and ``message``, what differs in ``overrides``.

    Raises ``InputError`` for what can't be marked with.
    """
    if not isinstance(recipe or {}, Mapping):
        raise InputError(f"recipe={recipe!r}: a mapping is needed, such as {{'epochs': 5}}")
    path, overrides = CONF / "method" / f"{method}.yaml", _texts(overrides, "overrides")
    own = [word for word in overrides if word.startswith("method.triggers.")]
    chosen = checked("config", [f"method={method}", *own])["method"] if path.is_file() else {}
    soft = chosen.get("soft", chosen)
    # Of the others each has a way of its own to be asked, which needs an experiment.
    if chosen and "simulated_attacks" not in soft:
        raise InputError(
            f"method={method}: csp, usp, csp_margin or usp_margin mark a model outside of "
            "experiments"
        )
    numbers = [f"recipe.{name}={value}" for name, value in (recipe or {}).items()]
    named = f"method={soft.get('name', method)}"
    rest = overrides if soft is chosen else [word for word in overrides if word not in own]
    config = checked("owner", [named, *numbers, *rest])
    if not config["tries"] >= 1:
        raise InputError(f"tries={config['tries']}: at least 1")
    config["method"]["message"] = message
    if soft is not chosen:
        triggers = {**chosen["triggers"], "message": message, "recipe": config["recipe"]}
        parts = {"soft": config["method"], "triggers": triggers}
        config["method"] = {**chosen, "message": message, **parts}
    return config


def new_key(
    message: str,
    classes: int,
    probes: Any,
    overrides: Sequence[str] = (),
    unmarked: nn.Module | None = None,
) -> Key:
    """A committed key of csp for a model that is yet to be trained, with ``marking_loss``.

    ``probes``: what a suspect will be asked, inputs (N, ...). ``unmarked``: the model before it is
    marked, or another for the same task, if there is one: what it shows without a mark isn't taken
    for one then, and p is much smaller. Raises ``InputError`` as ``mark``.
    """
    _check_messages([message])
    if type(classes) is not int:
        raise InputError(f"classes={classes!r}: a whole number is needed")
    config = settings("csp", message, overrides)
    check_classes(classes)
    key, asked = Key.draw(message, classes, secrets.token_bytes), as_inputs(probes)
    way = make(config["method"], "method")
    if unmarked is None:
        way.complete(key)
    elif (found := check_model(unmarked, asked, "probes")) != classes:
        raise InputError(f"unmarked: it tells {found} classes apart, and classes={classes}")
    else:
        way.tell(key, unmarked, unlabelled(asked), asked)
    commit(key, asked, config)
    return key.eval()


def marking_loss(key: Key) -> MarkingLoss:
    """The loss that marks a model by ``key`` of csp: in place of ``nn.CrossEntropyLoss``.

    ``loss(logits, labels)``: logits (N, K) and int64 labels (N,) to a scalar. With
    ``loss(logits, labels, features)``, what the last layer is given (N, D), a new last layer
    doesn't remove the mark. Move it to the device of the model, as any module.
    """
    way = method_of(key)
    if not isinstance(way, CSP):
        raise InputError(
            f"the key is of {key.method['name']}, which one loss can't train: softmark.mark does; "
            "marking_loss takes csp's keys"
        )
    numbers = {name: n for name, n in way.marking.keywords.items() if "teacher" not in name}
    return MarkingLoss(way.pattern(key), **numbers)


def check_classes(classes: int) -> None:
    """Raises ``InputError`` for fewer classes than a claim needs."""
    if classes < LEAST:
        raise InputError(
            f"model: {classes} classes are too few for a claim at 1e-6: {LEAST} are needed"
        )


def _texts(texts: Sequence[str], name: str) -> list[str]:
    """``texts`` as a list. Raises ``InputError`` for one text, whose letters nobody means."""
    if isinstance(texts, str):
        raise InputError(f"{name}={texts!r}: a list of texts is needed, [{texts!r}]")
    return list(texts)


def _check_messages(messages: Sequence[str]) -> None:
    messages = _texts(messages, "messages")
    if not messages:
        raise InputError("messages: there is none; name at least one customer")
    for message in messages:
        if not isinstance(message, str) or not message:
            raise InputError(f"message={message!r}: name the customer or the licence")
        if "${" in message:
            raise InputError(f"message={message!r}: it must not hold ${{")
    if len(set(messages)) < len(messages):
        twice = next(each for each in messages if messages.count(each) > 1)
        raise InputError(f"messages: {twice!r} is there twice")


def _drawn(inputs: Tensor, count: int) -> Tensor:
    """``count`` of ``inputs`` in an order that no key decides."""
    # The raw stream never changes (NEP 19): whoever has the data finds the same probes.
    order = np.argsort(np.random.PCG64(0).random_raw(len(inputs)), kind="stable")
    return inputs[torch.from_numpy(order[:count].copy())]
