"""A model of the user's own, tried once where it comes in: before anything is trained."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.nodes import short

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# What torch.compile, and these, put before the names of a module's weights.
COMPILED, WRAPPED = "_orig_mod.", "module."


def check_model(model: nn.Module, inputs: Tensor, what: str = "data") -> int:
    """Return how many classes K ``model`` has: it maps a batch of ``what`` to logits (N, K).

    Raises ``InputError`` for anything else: what is no module, can't take the inputs, or gives
    probabilities.
    """
    _check_module(model)
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Not inference_mode: what a module keeps of its first batch couldn't be trained with.
        with torch.no_grad():
            logits = _logits(model.eval(), inputs, what)
    finally:
        for module, mode in modes:
            module.training = mode
    sums = logits.float().sum(1)
    if (logits >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise InputError("model: it gives probabilities; logits are needed, without a softmax")
    return logits.shape[1]


def plain_copy(model: nn.Module) -> nn.Module:
    """Return a copy of ``model``, out of what torch.compile, DataParallel and others wrapped.

    Raises:
        InputError: it is no module, or can't be copied.
    """
    _check_module(model)
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise InputError(
            "model: TorchScript can be verified and not marked: mark the module that it was made "
            "of, and script or trace the marked one"
        )
    copied = _copied(_unwrapped(model))
    for module in list(copied.modules()):
        for name, child in list(module.named_children()):
            setattr(module, name, _unwrapped(child))
    return copied


def check_trainable(model: nn.Module, inputs: Tensor) -> None:
    """Raise ``InputError`` where ``model`` can't be trained on ``inputs`` (N, ...)."""
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("model: none of its weights can be trained (requires_grad)")
    gpus = {weight.device for weight in model.parameters() if weight.device.type == "cuda"}
    # Dropout draws numbers, and BatchNorm learns: neither may be seen afterwards.
    with torch.random.fork_rng(gpus), torch.enable_grad():
        logits = _logits(_copied(model).train(), inputs, "data", " while it trains")
    if not logits.requires_grad:
        raise InputError(
            "model: no gradient reaches its weights: while it trains its forward must not be under "
            "no_grad, inference_mode or detach"
        )


def plain_names(state: dict[str, Tensor], names: set[str]) -> dict[str, Tensor]:
    """Return the state dict ``state`` without the prefixes of wrappers, where that gives ``names``.

    Args:
        state: of a module, or of one that was wrapped.
        names: of the weights of the module that it is for.

    Example:
        >>> plain_names({"module._orig_mod.0.bias": torch.zeros(1)}, {"0.bias"})
        {'0.bias': tensor([0.])}
    """
    ways = (
        lambda name: name,
        lambda name: name.removeprefix(WRAPPED),
        lambda name: name.removeprefix(WRAPPED).removeprefix(WRAPPED),
        lambda name: name.replace(WRAPPED, ""),
    )
    for way in ways:
        plain = {
            way(name.replace(COMPILED, "")): tensor
            for name, tensor in state.items()
            if name in names or name != "n_averaged"  # AveragedModel counts beside the module
        }
        if plain.keys() == names:
            return plain
    return state


def _check_module(model: object) -> None:
    """Raise ``InputError`` where ``model`` is no module."""
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}: a torch.nn.Module is needed")


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy of ``model``. Raise ``InputError`` where it has none."""
    # What a module computed last (as weight_norm does) is copied without where it came from.
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    try:
        return copy.deepcopy(model, computed)
    except Exception as error:  # of whatever its attributes are
        raise InputError(
            f"model: it can't be copied ({short(error)}): a lock or a file must not be an "
            "attribute; make it where it is used"
        ) from error


def _inner(module: nn.Module) -> nn.Module | None:
    """Return what ``module`` has wrapped; None where it is no wrapper."""
    if isinstance(module, WRAPPERS):
        return module.module
    return dict(module.named_children()).get(COMPILED.rstrip("."))


def _unwrapped(model: nn.Module) -> nn.Module:
    """Return what the wrappers around ``model`` hold."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _logits(model: nn.Module, inputs: Tensor, what: str, mode: str = "") -> Tensor:
    """Return the logits (N, K) of a few ``inputs``. Raise ``InputError`` where they are none."""
    home = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    about = f"{what} of shape {tuple(inputs.shape[1:])} and type {inputs.dtype}"
    few = inputs[:8]
    try:
        logits = model(as_input(few).to(home))
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        types = {weight.dtype for weight in model.parameters()} - {torch.float32}
        hint = f"; its weights are {types.pop()}: model.float() is needed" if types else ""
        raise InputError(f"model: it can't take {about}{mode} ({reason}){hint}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(few):
        is_tensor, article = isinstance(logits, Tensor), "a " if mode else ""
        given = tuple(logits.shape) if is_tensor else article + type(logits).__name__
        raise InputError(f"model: it gives {given}{mode} for {len(few)} {about}; logits (N, K)")
    return logits
