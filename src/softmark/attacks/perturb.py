"""Pictures moved against a network: projected gradient steps (Madry et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def perturbed(
    network: nn.Module, images: Tensor, labels: Tensor, eps: float, iterations: int
) -> Tensor:
    """Float ``images`` in [0, 1], each pixel moved by at most ``eps``, so that the loss rises.

    It begins at a random point of the box and takes ``iterations`` steps of 2.5 eps / iterations
    along the gradient's sign. The network's mode and gradients stay as they were.
    """
    moved = images + eps * (2 * torch.rand_like(images) - 1)
    for _ in range(iterations):
        moved = moved.clamp(0, 1).detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(network(moved).float(), labels), moved)
        moved = moved.detach() + 2.5 * eps / iterations * slope.sign()
        moved = images + (moved - images).clamp(-eps, eps)
    return moved.clamp(0, 1).detach()
