"""Data sets that augment their samples."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from softmark.batches import Batches
from softmark.owner.redrawn import RedrawnSamples
from softmark.owner.samples import as_samples
from softmark.recipe import Recipe

LABELS = torch.arange(40) % 10


class Noisy(Dataset):
    """Rows that are their label, and noise of each drawing."""

    def __len__(self):
        return len(LABELS)

    def __getitem__(self, place):
        return LABELS[place] + 0.1 * torch.rand(3), int(LABELS[place])


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: DataLoader(d, batch_size=7, shuffle=True)])
def test_augmentations_are_drawn_anew_each_epoch(wrap):
    samples = as_samples(wrap(Noisy()))
    assert isinstance(samples, RedrawnSamples)
    assert torch.equal(samples.labels, LABELS)
    batches = Batches(samples.to("cpu"), Recipe(batch_size=40))
    epochs = [next(iter(batches)) for _ in range(2)]
    rows = [batch.inputs[batch.index.argsort()] for batch in epochs]
    assert not torch.equal(*rows)
    for batch in epochs:
        assert torch.equal(batch.inputs.floor().long()[:, 0], batch.labels)
        assert torch.equal(samples.labels[batch.index], batch.labels)


def test_samples_that_stay_the_same_are_held_in_memory():
    rows = torch.rand(40, 3)
    loader = DataLoader(TensorDataset(rows, LABELS), batch_size=7, shuffle=True)
    assert not isinstance(as_samples(loader), RedrawnSamples)
    assert not isinstance(as_samples(TensorDataset(rows, LABELS)), RedrawnSamples)


def test_a_sampler_of_its_own_is_kept_and_said(capsys):
    sampler = WeightedRandomSampler(torch.ones(40), 20)
    samples = as_samples(DataLoader(Noisy(), batch_size=7, sampler=sampler))
    assert (len(samples), isinstance(samples, RedrawnSamples)) == (20, False)
    assert "augmentations are drawn once" in capsys.readouterr().err
