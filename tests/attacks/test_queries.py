"""What a thief asks: other pictures, each copy in turn; the questions are counted."""

import pytest
import torch

from helpers.training import NETWORK, STUDENT, asked_by, recipe, samples
from softmark.attacks.distill import DistillAveraged
from softmark.attacks.queries import (
    DistillBoundary,
    DistillMixtures,
    DistillNoise,
    DistillPhotographs,
    photographs,
)


def test_averaged_answers_ask_each_copy():
    data = samples(20)
    asked, _, _, count = asked_by(
        DistillAveraged(recipe=recipe(pad=2), network=NETWORK, student=STUDENT, copies=3), data
    )
    assert count == 60
    assert not torch.equal(asked[:20], asked[20:40])


@pytest.mark.parametrize(
    ("attack", "queries"),
    [
        (DistillNoise(recipe=recipe(), network=NETWORK, student=STUDENT), 30),
        (DistillMixtures(recipe=recipe(), network=NETWORK, student=STUDENT, weight=0.5), 30),
        (DistillPhotographs(recipe=recipe(), network=NETWORK, student=STUDENT), 30),
        (
            DistillBoundary(
                recipe=recipe(), network=NETWORK, student=STUDENT, eps=0.1, iterations=2
            ),
            60,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_other_queries_are_counted_and_learnt(attack, queries):
    torch.manual_seed(0)
    data = samples(30)
    asked, learnt, targets, count = asked_by(attack, data)
    assert count == queries
    assert torch.equal(learnt.inputs, asked)
    assert asked.shape == (queries, *data.inputs.shape[1:])
    assert asked.dtype == torch.uint8
    assert len(targets) == queries
    if queries == 60:
        assert torch.equal(asked[:30], data.inputs)
        moved = (asked[30:].float() - data.inputs.float()).abs()
        assert 0 < moved.max() <= 255 * 0.1 + 0.5
    else:
        assert not torch.equal(asked, data.inputs)


@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_are_pictures_of_something(channels):
    torch.manual_seed(0)
    images = photographs(50, (channels, 16, 16)).float()
    # Neighbouring pixels of a photograph are alike, those of noise aren't.
    near = (images[..., 1:] - images[..., :-1]).abs().mean()
    far = (images - images[torch.randperm(50)]).abs().mean()
    assert near < 0.5 * far
