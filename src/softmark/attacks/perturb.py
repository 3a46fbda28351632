"""Pictures moved against a network: projected gradient steps (Madry et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.pixels import as_input, as_pixels
from softmark.data.roles import Samples
from softmark.errors import InputError


def check_perturbation(group: str, eps: float, iterations: int) -> None:
    """Raise ``InputError`` for numbers that can't be; ``group``: attack or method."""
    if not 0 < eps <= 1:
        raise InputError(f"{group}.eps={eps}: above 0, at most 1")
    if not iterations >= 1:
        raise InputError(f"{group}.iterations={iterations}: at least 1")


def perturbed(
    network: nn.Module, images: Tensor, labels: Tensor, eps: float, iterations: int
) -> Tensor:
    """Return ``images`` moved so that the loss rises; the network's mode and gradients stay.

    Begin at a random point of the box around each picture and take steps of 2.5 eps / iterations
    along the gradient's sign.

    Args:
        network: Gives logits (N, K).
        images: Floats in [0, 1], (N, C, H, W).
        labels: Classes (N,).
        eps: How far each pixel is moved at most.
        iterations: How many steps are taken.
    """
    moved = images + eps * (2 * torch.rand_like(images) - 1)
    for _ in range(iterations):
        moved = moved.clamp(0, 1).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(network(moved).float(), labels), moved)
        moved = moved.detach() + 2.5 * eps / iterations * slope.sign()
        moved = images + (moved - images).clamp(-eps, eps)
    return moved.clamp(0, 1).detach()


def perturbed_pictures(network: nn.Module, samples: Samples, eps: float, iterations: int) -> Tensor:
    """Return the pictures of ``samples``, each moved as ``perturbed`` does: uint8 (N, C, H, W)."""
    parts = [
        perturbed(network, as_input(images), labels, eps, iterations)
        for images, labels in zip(samples.inputs.split(500), samples.labels.split(500), strict=True)
    ]
    return as_pixels(255 * torch.cat(parts))
