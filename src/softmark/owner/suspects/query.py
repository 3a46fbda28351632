"""What a suspect answers, whatever it is: a module, a function, an array, an endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.owner.suspects.diagnose import probabilities
from softmark.owner.suspects.endpoint import Endpoint, differing
from softmark.training import predict

AGAIN = 8  # inputs that a function is asked about twice


def ask(
    suspect: Any, samples: Samples, classes: int, logits: bool, where: str = "suspect"
) -> tuple[Tensor, list[str]]:
    """The answers (N, K) of ``suspect`` as probabilities, and what is to be said of them."""
    said: list[str] = []
    if isinstance(suspect, nn.Module):
        try:
            answers = predict(suspect, samples.inputs)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{where}: the module can't take the probes ({reason})") from error
        logits = False
    elif callable(suspect):
        answers, said = _called(suspect, samples.inputs, where)
    else:
        answers = _table(suspect, where)
    if answers.ndim == 1:
        answers, logits = _one_hot(answers, classes, where), False
    if answers.shape != (len(samples), classes):
        raise InputError(
            f"{where}: {answers.shape[0]} answers with {answers.shape[1:].numel()} classes; "
            f"{len(samples)} probes and a model of {classes} classes were committed to"
        )
    return probabilities(answers, logits, where), said


def _called(
    suspect: Callable[[Tensor], Any], inputs: Tensor, where: str
) -> tuple[Tensor, list[str]]:
    if isinstance(suspect, Endpoint):
        answers, changed = suspect(inputs), suspect.changed
    else:
        try:
            answers, again = suspect(inputs), suspect(inputs[:AGAIN])
        except Exception as error:
            raise InputError(f"{where}: the function raises {error!r:.200}") from error
        answers = _table(answers, where)
        changed = differing(answers[:AGAIN], _table(again, where))
    if changed:
        return answers, [
            f"{100 * changed:.0f} % of the answers that were asked for twice differ: noise, or a "
            "module in training mode"
        ]
    return answers, []


def _table(answers: Any, where: str) -> Tensor:
    try:
        table = torch.as_tensor(answers if isinstance(answers, Tensor) else np.array(answers))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{where}: its answers are no array of numbers ({error})") from error
    if table.ndim not in (1, 2):
        raise InputError(f"{where}: answers of shape {tuple(table.shape)}; (N, K) is needed")
    return table.detach().cpu()


def _one_hot(labels: Tensor, classes: int, where: str) -> Tensor:
    whole = labels.double() == labels.double().round()
    if not (whole & (labels >= 0) & (labels < classes)).all():
        raise InputError(f"{where}: one number a probe, but not all are labels 0 to {classes - 1}")
    return F.one_hot(labels.long(), classes).float()
