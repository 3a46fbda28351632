"""Pictures as uint8, as they are kept, and as floats, as networks take them."""

from __future__ import annotations

import torch
from torch import Tensor


def as_input(inputs: Tensor) -> Tensor:
    """Return what networks take: of uint8 pictures floats in [0, 1], channels last in memory.

    Anything else (rows, token ids, normalised pictures) stays as it is.

    Example:
        >>> as_input(torch.tensor([0, 51, 255], dtype=torch.uint8))
        tensor([0.0000, 0.2000, 1.0000])
    """
    if inputs.dtype != torch.uint8:
        return inputs
    if inputs.ndim == 4:
        inputs = inputs.to(memory_format=torch.channels_last)
    return inputs.float().div_(255)


def as_pixels(values: Tensor) -> Tensor:
    """Return floats from 0 (black) to 255 (white) as uint8; what lies outside is cut off."""
    return values.round().clamp(0, 255).to(torch.uint8)
