"""Models whose inputs have names, as token ids and their mask, or whose logits lie in an output."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.pixels import as_input
from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.outputs import logits_of

MAX_WHOLE = 2**24  # up to which float32 holds each whole number
MASK = "attention_mask"  # where it is 0 a model doesn't look
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (
    torch.uint8, torch.bool, torch.int32, torch.int64, torch.float16, torch.float32,
)}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Say where each of several named inputs stands in one tensor (N, W) of them all.

    Args:
        names: of the inputs, as the model's forward calls them.
        shapes: of one sample of each.
        types: of each, one of ``DTYPES``.

    Example:
        >>> parts = {"ids": torch.tensor([[5, 7], [6, 0]]), "mask": torch.tensor([[1, 1], [1, 0]])}
        >>> layout, packed = Layout.pack(parts)
        >>> packed
        tensor([[5, 7, 1, 1],
                [6, 0, 1, 0]])
        >>> layout.unpack(packed)["mask"]
        tensor([[1, 1],
                [1, 0]])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]

    @classmethod
    def pack(cls, parts: Mapping[str, Tensor]) -> tuple[Layout, Tensor]:
        """Return the layout of ``parts``, each (N, ...), and all of them as one tensor (N, W).

        Raises ``InputError`` for none, for several lengths, and for types that aren't known.
        """
        if not parts or len({len(part) for part in parts.values()}) > 1:
            sizes = {name: len(part) for name, part in parts.items()}
            raise InputError(f"inputs of {sizes or 'no names'}: each needs one entry for a sample")
        types = [str(part.dtype).removeprefix("torch.") for part in parts.values()]
        if unknown := set(types) - set(DTYPES):
            raise InputError(f"inputs of type {sorted(unknown)}: {', '.join(DTYPES)} are known")
        layout = cls(tuple(parts), tuple(tuple(p.shape[1:]) for p in parts.values()), tuple(types))
        floats = [part.is_floating_point() for part in parts.values()]
        dtype = torch.float32 if any(floats) else torch.int64
        whole = [int(part.max()) for part in parts.values() if not part.is_floating_point()]
        if any(floats) and max(whole, default=0) > MAX_WHOLE:
            raise InputError(f"inputs: whole numbers beside floats go to {MAX_WHOLE:,} at most")
        rows = [part.reshape(len(part), -1).to(dtype) for part in parts.values()]
        return layout, torch.cat(rows, 1)

    def unpack(self, packed: Tensor) -> dict[str, Tensor]:
        """Return the named inputs in ``packed`` (N, W)."""
        sizes = [math.prod(shape) for shape in self.shapes]
        parts = zip(self.names, packed.split(sizes, 1), self.shapes, self.types, strict=True)
        return {
            name: part.reshape(len(packed), *shape).to(DTYPES[kind])
            for name, part, shape, kind in parts
        }

    def as_json(self) -> str:
        """Return the layout as text."""
        return json.dumps([self.names, self.shapes, self.types])

    @classmethod
    def read(cls, text: str, width: int, where: str) -> Layout:
        """Return what ``as_json`` wrote for W = ``width``. Raise ``InputError`` for anything else.

        ``where``: what messages begin with.
        """
        try:
            names, shapes, types = json.loads(text)
            valid = all(isinstance(name, str) and len(name) < 200 for name in names)
            valid = valid and set(types) <= set(DTYPES)
            valid = valid and all(type(size) is int and size > 0 for s in shapes for size in s)
            valid = valid and len(set(names)) == len(names) == len(shapes) == len(types)
            valid = valid and sum(map(math.prod, shapes)) == width
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            raise InputError(f"{where}: no names of inputs ({short(error)})") from error
        if not valid:
            raise InputError(f"{where}: its names of inputs don't fit the probes")
        return cls(tuple(names), tuple(map(tuple, shapes)), tuple(types))


def joined(batches: list[dict[str, Tensor]], where: str) -> dict[str, Tensor]:
    """Return all ``batches`` of named inputs as one, padded with 0 where a mask says so.

    Raises ``InputError`` where names or shapes differ otherwise.
    """
    names = list(batches[0])
    if any(list(batch) != names for batch in batches):
        raise InputError(f"{where}: batches have inputs of several names")
    widest = max(batch[MASK].shape[1] for batch in batches) if MASK in names else None
    whole = {}
    for name in names:
        parts = [batch[name] for batch in batches]
        if widest is not None:
            parts = [_widened(batch[name], batch[MASK], widest) for batch in batches]
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = sorted({tuple(part.shape[1:]) for part in parts})[:2]
            raise InputError(
                f"{where}: {name!r} of shapes {shapes[0]} and {shapes[1]}: pad them to one length, "
                f"or give an {MASK!r}, beside which softmark pads with 0"
            )
        whole[name] = torch.cat(parts)
    return whole


def _widened(part: Tensor, mask: Tensor, width: int) -> Tensor:
    """Return ``part`` (N, L, ...) with zeros up to ``width``, if it is as long as the mask."""
    if part.ndim < 2 or part.shape[1] != mask.shape[1]:
        return part
    return F.pad(part, (0, 0) * (part.ndim - 2) + (0, width - part.shape[1]))


class Adapted(nn.Module):
    """Call a module with named inputs that are packed in one tensor, and give its logits.

    Args:
        module: maps the named inputs, or a batch, to logits or an output that holds them.
        layout: of the inputs; None for one that has no name.
    """

    def __init__(self, module: nn.Module, layout: Layout | None):
        super().__init__()
        self.module, self.layout = module, layout

    def forward(self, inputs: Tensor) -> Tensor:
        if self.layout is None:
            return logits_of(self.module(inputs))
        return logits_of(self.module(**named(self.layout, inputs)))


class InTypeOfWeights(nn.Module):
    """Give a module its floats in the type of its weights, such as bfloat16.

    Args:
        module: whose weights have one type.
        dtype: this type.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, *given: Tensor, **named: Tensor) -> Any:
        named = {name: self._cast(part) for name, part in named.items()}
        return self.module(*map(self._cast, given), **named)

    def _cast(self, part: Tensor) -> Tensor:
        return part.to(self.dtype) if part.is_floating_point() else part


