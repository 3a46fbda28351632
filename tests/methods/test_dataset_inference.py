"""Dataset inference: its walks, the noise, and the harmonic mean of Welch's tests."""

import math

import pytest
import torch
from scipy import stats

from softmark.methods.dataset_inference import harmonic_p, noise_of, walk


def bright(pixels):
    """Class 1 where the mean of a uint8 picture is above the middle, else class 0."""
    is_bright = (pixels.float().mean((1, 2, 3)) > 127.5).long()
    return torch.nn.functional.one_hot(is_bright, 2).float()


def test_a_walk_ends_at_the_boundary():
    pictures = torch.tensor([0.19, 0.45, 0.9])[:, None, None, None].expand(3, 1, 2, 2)
    labels, steps = torch.tensor([0, 0, 0]), torch.full((3, 1, 2, 2), 0.1)
    moved = walk(bright, pictures, labels, steps, most=20)
    # Two cross .5, after four steps and one; .9 is of another class after the first, cut at white.
    assert moved[:, 0, 0, 0].tolist() == pytest.approx([0.4, 0.1, 0.1])
    assert walk(bright, pictures, labels, steps, most=2)[0, 0, 0, 0].item() == pytest.approx(0.2)
    # Beyond white nothing moves.
    moved = walk(bright, pictures, torch.tensor([1, 1, 1]), 3 * steps, most=5)
    assert moved[2, 0, 0, 0].item() == pytest.approx(0.1)
    # Twice the same three pictures.
    twice = walk(bright, pictures.repeat(2, 1, 1, 1), labels, steps.repeat(2, 1, 1, 1), most=20)
    assert torch.equal(twice[:3], twice[3:])


@pytest.mark.parametrize(
    ("order", "law"),
    [(torch.inf, stats.uniform(-1, 2)), (2, stats.norm()), (1, stats.laplace(scale=2))],
)
def test_the_noise_is_of_the_law_that_belongs_to_the_norm(order, law):
    drawn = noise_of(order, (2000,), torch.Generator().manual_seed(0))
    assert stats.kstest(drawn.numpy(), law.cdf).pvalue > 0.01


def test_the_p_of_one_draw_is_welchs_and_of_nothing_is_one():
    draw = torch.Generator().manual_seed(1)
    first, second = (torch.randn(10, generator=draw) + shift for shift in (1.0, 0.0))
    # Ten of ten: each draw is the same test.
    difference = first.double().mean() - second.double().mean()
    variances = [part.double().var() / 10 for part in (first, second)]
    freedom = sum(variances) ** 2 / sum(v**2 / 9 for v in variances)
    t = difference / math.sqrt(sum(variances))
    assert harmonic_p(first, second) == pytest.approx(stats.t.sf(float(t), float(freedom)))
    assert harmonic_p(first[:1], second) == 1
    assert harmonic_p(torch.ones(10), torch.ones(10)) == 1
