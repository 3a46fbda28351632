"""AKH and SAC: which pictures they keep, and SAC's matrix."""

import math
from random import Random

import pytest
import torch

from helpers.training import fit, network, samples
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.akh import AKH, cut_and_paste, mistakes
from softmark.methods.sac import SAC
from softmark.models.access import Suspect
from softmark.training import predict


def test_a_mixture_has_a_rectangle_of_the_other_picture():
    below, above = torch.zeros(3, 1, 8, 8), torch.ones(3, 1, 8, 8)
    for seed in range(5):
        draw = torch.Generator().manual_seed(seed)
        mixed = cut_and_paste(below, above, 0.25, draw)
        rows, columns = mixed[0, 0].sum(1), mixed[0, 0].sum(0)
        assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [0, 4]
        assert torch.equal(mixed[0, 0], rows.outer(columns) / 16)


def test_every_picture_kept_is_answered_wrongly_and_the_owners_come_first():
    torch.manual_seed(0)
    victim, data = network().eval(), samples(30)
    wrong = mistakes(victim, data, 60, 0.4, torch.Generator().manual_seed(1))
    assert (predict(victim, wrong.inputs).argmax(1) != wrong.labels).all()
    own = data[predict(victim, data.inputs).argmax(1) != data.labels]
    assert 0 < len(own) < 60 == len(wrong)
    assert torch.equal(wrong.inputs[: len(own)], own.inputs)
    labels = predict(victim, data.inputs).argmax(1)
    same = Samples(data.inputs[labels == labels[0]], labels[labels == labels[0]])
    with pytest.raises(InputError, match=r"method\.area=0\.4: the model is right on all"):
        mistakes(victim, same, 10, 0.4, torch.Generator().manual_seed(1))


def test_the_statistic_is_what_loops_say():
    torch.manual_seed(0)
    method, data = SAC(num_triggers=6), samples(30)
    trainer = fit()
    trainer.entropy = Random(1).randbytes
    _, key = method.embed(network().eval(), data, trainer)
    told = torch.rand(6, 3).softmax(1)
    suspect = Suspect(lambda inputs: told[: len(inputs)])
    found = method.evidence(suspect, key, method.probes(key, data))

    def cosine(one, other):
        dot = sum(a * b for a, b in zip(one, other, strict=True))
        return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))

    ours, theirs = key.answers.tolist(), told.tolist()
    total = sum(
        abs(cosine(ours[i], ours[j]) - cosine(theirs[i], theirs[j]))
        for i in range(6)
        for j in range(6)
    )
    assert found.tests["correlation"].score == pytest.approx(-total / 36, abs=1e-6)
    assert len(found.scores) == 6


@pytest.mark.parametrize("kind", [AKH, SAC])
def test_a_key_of_no_model_shows_nothing(kind):
    key = kind().draw(samples(6), 3, Random(0).randbytes)
    suspect = Suspect.of(network().eval())
    found = kind().evidence(suspect, key, kind().probes(key, samples(6)))
    assert not found.tests
    assert "no pictures" in found.why
