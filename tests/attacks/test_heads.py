"""A last layer that is fitted to features, and not trained."""

import copy

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from helpers.training import fit, network
from softmark.attacks.features import few_of
from softmark.attacks.heads import FitDiscriminant, FitLogistic, ServeNeighbours
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.models.access import answers_of
from softmark.training import predict

HEADS = (FitDiscriminant, FitLogistic, ServeNeighbours)


class Split(nn.Module):
    """Inputs are the features."""

    def __init__(self, classes: int, width: int = 6):
        super().__init__()
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.head(inputs)


def clouds(count: int, classes: int, seed: int = 0, width: int = 6) -> Samples:
    """Features of classes that overlap."""
    torch.manual_seed(7)
    centres = torch.randn(classes, width)
    torch.manual_seed(seed)
    labels = torch.arange(count) % classes
    return Samples(centres[labels] + torch.randn(count, width), labels)


def attacked(attack, data: Samples, classes: int):
    """Return what ``attack`` serves and the model that it leaves."""
    stolen = attack.apply(Split(classes), data, fit()).network
    return attack.serve(answers_of(stolen)), stolen


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shrunk", [False, True])
def test_a_discriminant_answers_as_scikit_learns(classes, shrunk):
    data, other = clouds(80, classes), clouds(50, classes, seed=1)
    answer, _ = attacked(FitDiscriminant(shrunk=shrunk), data, classes)
    kind = {"solver": "lsqr", "shrinkage": "auto"} if shrunk else {}
    known = LinearDiscriminantAnalysis(**kind).fit(data.inputs.numpy(), data.labels)
    expected = torch.from_numpy(known.predict_proba(other.inputs.numpy())).float()
    torch.testing.assert_close(answer(other.inputs), expected, atol=1e-4, rtol=1e-3)


def test_whitened_regression_is_blind_to_the_scale_of_features():
    data, other = clouds(80, 3), clouds(50, 3, seed=1)
    stretch = torch.tensor([1.0, 100.0, 0.01, 5.0, 1.0, 1.0])
    plain, _ = attacked(FitLogistic(), data, 3)
    stretched, _ = attacked(FitLogistic(), Samples(data.inputs * stretch, data.labels), 3)
    torch.testing.assert_close(
        plain(other.inputs), stretched(other.inputs * stretch), atol=1e-2, rtol=0
    )
    assert (plain(other.inputs).argmax(1) == other.labels).float().mean() > 0.7


@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_vote_as_scikit_learns(k):
    data, other = clouds(90, 3), clouds(50, 3, seed=1)
    answer, stolen = attacked(ServeNeighbours(k=k), data, 3)
    known = KNeighborsClassifier(k).fit(data.inputs.numpy(), data.labels)
    expected = torch.from_numpy(known.predict_proba(other.inputs.numpy())).float()
    torch.testing.assert_close(answer(other.inputs), expected)
    assert stolen.head.out_features == 90


@pytest.mark.parametrize("kind", HEADS)
def test_a_calibrated_head_fits_new_labels_better(kind):
    """From as few pictures as features the answers are far too sure of themselves."""
    data, other = clouds(18, 3), clouds(600, 3, seed=1)
    losses = {}
    for calibrated in (False, True):
        answer, _ = attacked(kind(calibrated=calibrated), data, 3)
        p = answer(other.inputs).clamp_min(1e-12)
        losses[calibrated] = float(-p.log()[torch.arange(600), other.labels].mean())
    assert losses[True] < losses[False]


@pytest.mark.parametrize("kind", [FitDiscriminant, FitLogistic])
def test_a_temperature_changes_no_prediction_and_the_body_stays(kind):
    data = clouds(60, 3)
    answers, target = [], network()
    for calibrated in (False, True):
        served, _ = attacked(kind(calibrated=calibrated), data, 3)
        answers.append(served(data.inputs))
    assert torch.equal(*(each.argsort(1) for each in answers))
    before = copy.deepcopy(target.state_dict())
    images = torch.randint(256, (30, 1, 8, 8), dtype=torch.uint8)
    kind().apply(target, Samples(images, torch.arange(30) % 3), fit())
    after = target.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"head.weight", "head.bias"}
    assert predict(target, images).isfinite().all()


def test_few_pictures_are_spread_over_classes():
    labels = torch.tensor([0] * 20 + [1, 2, 1, 2, 1])
    few = few_of(Samples(torch.arange(25)[:, None], labels), 7)
    assert np.bincount(few.labels).tolist() == [3, 2, 2]
    assert few.inputs[:, 0].tolist() == [0, 1, 2, 20, 21, 22, 23]
    assert len(few_of(few, None)) == len(few_of(few, 99)) == 7


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        (FitDiscriminant(samples=5), r"samples: of class 1 .* 1 among 5 .* takes 2 of each of 4"),
        (FitDiscriminant(samples=8, calibrated=True), r"takes 3 of each of 4 classes"),
        (FitLogistic(samples=3), r"samples: of class 3 the attacker has 0 among 3 pictures"),
        (ServeNeighbours(k=5, samples=4), r"attack\.k=5: below the attacker's 4 pictures"),
    ],
)
def test_too_few_pictures_are_one_line(attack, reason):
    with pytest.raises(InputError, match=reason) as error:
        attacked(attack, clouds(40, 4), 4)
    assert "\n" not in str(error.value)


def test_numbers_of_heads_are_checked():
    for kind in HEADS:
        with pytest.raises(InputError, match=r"attack\.samples=1: at least 2"):
            kind(samples=1)
    with pytest.raises(InputError, match=r"attack\.c=0"):
        FitLogistic(c=0)
    convolution = nn.Sequential(nn.Linear(6, 3))
    convolution.head = nn.Conv1d(6, 3, 1)
    with pytest.raises(InputError, match=r"no nn\.Linear"):
        FitDiscriminant().apply(convolution, clouds(40, 3), fit())
