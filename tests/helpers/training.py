"""A short training of a small network on pictures that are told apart at once."""

import contextlib
import functools

import torch

from softmark.attacks.distill import Student
from softmark.data.roles import Samples
from softmark.models.access import Query
from softmark.models.networks import ConvNet
from softmark.recipe import Recipe
from softmark.training import Fit


def recipe(**changed) -> Recipe:
    settings = {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.1,
        "warmup": 0.2,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "label_smoothing": 0.0,
        "pad": 0,
        "flip": False,
    }
    return Recipe(**{**settings, **changed})


def samples(count: int = 64) -> Samples:
    torch.manual_seed(0)
    labels = torch.arange(count) % 3
    images = torch.randint(60, (count, 1, 8, 8), dtype=torch.uint8)
    images += (labels * 90).to(torch.uint8)[:, None, None, None]
    return Samples(images, labels)


def network() -> ConvNet:
    return ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.4], std=[0.3], width=4)


@contextlib.contextmanager
def unlogged(name):
    yield None


def fit() -> Fit:
    return Fit("cpu", "32-true", unlogged)


NETWORK = functools.partial(ConvNet, width=4)
STUDENT = functools.partial(Student, temperature=1.0, hard=False)


def asked_by(attack, data):
    """What ``attack`` asks, what it is told, and what its student learns."""
    queries = []

    def answer(images):
        queries.append(images)
        torch.manual_seed(5)
        return torch.rand(len(images), 4).softmax(1)

    query = Query(answer, 4)
    learnt, targets = attack.ask(query, data, fit())
    return torch.cat(queries), learnt, targets, query.count
