"""A mark that is learnt at the weights of a fine-tuned copy as well."""

import copy
import itertools

import torch
from torch import nn
from torch.nn import functional as F

from helpers.soft_labels import answers, signs_of
from helpers.training import recipe
from softmark.batches import Batch
from softmark.methods.csp import CSPModule
from softmark.methods.parts import tuned_copy
from softmark.methods.parts.loss import Marking
from softmark.methods.parts.tuned_copy import TunedCopy

CLASSES = 5


def batch_of(size: int = 20, seed: int = 0) -> Batch:
    inputs = torch.randn(size, 4, generator=torch.manual_seed(seed))
    index = torch.arange(size)
    return Batch(inputs, index % CLASSES, index)


def mark_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (logits * torch.linspace(-1, 1, CLASSES)).square().mean()


def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, CLASSES)


def with_gradients(network: nn.Module) -> nn.Module:
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    return network


def test_the_gradient_is_that_of_the_mark_after_the_thief_s_steps(monkeypatch):
    monkeypatch.setattr(tuned_copy, "EVERY", 1)
    network, batches = with_gradients(linear()), [batch_of(seed=seed) for seed in range(4)]
    tuned = TunedCopy(network, recipe(lr=0.5), mark_loss, most_steps=10**6, weight=2.0)
    expected = [torch.zeros_like(weight) for weight in network.parameters()]
    thief = copy.deepcopy(network)
    optimizer = torch.optim.SGD(thief.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    for number, batch in enumerate(batches):
        tuned.add_gradients(batch)
        if number:  # a fresh copy is where the network is: there the mark is learnt anyway
            loss = 2.0 * mark_loss(thief(batch.inputs), batch.labels)
            added = torch.autograd.grad(loss, thief.parameters())
            expected = [first + second for first, second in zip(expected, added, strict=True)]
        optimizer.zero_grad()
        F.cross_entropy(thief(batch.inputs), batch.labels).backward()
        optimizer.step()
    assert expected[0].norm() > 0.1
    for weight, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_every_third_step_is_the_copy_s_and_it_is_made_anew_after_as_many_as_were_drawn():
    network, made = with_gradients(linear()), []
    tuned = TunedCopy(network, recipe(), mark_loss, most_steps=4, weight=1.0)
    torch.manual_seed(0)
    for number in range(300):
        before = getattr(tuned, "copy", None)
        tuned.add_gradients(batch_of(seed=number))
        if tuned.copy is not before:
            made.append(number)
    apart = [later - earlier for earlier, later in itertools.pairwise(made)]
    assert set(apart) == {3 * steps for steps in (2, 3, 4, 5)}


def test_a_thief_has_no_triggers():
    """Labels of the samples behind the task's move nothing of the copy."""
    weights = []
    for label in (0, 3):
        network, batch = with_gradients(linear()), batch_of()
        labels = torch.where(batch.index < 12, batch.labels, label)
        tuned = TunedCopy(network, recipe(), mark_loss, 9, 1.0, task_size=12)
        tuned.add_gradients(batch._replace(labels=labels))
        weights.append(tuned.copy.weight.detach())
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], network.weight)


def test_an_interrupted_copy_goes_on_as_it_was():
    batches = [batch_of(seed=seed) for seed in range(40)]

    def run(stop: int | None) -> torch.Tensor:
        torch.manual_seed(1)
        network = with_gradients(linear())
        tuned = TunedCopy(network, recipe(), mark_loss, most_steps=3, weight=1.0)
        for number, batch in enumerate(batches):
            if number == stop:
                state, tuned = tuned.state(), TunedCopy(network, recipe(), mark_loss, 3, 1.0)
                tuned.restore(state)
            tuned.add_gradients(batch)
        return network.weight.grad

    undisturbed = run(None)
    for stop in range(1, 12):
        assert torch.equal(run(stop), undisturbed)


def test_csp_learns_its_whole_loss_at_the_copy_and_0_leaves_the_copy_out():
    pattern, victim = signs_of(CLASSES), answers(20, CLASSES, 1)
    for weight in (0.0, 2.0):
        module = CSPModule(
            linear(), recipe(), pattern, victim,
            Marking(copy_weight=weight, feature_weight=0.0), task_size=15,
        )  # fmt: skip
        assert (module.tuned_copy is None) == (weight == 0)
    tuned = module.tuned_copy
    assert (tuned.weight, tuned.most_steps, tuned.task_size) == (2.0, 48, 15)
    logits, labels = torch.randn(20, CLASSES), torch.arange(20) % CLASSES
    torch.testing.assert_close(tuned.mark_loss(logits, labels), module.marking_loss(logits, labels))
    # The copy is no part of what is trained, saved or served.
    with_gradients(module.network)
    tuned.add_gradients(batch_of())
    assert len(list(module.parameters())) == 2
    assert not any("copy" in name for name in module.state_dict())
