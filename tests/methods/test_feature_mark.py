"""The mark in the features: what is planted, and that a new last layer inherits it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from helpers.soft_labels import drawn, exact, soft
from softmark.errors import InputError
from softmark.methods.csp import CSP
from softmark.methods.parts.feature_mark import FeatureMark, inputs_of, last_layer
from softmark.methods.usp import USP


def drawn_signs(classes: int, seed: int = 0) -> torch.Tensor:
    signs = torch.randint(2, (classes, classes), generator=torch.manual_seed(seed)) * 2.0 - 1
    return signs.fill_diagonal_(0)


def test_the_loss_of_the_features_by_hand():
    """Against a loop over samples and classes; the means are those of this first batch."""
    pattern, labels = drawn_signs(5), torch.arange(20) % 5
    features = torch.randn(20, 7, generator=torch.manual_seed(0))
    means = torch.stack([features[labels == label].mean(0) for label in range(5)])
    losses = []
    for feature, label in zip(features, labels, strict=True):
        others = [other for other in range(5) if other != label]
        tail = torch.stack([feature @ means[other] for other in others])
        tail = tail - tail.mean()
        wanted = pattern[label, others] + pattern[others, label]
        wanted = wanted - wanted.mean()
        losses.append(max(0.0, 0.9 - float(tail @ wanted / tail.norm() / wanted.norm())))
    loss = FeatureMark(pattern, 0.9, 1.0)(features, labels)
    assert float(loss) == pytest.approx(sum(losses) / 20, rel=1e-5)


def test_class_means_follow_and_a_class_that_is_missing_keeps_its_own():
    mark, labels = FeatureMark(drawn_signs(3), 0.9, 1.0), torch.tensor([0, 1, 1])
    first = torch.randn(3, 4, generator=torch.manual_seed(0))
    mark(first, labels)
    expected = torch.stack([first[0], first[1:].mean(0), torch.zeros(4)])
    torch.testing.assert_close(mark.means, expected)
    mark(2 * first[:1], labels[:1])
    expected[0] = 0.9 * first[0] + 0.1 * 2 * first[0]
    torch.testing.assert_close(mark.means, expected)


def test_features_are_what_the_last_layer_with_as_many_outputs_is_given():
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 5), nn.LogSoftmax(1))
    assert last_layer(model, 5) is model[2]
    inputs = torch.randn(4, 8)
    with inputs_of(model[2]) as seen:
        model(inputs)
    torch.testing.assert_close(seen[0], model[1](model[0](inputs)))
    model(inputs)
    assert len(seen) == 1
    with pytest.raises(InputError, match=r"no nn\.Linear with 3 outputs.*; 0 marks the answers"):
        last_layer(model, 3)


@pytest.mark.parametrize("kind", [CSP, USP])
def test_a_new_last_layer_inherits_the_mark_of_the_features(kind):
    """Well-separated features with the planted inner products, and a last layer trained on them."""
    torch.manual_seed(0)
    method, key = soft(kind), drawn(kind, 10)
    planted = method.pattern(key) + method.pattern(key).T
    values, vectors = torch.linalg.eigh(planted + 12 * torch.eye(10))
    means = vectors * values.clamp_min(0).sqrt()
    labels = torch.arange(600) % 10
    features = means[labels] + 0.05 * torch.randn(600, 10)
    assert FeatureMark(planted, 0.9, 1.0)(features, labels) < 0.1
    layer = nn.Linear(10, 10)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.3, momentum=0.9, weight_decay=5e-4)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(layer(features), labels).backward()
        optimizer.step()
    p = layer(features).softmax(1).detach()
    assert exact(kind, p, key)[1].p_value() < 1e-6
    other = exact(kind, p, drawn(kind, 10, seed=1))[1]
    assert other.p_value() > 1e-4
