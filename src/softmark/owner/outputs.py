"""What a model gives for a batch: logits, or an output of a library that holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from softmark.errors import InputError


def logits_of(output: Any, where: str = "model") -> Tensor:
    """Return the logits (N, K) in what a model gave.

    Args:
        output: a tensor, or an object or a mapping with ``logits``, such as transformers'
            ``ModelOutput``.
        where: what a message calls the model.

    Raises:
        InputError: for anything else.

    Example:
        >>> logits_of({"logits": torch.zeros(2, 10), "hidden": None}).shape
        torch.Size([2, 10])
    """
    held = output.get("logits") if isinstance(output, Mapping) else None
    held = getattr(output, "logits", held)
    if isinstance(output, Tensor) or isinstance(held, Tensor):
        return output if isinstance(output, Tensor) else held
    kind = type(output).__name__
    if isinstance(output, Mapping):
        kind = f"{kind} of {', '.join(map(str, output))}"
    raise InputError(
        f"{where}: it gives a {kind}; logits (N, K) are needed, or an output with them"
    )
