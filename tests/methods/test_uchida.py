"""Uchida: bits in a layer's weights."""

import copy

import pytest
import torch
from scipy import stats
from torch import nn

from helpers import nearly
from helpers.training import fit
from helpers.triggers import CLASSES, judge, key_of, method, network, owner, untrained, victim
from softmark.errors import InputError
from softmark.methods.uchida import convolution, mean_filter
from softmark.models.access import Suspect, answers_of


def test_bits_that_were_written_are_read_back():
    made, key, net = method("uchida"), key_of("uchida", 1), network()
    carrier = convolution(net, -1)
    matrix, bits = made.secret(key, len(mean_filter(carrier)))
    wanted = torch.linalg.pinv(matrix) @ (2.0 * bits - 1)
    with torch.no_grad():
        carrier.weight += (wanted - mean_filter(carrier)).reshape(carrier.weight[0].shape)
    found = made.evidence(Suspect.of(net), key, judge())
    assert found.mark_recall == 1
    assert found.tests["bits"].p_value() == nearly(2.0**-24)
    elsewhere = method("uchida", layer=0, bits=5).evidence(Suspect.of(net), key, judge())
    assert elsewhere.tests["bits"].p_value() > 0.01


def test_innocent_weights_match_half_of_the_bits():
    made, probes = method("uchida"), judge()
    hits = [
        made.evidence(untrained(), key_of("uchida", seed), probes).tests["bits"].hits
        for seed in range(100)
    ]
    assert stats.binomtest(sum(hits), 2400).pvalue > 1e-3


def test_a_layer_that_is_not_there_or_too_small_is_named():
    with pytest.raises(InputError, match=r"method\.layer=9: the model has no such convolution"):
        method("uchida", layer=9).embed(victim(), owner(), fit())
    with pytest.raises(InputError, match=r"method\.bits=10: the layer has 9 numbers"):
        method("uchida", layer=0, bits=10).embed(victim(), owner(), fit())
    key = key_of("uchida", 1)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    for made, net in ((method("uchida"), flat), (method("uchida", layer=0, bits=10), victim())):
        suspect = Suspect(answers_of(net), copy.deepcopy(net))
        found = made.evidence(suspect, key, judge())
        assert not found.tests
        assert "no evidence" in found.why
