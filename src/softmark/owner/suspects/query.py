"""Ask a suspect for its answers, whatever it is: a module, a function, an array, an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.owner.named_inputs import Layout, adapted, in_type_of_weights, named
from softmark.owner.suspects.diagnose import as_probabilities
from softmark.owner.suspects.endpoint import Endpoint, fraction_changed
from softmark.owner.suspects.forms import Classes, row_of
from softmark.training import predict, split_to_ask

NUM_REPEATED = 8  # inputs that a function is asked twice


def query_suspect(
    suspect: Any,
    inputs: Tensor,
    classes: int,
    logits: bool,
    raw: bool = False,
    class_names: Sequence[str] | None = None,
    layout: Layout | None = None,
) -> tuple[Tensor, list[str]]:
    """Return the answers of ``suspect`` to ``inputs``, and remarks on them.

    Args:
        suspect: a module that gives logits, a function from inputs to answers, an ``Endpoint``, or
            the answers themselves: (N, K), or labels (N,).
        inputs: (N, ...), in the order of the key's probes.
        classes: K of the marked model.
        logits: the function or the array gives logits or log-probabilities.
        class_names: of the answers' columns, in the order of the labels; None where they have none.
        layout: of named inputs, which ``inputs`` (N, W) hold: a module gets them by name, a
            function and an endpoint as a dictionary.
        raw: a function gets ``inputs`` as they are; otherwise what a module gets, uint8 pictures
            as floats in [0, 1].

    Returns:
        Probabilities (N, K), and what a reader of the verdict must know of them, in sentences.

    Raises:
        InputError: for a suspect that can't take the inputs, and answers that can't be used.
    """
    remarks: list[str] = []
    classes_known = Classes(classes, None if class_names is None else tuple(class_names))
    if isinstance(suspect, nn.Module):
        try:
            asked = adapted(in_type_of_weights(suspect), inputs, layout)
            answers = predict(asked, inputs, torch.float64)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"suspect: the module can't take the probes ({reason})") from error
    elif callable(suspect):
        answers, remarks = _call_twice(
            suspect, inputs, classes_known, lambda part: _given(part, raw, layout)
        )
    elif not (isinstance(suspect, list | tuple) or hasattr(suspect, "__array__")):
        raise InputError(
            f"suspect is a {type(suspect).__name__}: a module, a function from inputs to "
            "probabilities, an array of answers, or softmark.Endpoint(...) of a server is needed; "
            "`softmark verify` reads files. What else gives answers becomes a function: `lambda "
            "inputs: forest.predict_proba(inputs)`"
        )
    else:
        answers = _as_table(suspect, classes_known)
    if answers.ndim == 1:
        answers, logits = _one_hot(answers, classes), False
    if answers.shape != (len(inputs), classes):
        raise InputError(
            f"suspect: {answers.shape[0]} answers with {answers.shape[1:].numel()} classes; the "
            f"key was committed to {len(inputs)} probes and a model of {classes} classes"
        )
    # Of a module the logits count: float64 keeps the order of each tail.
    probs = answers if isinstance(suspect, nn.Module) else as_probabilities(answers, logits)
    return probs, remarks


def how_asked(suspect: Any) -> str:
    """Return in which way ``suspect`` is asked, in words.

    Example:
        >>> how_asked(torch.nn.Linear(2, 2))
        'as a torch module (Linear), on the machine of whoever verifies; its logits count'
    """
    if isinstance(suspect, Endpoint):
        return f"over HTTP (protocol {suspect.protocol}), {suspect.batch_size} inputs a request"
    if isinstance(suspect, nn.Module):
        kind = type(suspect).__name__
        return f"as a torch module ({kind}), on the machine of whoever verifies; its logits count"
    if callable(suspect):
        return "as a function, on the machine of whoever verifies"
    return "by somebody else, whose answers were handed over"


def _call_twice(
    suspect: Callable[[Any], Any],
    inputs: Tensor,
    classes: Classes,
    given: Callable[[Tensor], Any],
) -> tuple[Tensor, list[str]]:
    """Return the answers of a function, and a remark where it answers the first inputs anew."""
    if isinstance(suspect, Endpoint):
        if isinstance(given(inputs[:1]), dict):
            raise InputError("suspect: an Endpoint sends no inputs with names; a function can")
        answers, changed = suspect.ask(inputs, classes), suspect.changed
    else:
        parts = [_call(suspect, given(part), classes) for part in split_to_ask(inputs)]
        if len({part.shape[1:] for part in parts}) > 1:
            raise InputError("suspect: the function answers each batch in another shape")
        answers = torch.cat(parts)
        repeated = _call(suspect, given(inputs[:NUM_REPEATED]), classes)
        changed = fraction_changed(answers[:NUM_REPEATED], repeated)
    if changed:
        return answers, [
            f"{100 * changed:.0f} % of the answers that were asked for twice differ: noise, or a "
            "module in training mode"
        ]
    return answers, []


def _given(inputs: Tensor, raw: bool, layout: Layout | None) -> Any:
    """Return ``inputs`` (n, ...) as a function gets them."""
    if layout is not None:
        return layout.unpack(inputs) if raw else named(layout, inputs)
    return inputs if raw else as_input(inputs)


def _call(suspect: Callable[[Any], Any], inputs: Any, classes: Classes) -> Tensor:
    """Return the answers (n, K), or labels (n,), of a function to ``inputs`` (n, ...)."""
    try:
        answers = suspect(inputs)
    except Exception as error:
        raise InputError(f"suspect: the function raises {error!r:.200}") from error
    return _as_table(answers, classes)


def _as_table(answers: Any, classes: Classes) -> Tensor:
    """Return the answers (N, K), or labels (N,), of an array or of a list of answers."""
    try:
        table = torch.as_tensor(
            answers if isinstance(answers, Tensor) else _array(answers, classes)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"suspect: its answers are no array of numbers ({error})") from error
    if table.ndim not in (1, 2):
        raise InputError(f"suspect: answers of shape {tuple(table.shape)}; (N, K) is needed")
    return table.detach().cpu()


def _array(answers: Any, classes: Classes) -> np.ndarray:
    """Return what numpy makes of ``answers``, or of each of them in any form of ``row_of``."""
    entries = answers if isinstance(answers, list | tuple) else None
    if entries is None or all(isinstance(entry, int | float | Tensor) for entry in entries):
        array = np.array(answers)
        if array.dtype.kind not in "OUS":
            return array
        entries = array.tolist()
    if any(isinstance(entry, np.ndarray | Tensor) for entry in entries):
        return np.array(answers)
    rows = [row_of(entry, classes, "suspect") for entry in map(_as_list, entries)]
    array = np.array(rows, dtype=float)
    return array[:, 0] if array.shape[1:] == (1,) else array


def _as_list(entry: Any) -> Any:
    return list(entry) if isinstance(entry, tuple) else entry


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return ``labels`` (N,) as probabilities (N, K). Raise ``InputError`` for what is no label."""
    is_label = (labels.double() == labels.double().round()) & (labels >= 0) & (labels < classes)
    if not is_label.all():
        raise InputError(
            f"suspect: one number for each probe, but not all are labels from 0 to {classes - 1}"
        )
    return F.one_hot(labels.long(), classes).float()
