"""An attack on a module of your own, without any config: what a call of an ``Attack`` does."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn

from softmark.attacks.attack import RECIPE, Attack, AttackResult
from softmark.attacks.shadow import renewed
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.devices import usual_torch
from softmark.errors import InputError
from softmark.models.access import answers_of, expose
from softmark.models.own import check_model, plain_copy
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Fit


@usual_torch()
def run(
    attack: Attack, model: nn.Module | Sequence[nn.Module], data: tuple[Tensor, Tensor]
) -> AttackResult:
    """Attack ``model`` with ``data``, as ``Attack.__call__`` says."""
    models = [model] if isinstance(model, nn.Module) else list(model)
    if not models or attack.merges == isinstance(model, nn.Module):
        needed = "a list of models" if attack.merges else "one model"
        raise InputError(f"{type(attack).__name__} takes {needed}")
    samples = _samples(data, attack.takes_pictures)
    # An attack may change what it gets, and needs all gradients.
    copies = [plain_copy(one).cpu().eval().requires_grad_(True) for one in models]
    attack = fitted(attack, copies[0], RECIPE)
    targets = [expose(one, attack.access, check_model(one, samples.inputs)) for one in copies]
    result = attack.apply(targets if attack.merges else targets[0], samples, Fit())
    network = result.network
    plain = answers_of(network)
    if attack.serve(plain) is not plain:
        network = Served(network, attack)
    return replace(result, network=network.eval())


class Served(nn.Module):
    """A model behind what an attacker puts before it.

    It gives the log-probabilities (N, K) of what is served, on the CPU and without gradients.
    Answers that don't sum to 1, as rounded ones, are told as they are.
    """

    def __init__(self, network: nn.Module, attack: Attack):
        super().__init__()
        self.network, self.attack = network, attack

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.detach().cpu()
        if self.attack.takes_pictures:
            inputs = _pictures(inputs)
        with torch.no_grad():
            return log_of(self.attack.serve(answers_of(self.network))(inputs))


def fitted(part: Any, model: nn.Module, recipe: Recipe) -> Any:
    """Return ``part``, an attack or what one is made of, with what was left open.

    That is the architecture of ``model`` where ``network`` is None, ``recipe`` where the recipe is
    the default, and csp where ``method`` is None.
    """
    if isinstance(part, functools.partial):
        if not is_dataclass(part.func):
            return part
        given = {one.name: one.default for one in fields(part.func)} | part.keywords
        changes = _changes(given, model, recipe)
        return functools.partial(part.func, **{**part.keywords, **changes})
    if isinstance(part, Mapping):
        return {name: fitted(one, model, recipe) for name, one in part.items()}
    if not is_dataclass(part) or isinstance(part, type | Recipe):
        return part
    return replace(
        part, **_changes({f.name: getattr(part, f.name) for f in fields(part)}, model, recipe)
    )


def _changes(given: dict[str, Any], model: nn.Module, recipe: Recipe) -> dict[str, Any]:
    """Return what ``fitted`` puts in place of some of the fields ``given``."""
    changes: dict[str, Any] = {}
    for name, value in given.items():
        if name == "network" and value is None:
            # New weights: whoever asks a model doesn't hold those that it has.
            changes[name] = functools.partial(renewed, renewed(model))
        elif name == "recipe" and value == RECIPE:
            changes[name] = recipe
        elif name == "method" and value is None:
            # By name: methods know attacks, and no attack knows a method by itself.
            changes[name] = resolve_name("softmark.methods.csp:CSP")(recipe=recipe)
        elif name != "method" and (new := fitted(value, model, recipe)) is not value:
            changes[name] = new
    return changes


def _samples(data: tuple[Tensor, Tensor], takes_pictures: bool) -> Samples:
    """Return ``data`` as samples; raise ``InputError`` where it is no (inputs, labels)."""
    good = isinstance(data, tuple | list) and len(data) == 2
    if not good or not all(isinstance(one, Tensor) for one in data):
        raise InputError("data: two tensors, inputs (N, ...) and labels (N,), are needed")
    inputs, labels = (one.detach().cpu() for one in data)
    if labels.ndim != 1 or len(labels) != len(inputs) or labels.is_floating_point():
        raise InputError(
            f"labels: {len(inputs)} whole numbers are needed, one for each of the inputs"
        )
    return Samples(_pictures(inputs) if takes_pictures else inputs, labels.long())


def _pictures(inputs: Tensor) -> Tensor:
    """Return ``inputs`` as uint8 (N, C, H, W); raise ``InputError`` where they are no pictures."""
    is_picture = inputs.ndim == 4 and inputs.shape[1] in (1, 3)
    if is_picture and inputs.dtype == torch.uint8:
        return inputs
    if is_picture and inputs.is_floating_point() and inputs.min() >= 0 and inputs.max() <= 1:
        return as_pixels(255 * inputs)
    raise InputError(
        f"inputs of shape {tuple(inputs.shape)}: this attack changes pictures, (N, C, H, W) of one "
        "channel or three, uint8 or floats from 0 to 1"
    )
