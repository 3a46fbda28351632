"""The examples in docstrings run, and show what they say."""

import doctest
import importlib
import warnings
from random import Random
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import softmark
from helpers import ROOT

SOURCE = ROOT / "src"
# Files are read for examples: importing all of them would cost each worker seconds.
MODULES = sorted(
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text()
)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def samples() -> tuple[Tensor, Tensor]:
    """600 samples of 16 numbers around ten points, and which of these."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 10
    noise = 0.7 * torch.randn(600, 16, generator=random)
    return torch.randn(10, 16, generator=random)[labels] + noise, labels


def trained(inputs: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def names():
    """What every example may use beside its module's names: a small model and its data, marked."""
    inputs, labels = samples()
    model = trained(inputs, labels)
    # The same secret each time: how much 45 signs show differs from key to key.
    with mock.patch("secrets.token_bytes", Random(0).randbytes):
        marked = softmark.mark(model, (inputs, labels), "licence 7", recipe={"epochs": 4})
    return {
        "softmark": softmark,
        "torch": torch,
        "inputs": inputs,
        "labels": labels,
        "probes": inputs,
        "model": model,
        "marked": marked,
    }


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("secrets.token_bytes", Random(0).randbytes)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    for number, example in enumerate(doctest.DocTestFinder().find(module)):
        folder = tmp_path / str(number)
        folder.mkdir()
        example.globs.update(names, folder=folder)
        report: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            doctest.DocTestRunner(optionflags=FLAGS).run(example, out=report.append)
        assert not report, "".join(report)