def in_type_of_weights(module: nn.Module) -> nn.Module:
    """Return ``module``, or what gives it floats in the type of its weights if that isn't float32.

    Example:
        >>> type(in_type_of_weights(nn.Linear(2, 2).bfloat16())).__name__
        'InTypeOfWeights'
    """
    types = {weight.dtype for weight in module.parameters() if weight.is_floating_point()}
    if len(types) != 1 or types == {torch.float32}:
        return module
    return InTypeOfWeights(module, types.pop())


def named(layout: Layout, packed: Tensor) -> dict[str, Tensor]:
    """Return the named inputs as a model takes them: uint8 as floats in [0, 1]."""
    return {name: as_input(part) for name, part in layout.unpack(packed).items()}


def adapted(model: Any, inputs: Tensor, layout: Layout | None) -> Any:
    """Return ``model``, or what makes logits of one tensor where it doesn't itself.

    Args:
        model: a module; anything else is returned as it is.
        inputs: (N, ...), packed where there is a ``layout``.
        layout: of the inputs; None for one that has no name.
    """
    if not isinstance(model, nn.Module) or layout is not None:
        return Adapted(model, layout) if isinstance(model, nn.Module) else model
    if getattr(model, "aux_logits", False):  # torchvision's Inception and GoogLeNet, in training
        return Adapted(model, None)
    home = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            output = model.eval()(as_input(inputs[:2]).to(home))
    except Exception:  # said where the model is checked
        return model
    finally:
        for module, mode in modes:
            module.training = mode
    has_logits = isinstance(output, Mapping) or isinstance(getattr(output, "logits", None), Tensor)
    return Adapted(model, None) if has_logits else model


def without_adapter(model: nn.Module) -> nn.Module:
    """Return the module that ``adapted`` was given."""
    return model.module if isinstance(model, Adapted) else model
