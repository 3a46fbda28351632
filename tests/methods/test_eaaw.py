"""EaaW: its regression, what its masks hide, and its null."""

import math
from random import Random

import pytest
import torch

from helpers.training import samples
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.eaaw import EaaW, ridge_regression
from softmark.models.access import Suspect


def keyed(method, seed=0):
    key = method.draw(samples(4), 3, Random(seed).randbytes)
    key.register_buffer("explained", torch.tensor([1]))
    return key


def test_the_regression_finds_the_weights_that_made_the_answers():
    draw = torch.manual_seed(0)
    masks = torch.randint(2, (60, 9), generator=draw).float()
    weights = torch.randn(9, generator=draw)
    found = ridge_regression(masks) @ (masks @ weights)
    torch.testing.assert_close(found, weights, atol=1e-3, rtol=1e-3)


def test_a_square_that_is_masked_is_black_and_no_other():
    method = EaaW(side=4, masks=12)
    key = keyed(method)
    probes = method.probes(key, samples(4))
    masks, _ = method.secret(key)
    whole = probes.inputs.amax(0)
    for picture, mask in zip(probes.inputs, masks, strict=True):
        for number, stays in enumerate(mask.tolist()):
            row, column = 2 * (number // 4), 2 * (number % 4)
            square = (..., slice(row, row + 2), slice(column, column + 2))
            assert torch.equal(picture[square], whole[square] * int(stays))
    narrow = Samples(torch.zeros(2, 1, 3, 8, dtype=torch.uint8), torch.zeros(2).long())
    with pytest.raises(InputError, match=r"method\.side=4: pictures of 3 x 8"):
        method.probes(key, narrow)


def test_bits_are_read_and_an_innocents_are_matched_with_chance_one_half():
    method, found = EaaW(side=3, masks=40), []
    fixed = torch.rand(40, 3, generator=torch.manual_seed(1)).softmax(1)
    for seed in range(200):
        key = keyed(method, seed)
        masks, bits = method.secret(key)
        probes = method.probes(key, samples(4))
        innocent = Suspect(lambda inputs: fixed[: len(inputs)])
        found.append(method.evidence(innocent, key, probes).tests["bits"].p_value())
        likely = (0.5 + 0.05 * masks @ bits)[:, None]
        answers = torch.cat([(1 - likely) / 2, likely, (1 - likely) / 2], 1)
        marked = Suspect(lambda inputs, answers=answers: answers[: len(inputs)])
        if seed == 0:
            weights = torch.linalg.lstsq(masks, likely).solution[:, 0]
            recall = float(((weights > 0) == (bits > 0)).float().mean())
            assert method.evidence(marked, key, probes).mark_recall == pytest.approx(recall)
    for level in (0.5, 0.1):
        assert sum(p <= level for p in found) / 200 <= level + 4 * math.sqrt(level / 200)
