"""Labels smoothed by what a teacher takes them for."""

import functools
import math

import pytest
import torch

from helpers.training import fit, recipe, samples
from softmark.attacks.distill import Student
from softmark.attacks.smoothing import SmoothBySimilarity
from softmark.errors import InputError
from softmark.models.access import Query
from softmark.models.networks import ConvNet


@pytest.fixture
def watched():
    """A student, and the answers that each was to learn."""
    seen = []

    class Watched(Student):
        def __init__(self, **told):
            seen.append(told["answers"])
            super().__init__(**told)

    return functools.partial(Watched, temperature=1.0, hard=False), seen


def smoothing(student, mass: float) -> SmoothBySimilarity:
    return SmoothBySimilarity(
        recipe=recipe(epochs=1),
        network=functools.partial(ConvNet, width=4),
        student=student,
        smoothing=mass,
    )


def test_labels_are_smoothed_towards_what_the_teacher_takes_them_for(watched):
    student, seen = watched
    data = samples(60)
    # What is told to each picture of a class, in turn; the label's own share doesn't matter.
    told = torch.tensor(
        [
            [[0.9, 0.1, 0.0], [0.5, 0.2, 0.3]],  # 0: 3 to 1 and 3 to 2
            [[0.2, 0.8, 0.0], [0.6, 0.1, 0.3]],  # 1: 8 to 0 and 3 to 2
            [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]],  # 2: nothing: all alike
        ]
    )
    turn = torch.arange(60) // 3 % 2
    suspect = smoothing(student, 0.1).apply(
        Query(lambda images: told[data.labels, turn], 3), data, fit()
    )
    expected = torch.tensor(
        [[0.9, 0.1 * 3 / 6, 0.1 * 3 / 6], [0.1 * 8 / 11, 0.9, 0.1 * 3 / 11], [0.05, 0.05, 0.9]]
    )
    torch.testing.assert_close(seen[0], expected[data.labels], atol=1e-6, rtol=0)
    torch.testing.assert_close(seen[0].sum(1), torch.ones(60))
    assert suspect.queries == 60


@pytest.mark.parametrize("mass", [0.0, 1.0, -0.1, math.nan])
def test_a_smoothing_is_a_fraction(mass, watched):
    with pytest.raises(InputError, match=r"attack\.smoothing="):
        smoothing(watched[0], mass)
