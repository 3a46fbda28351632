"""Random crops and mirrored pictures, a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.recipe import Recipe


def check_shifts(inputs: Tensor, recipe: Recipe) -> None:
    """Raise ``InputError`` where ``inputs`` can't be cropped or mirrored as ``recipe`` says."""
    if (recipe.pad or recipe.flip) and inputs.ndim != 4:
        raise InputError(
            f"recipe.pad={recipe.pad}, recipe.flip={recipe.flip}: inputs of shape "
            f"{tuple(inputs.shape[1:])} are no pictures; 0 and false are needed"
        )
    if recipe.pad and recipe.pad >= min(inputs.shape[2:]):
        raise InputError(
            f"recipe.pad={recipe.pad}: pictures of {inputs.shape[2]} x {inputs.shape[3]} pixels "
            f"can be padded by {min(inputs.shape[2:]) - 1} at most"
        )


def crop_and_flip(images: Tensor, pad: int, flip: bool) -> Tensor:
    """Shift each picture by up to ``pad`` pixels (edges reflected) and mirror it, at random.

    One gather for the whole batch, on uint8.

    Args:
        images: uint8 (N, C, H, W).
        pad: pixels.
        flip: whether half of the pictures are mirrored.

    Returns:
        Pictures of the same shape.
    """
    if pad == 0 and not flip:
        return images
    count, channels, height, width = images.shape
    device = images.device
    shift = torch.randint(-pad, pad + 1, (2, count, 1), device=device)
    rows = _reflect(torch.arange(height, device=device) + shift[0], height)  # (N, H)
    columns = _reflect(torch.arange(width, device=device) + shift[1], width)  # (N, W)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    index = rows[:, :, None] * width + columns[:, None, :]  # (N, H, W)
    index = index.reshape(count, 1, -1).expand(-1, channels, -1)  # (N, C, H * W)
    return images.reshape(count, channels, -1).gather(2, index).reshape(images.shape)


def _reflect(position: Tensor, size: int) -> Tensor:
    """Return ``position`` with what lies outside of 0..size-1 reflected at the edge."""
    return (size - 1) - ((size - 1) - position.abs()).abs()
