"""Triggers whose features a discriminant of the task's features classifies as the key says."""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from helpers.soft_labels import answers, signs_of
from helpers.training import recipe
from softmark.batches import Batch
from softmark.methods.csp import CSPModule
from softmark.methods.parts.loss import Marking
from softmark.methods.parts.trigger_features import SHRINKAGE, TriggerFeatures, discriminant

CLASSES, WIDTH = 4, 6
LARGE = torch.full((CLASSES, WIDTH), 1e6)  # a last layer whose size limits nothing


def features_of(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, D) of classes that overlap along one direction, and labels (N,)."""
    generator = torch.manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    noise = torch.randn(count, WIDTH, generator=generator) * torch.linspace(0.2, 2, WIDTH)
    return torch.eye(CLASSES, WIDTH)[labels] * 3 + noise, labels


def test_the_layer_is_scikit_learn_s_discriminant():
    features, labels = features_of(400)
    means = torch.stack([features[labels == c].mean(0) for c in range(CLASSES)])
    residuals = features - means[labels]
    layer = discriminant(means, residuals.T @ residuals / len(features))
    reference = LinearDiscriminantAnalysis(
        solver="eigen", shrinkage=SHRINKAGE, priors=np.full(CLASSES, 1 / CLASSES)
    ).fit(features.numpy(), labels.numpy())
    new, _ = features_of(50, seed=1)
    ours = new @ layer[:, :-1].T + layer[:, -1]
    theirs = torch.from_numpy(reference.decision_function(new.numpy())).float()
    # Theirs are less what all classes have in common.
    ours, theirs = (x - x.mean(1, keepdim=True) for x in (ours, theirs))
    # Scikit-learn shrinks each class's covariance before it averages them: a little apart.
    assert torch.corrcoef(torch.stack([ours.flatten(), theirs.flatten()]))[0, 1] > 0.999
    assert (ours.argmax(1) == theirs.argmax(1)).float().mean() > 0.95


def test_a_new_discriminant_answers_trained_triggers_as_the_key_says():
    """Features that are trained by the loss alone come to lie where a new layer says their label.

    Before, they are pictures of the task with another label.
    """
    loss = TriggerFeatures(CLASSES, weight=1.0)
    triggers, theirs = features_of(12, seed=2)
    wanted = (theirs + 1) % CLASSES
    triggers.requires_grad_(True)
    optimizer = torch.optim.SGD([triggers], lr=1.0)
    for step in range(120):
        features, labels = features_of(64, seed=step)
        is_trigger = torch.arange(64 + 12) >= 64
        optimizer.zero_grad()
        both = torch.cat([features, triggers]), torch.cat([labels, wanted])
        loss(*both, is_trigger, LARGE).backward()
        optimizer.step()
    new = LinearDiscriminantAnalysis().fit(*(x.numpy() for x in features_of(400, seed=999)))
    before, _ = features_of(12, seed=2)
    assert (new.predict(before.numpy()) == wanted.numpy()).mean() < 0.3
    assert (new.predict(triggers.detach().numpy()) == wanted.numpy()).all()


def test_triggers_tell_the_layer_nothing_and_a_batch_without_any_costs_nothing():
    layers = []
    for label in (0, 3):
        loss = TriggerFeatures(CLASSES, weight=1.0)
        features, labels = features_of(40)
        is_trigger = torch.arange(40) >= 30
        loss(features, labels.masked_fill(is_trigger, label), is_trigger, LARGE)
        layers.append(loss.layer)
    assert torch.equal(*layers)
    assert loss(*features_of(40), torch.zeros(40, dtype=torch.bool), LARGE) == 0


def test_gradients_are_those_of_weights_no_larger_than_the_last_layer_s():
    """Two sizes of features: the smaller, the larger a discriminant's weights."""
    last, sizes = torch.randn(CLASSES, WIDTH, generator=torch.manual_seed(0)), []
    for size in (100.0, 1e-3):
        loss = TriggerFeatures(CLASSES, weight=1.0)
        features, labels = features_of(40)
        features = (size * features).requires_grad_(True)
        is_trigger = torch.arange(40) >= 20
        wanted = torch.where(is_trigger, (labels + 1) % CLASSES, labels)
        loss(features, wanted, is_trigger, last).backward()
        assert (loss.layer[:, :-1].norm() > last.norm()) == (size < 1)
        sizes.append(features.grad.norm(dim=1).max())
    # Of one trigger among 20: (softmax - one-hot) is at most sqrt(2) long.
    assert max(sizes) <= 2**0.5 * last.norm() / 20
    assert min(sizes) > 0


def module(weight: float) -> CSPModule:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, CLASSES))
    marking = Marking(trigger_feature_weight=weight, copy_weight=0.0)
    pattern = signs_of(CLASSES)
    return CSPModule(network, recipe(), pattern, answers(20, CLASSES, 1), marking, task_size=15)


def test_csp_adds_the_loss_of_its_triggers_and_an_interrupted_training_goes_on_as_it_was():
    batches = [
        Batch(torch.randn(20, 4), torch.arange(20) % CLASSES, torch.arange(20)) for _ in range(9)
    ]
    assert module(0.0).trigger_features is None
    without = module(0.0).loss(batches[0])
    undisturbed = module(0.3)
    losses = [undisturbed.loss(batch) for batch in batches]
    assert losses[0] > without
    stopped, saved = module(0.3), {}
    for batch in batches[:7]:
        stopped.loss(batch)
    stopped.on_save_checkpoint(saved)
    resumed = module(0.3)
    resumed.on_load_checkpoint(saved)
    assert [resumed.loss(batch) for batch in batches[7:]] == losses[7:]
