"""Models and data as an owner has them: rows of floats, a plain torch module, no picture."""

from __future__ import annotations

import functools

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

HELD = slice(1000, 1500)  # probes
REST = slice(1500, None)


@functools.cache
def rows() -> tuple[Tensor, Tensor]:
    """The digits as rows of 64 floats, shuffled, and their labels."""
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(inputs / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]


def owned() -> tuple[Tensor, Tensor]:
    inputs, labels = rows()
    return inputs[:1000], labels[:1000]


def probes() -> Tensor:
    return rows()[0][HELD]


def labelled() -> tuple[Tensor, Tensor]:
    """The probes, and what they are."""
    inputs, labels = rows()
    return inputs[HELD], labels[HELD]


def pictures() -> tuple[Tensor, Tensor]:
    """The same as uint8 pictures, (N, 1, 8, 8)."""
    inputs, labels = rows()
    return (255 * inputs).round().to(torch.uint8).reshape(-1, 1, 8, 8), labels


def build(classes: int = 10) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, classes)
    )


def trained(seed: int, loss: nn.Module | None = None, epochs: int = 15) -> nn.Module:
    """A model that was trained by a plain loop of torch, as somebody else's would be."""
    torch.manual_seed(seed)
    return looped(build(), *owned(), epochs, loss or nn.CrossEntropyLoss())


def looped(
    model: nn.Module, inputs: Tensor, labels: Tensor, epochs: int, loss: nn.Module
) -> nn.Module:
    optimizer = torch.optim.Adam(model.train().parameters(), lr=3e-3)
    for _ in range(epochs):
        for index in torch.randperm(len(inputs)).split(50):
            optimizer.zero_grad()
            loss(model(inputs[index]), labels[index]).backward()
            optimizer.step()
    return model.eval()


def fitted(model: nn.Module, part: slice, epochs: int) -> nn.Module:
    """``model``, trained on a ``part`` of the pictures."""
    inputs, labels = (each[part] for each in pictures())
    torch.manual_seed(0)
    return looped(model, inputs / 255, labels, epochs, nn.CrossEntropyLoss())


def seer(seed: int) -> nn.Module:
    """A small network for the pictures."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveMaxPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


@functools.cache
def victim() -> nn.Module:
    return trained(0)


@functools.cache
def innocent() -> nn.Module:
    return trained(1)
