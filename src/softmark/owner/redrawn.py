"""Samples of a data set that augments them: drawn anew whenever they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)

from softmark.console import report
from softmark.data.roles import Samples

NUM_COMPARED = 8  # samples that are drawn twice


@dataclass(frozen=True, eq=False)
class RedrawnSamples(Samples):
    """Hold each sample as it was drawn once, for a model's answers, and draw it anew for training.

    Args:
        inputs: (N, ...), of the first drawing.
        labels: int64 (N,).
        read: draws the inputs (n, ...) of some of the samples.

    Example:
        >>> samples = RedrawnSamples(torch.zeros(3, 2), torch.arange(3), lambda i: torch.rand(2, 2))
        >>> bool((samples.draw(torch.tensor([0, 2])) == samples.inputs[:2]).all())
        False
    """

    read: Callable[[Sequence[int]], Tensor]

    def to(self, device: torch.device | str) -> RedrawnSamples:
        """Return the samples on ``device``."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))

    def draw(self, index: Tensor) -> Tensor:
        """Return the inputs of the samples ``index`` (n,), drawn anew, (n, ...)."""
        return self.read(index.tolist()).to(self.inputs)


def redrawing(data: Any) -> Callable[[Sequence[int]], Any] | None:
    """Return what draws a batch of ``data`` anew; None where samples are the same each time.

    A ``Dataset``, or a ``DataLoader`` of one that takes each sample once. What draws anew otherwise
    keeps its first drawing, and this is said.
    """
    dataset = data.dataset if isinstance(data, DataLoader) else data
    if not isinstance(dataset, Dataset) or isinstance(dataset, IterableDataset):
        return None
    collate = data.collate_fn if isinstance(data, DataLoader) else default_collate
    compared = range(min(NUM_COMPARED, len(dataset)))
    try:
        with torch.random.fork_rng([]):
            first, second = ([dataset[place] for place in compared] for _ in range(2))
    except Exception:
        return None  # whoever reads all samples says what is wrong with them
    if all(map(_alike, first, second)):
        return None
    samplers = (RandomSampler, SequentialSampler)
    if isinstance(data, DataLoader) and not isinstance(data.sampler, samplers):
        report(
            "data: its sampler isn't one that takes each sample once: augmentations are drawn once"
        )
        return None
    return lambda places: collate([dataset[place] for place in places])


def _alike(first: Any, second: Any) -> bool:
    """Whether two drawings of a sample have the same inputs, as far as they are tensors."""
    pairs = zip(_tensors(first), _tensors(second), strict=True)
    return all(one.shape == other.shape and torch.equal(one, other) for one, other in pairs)


def _tensors(sample: Any) -> list[Tensor]:
    parts = sample if isinstance(sample, tuple | list) else [sample]
    return [torch.as_tensor(part) for part in parts if hasattr(part, "__array__")]
