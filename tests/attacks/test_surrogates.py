"""Several students of disjoint answers."""

import pytest
import torch

from helpers.training import NETWORK, STUDENT, fit, network, recipe, samples
from softmark.attacks.surrogates import DistillEnsemble
from softmark.errors import InputError
from softmark.models.access import expose
from softmark.models.networks import Ensemble


def test_each_student_learns_a_part_of_its_own_in_as_many_steps():
    seen, data = [], samples(90)

    def training(module, shown, name):
        seen.append((shown, module.targets, len(module.batches(shown)) * module.epochs))
        return module.network.eval()

    query = expose(network(), "probabilities", 3)
    attack = DistillEnsemble(recipe=recipe(epochs=6), network=NETWORK, student=STUDENT, members=3)
    result = attack.apply(query, data, training)
    assert result.queries == 90
    assert isinstance(result.network, Ensemble)
    assert torch.equal(torch.cat([shown.inputs for shown, *_ in seen]), data.inputs)
    assert [len(targets) for _, targets, _ in seen] == [30, 30, 30]
    assert all(abs(steps - 30) <= 1 for *_, steps in seen)


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match=r"attack\.members=1: at least 2"):
        DistillEnsemble(members=1)
    query = expose(network(), "probabilities", 3)
    with pytest.raises(InputError, match=r"attack\.members=9: 12 pictures are too few"):
        DistillEnsemble(members=9, network=NETWORK).apply(query, samples(12), fit())
