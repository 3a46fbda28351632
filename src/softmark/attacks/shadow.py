"""Networks of the attacker's own: one with new weights, and one that they train on their labels."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable

from torch import nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.networks import build
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit

# A conf/model node (partial, which takes the shape of the pictures), or whatever makes a module.
NetworkFactory = Callable[..., nn.Module]


def new_network(network: NetworkFactory | None, data: Samples, classes: int) -> nn.Module:
    """Return a network with new weights.

    Args:
        network: A conf/model node, partial; a module, of which a copy with new weights is made; or
            a function without arguments that makes one.
        data: Pictures like those that it is to take.
        classes: How many classes it is to tell apart.

    Raises:
        InputError: Where there is nothing to make a network of.
    """
    if network is None:
        raise InputError("attack.network=None: a module, or a function that makes one, is needed")
    if isinstance(network, nn.Module):
        return renewed(network)
    if isinstance(network, functools.partial) and _takes_shape(network):
        return build(network, data, classes)
    return network()


def _takes_shape(network: functools.partial[nn.Module]) -> bool:
    """Return whether ``network`` takes the arguments that ``build`` gives."""
    known = inspect.signature(network.func).parameters
    return "image_shape" in known or any(one.kind is one.VAR_KEYWORD for one in known.values())


def renewed(network: nn.Module) -> nn.Module:
    """Return a copy of ``network`` with new weights, all of which can be trained.

    Raises ``InputError`` where a layer has weights and no ``reset_parameters``.
    """
    network = copy.deepcopy(network).requires_grad_(True)
    for name, layer in network.named_modules():
        reset = getattr(layer, "reset_parameters", getattr(layer, "_reset_parameters", None))
        if reset is not None:
            reset()
        elif next(layer.parameters(recurse=False), None) is not None:
            raise InputError(
                f"attack.network: {name or 'the model'} ({type(layer).__name__}) can't draw new "
                "weights; network= takes a module, or a function that makes one"
            )
    return network


def train_shadow_model(
    network: NetworkFactory | None, recipe: Recipe, data: Samples, classes: int, fit: Fit
) -> nn.Module:
    """Train a new network on the attacker's labels alone."""
    return fit(Classifier(new_network(network, data, classes), recipe), data, "shadow")
