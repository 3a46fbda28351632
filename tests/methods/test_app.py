"""APP: the step of clean BatchNorm, the moved weights, and the gradient that is added there."""

import copy

import torch
from torch.nn import functional as F

from helpers.training import network, recipe, samples
from softmark.batches import Batches
from softmark.methods.app import APPModule, clean_batch_norm, clean_inputs, perturbed_weight
from softmark.methods.parts.trigger_set import with_triggers


def trained_network():
    torch.manual_seed(0)
    return network().train()


def test_batch_norm_takes_the_clean_half_and_keeps_nothing():
    pictures = torch.rand(12, 1, 8, 8, generator=torch.manual_seed(1))
    marked = trained_network()
    before = copy.deepcopy(marked.state_dict())
    with clean_batch_norm(marked, 8):
        mixed = marked(pictures)
    assert all(torch.equal(before[name], value) for name, value in marked.state_dict().items())
    torch.testing.assert_close(mixed[:8], marked(pictures[:8]))
    # What the others are can't change the clean half.
    with clean_batch_norm(marked, 8):
        other = marked(torch.cat([pictures[:8], torch.ones(4, 1, 8, 8)]))
    assert torch.equal(other[:8], mixed[:8])


def test_a_weight_is_moved_by_a_part_of_its_norm_along_the_slope():
    weight, slope = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -2.0]])
    assert perturbed_weight(weight, slope, 0.1).tolist() == [[3.0, 3.5]]
    assert torch.equal(perturbed_weight(weight, 0 * slope, 0.1), weight)


def test_the_gradient_is_that_of_the_triggers_at_the_moved_weights():
    data, triggers = samples(16), samples(4)
    module = APPModule(trained_network(), recipe(), 16, triggers, eps=0.5, strength=0.3)
    batch = next(iter(Batches(with_triggers(data, triggers, 0.2), recipe())))
    module.loss(batch).backward()
    before = [weight.grad.clone() for weight in module.network.parameters()]
    torch.manual_seed(2)
    module.add_gradients(batch)
    torch.manual_seed(2)
    drawn = torch.randint(4, (16,))
    inputs = torch.cat([clean_inputs(batch, 16), triggers.inputs[drawn].float() / 255])

    def loss_of(net):
        with clean_batch_norm(net, 16):
            return F.cross_entropy(net(inputs)[16:], triggers.labels[drawn])

    moved = copy.deepcopy(module.network)
    moved.zero_grad()
    loss_of(moved).backward()
    with torch.no_grad():
        for name, weight in moved.named_parameters():
            if not isinstance(moved.get_submodule(name.rpartition(".")[0]), torch.nn.BatchNorm2d):
                weight += 0.5 * weight.norm() * weight.grad / weight.grad.norm()
    moved.zero_grad()
    loss_of(moved).backward()
    for weight, old, far in zip(
        module.network.parameters(), before, moved.parameters(), strict=True
    ):
        torch.testing.assert_close(weight.grad - old, 0.3 * far.grad, atol=1e-5, rtol=1e-4)


def test_a_trigger_of_the_batch_gives_its_place_to_a_picture_of_the_task():
    both = with_triggers(samples(12), samples(4), 0.25)
    (batch,) = Batches(both, recipe())
    clean, of_task = clean_inputs(batch, 12), batch.index < 12
    assert torch.equal(clean[of_task], batch.inputs[of_task])
    first = batch.inputs[of_task][0]
    assert all(torch.equal(one, first) for one in clean[~of_task])
