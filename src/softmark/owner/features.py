"""Whether a mark in the features can be planted: only what a last linear layer is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from softmark.console import report
from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.methods.parts.feature_mark import inputs_of, last_layer

FEATURE_WEIGHT = "method.marking.feature_weight"


def has_features(model: nn.Module, inputs: Tensor, classes: int) -> bool:
    """Return whether an ``nn.Linear`` that is called as a module gives the logits of ``model``.

    A convolution or a function that gives them, and TorchScript, have no such layer.

    Args:
        model: maps ``inputs`` (N, ...) to logits (N, K).
        inputs: two of them are asked.
        classes: K.

    Example:
        >>> has_features(model, inputs, 10), has_features(nn.Conv1d(16, 10, 1), inputs, 10)
        (True, False)
    """
    try:
        layer = last_layer(model, classes)
    except InputError:
        return False
    home = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in model.modules()]
    with torch.no_grad(), inputs_of(layer) as features:
        model.eval()(as_input(inputs[:2]).to(home))
    for module, mode in modes:
        module.training = mode
    return bool(features)


def without_features(overrides: list[str], classes: int) -> list[str]:
    """Return ``overrides`` that mark the answers alone, and say so on one line.

    Those that ask for a mark in the features stay as they are.
    """
    if any(word.startswith(f"{FEATURE_WEIGHT}=") for word in overrides):
        return overrides
    report(
        f"the model has no nn.Linear with {classes} outputs that gives its logits: the answers "
        "alone are marked, and a new last layer will remove the mark"
    )
    return [*overrides, f"{FEATURE_WEIGHT}=0"]
