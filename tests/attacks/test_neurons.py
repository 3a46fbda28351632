"""Adversarial neuron pruning: how masks are learnt, and how many channels go."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from helpers.networks import batch_of, built
from helpers.training import fit, recipe, samples
from softmark.attacks.attack import worth
from softmark.attacks.neurons import NeuronMaskModule, PruneNeurons
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.training import Classifier


class TwoChannels(nn.Module):
    """Two channels of a BatchNorm: the first says the class, the second only hurts."""

    node = None

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 2, bias=False)
        self.head.weight.data = torch.tensor([[-2.0, 2.0], [2.0, -2.0]])

    def forward(self, images):
        bright = images.mean((2, 3), keepdim=True) - 0.5
        return self.head(self.norm(torch.cat([2 * bright, 1.2 * bright], 1)).flatten(1))


@torch.no_grad()
def nats(model: nn.Module, data: Samples) -> float:
    return float(F.cross_entropy(model(as_input(data.inputs)), data.labels))


def bright_and_dark() -> Samples:
    labels = torch.arange(64) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    return Samples(images.contiguous(), labels)


def test_a_channel_that_only_hurts_is_pruned():
    torch.manual_seed(0)
    model, data = TwoChannels().eval(), bright_and_dark()
    before = nats(model, data)
    stolen = PruneNeurons(recipe=recipe(), epochs=10, min_steps=None).apply(model, data, fit())
    assert stolen.network is model
    assert model.norm.weight.tolist() == [1.0, 0.0]
    assert stolen.note == "1 of 2 channels pruned, masks up to 0.00"
    assert nats(model, data) < before
    assert all(p.requires_grad for p in model.parameters())


def test_masks_stay_fractions_and_leave_the_network_alone():
    model, data = built("resnet"), samples()
    before = copy.deepcopy(model.state_dict())
    module = NeuronMaskModule(model, recipe(epochs=2, lr=5.0), 0.4, 0.2)
    fit()(module, data, "masks")
    assert len(module.masks) == sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    values = torch.cat([mask.detach() for mask in module.masks])
    assert values.min() >= 0
    assert values.max() <= 1
    assert (values < 1).any()
    assert all(torch.equal(value, before[n]) for n, value in model.state_dict().items())


def test_masks_meet_what_hurts_most():
    torch.manual_seed(0)
    model, batch = built("convnet"), batch_of(samples())
    module = NeuronMaskModule(model, recipe(), 0.4, 0.2)
    moves = module.worst(batch)
    sizes = torch.cat([move.abs() for pair in moves for move in pair])
    # A start within eps, and a step of eps, as in the authors' code: it leads out of the box.
    assert sizes.max() <= 0.8
    assert sizes.max() > 0.4
    still = [(torch.zeros_like(d), torch.zeros_like(x)) for d, x in moves]
    plain, hurt = module.masked(batch, still), module.masked(batch, moves)
    torch.testing.assert_close(plain, F.cross_entropy(model(batch.inputs), batch.labels))
    assert hurt > plain
    # By hand: one channel's weight and bias, moved in the network itself.
    one = copy.deepcopy(model)
    norms = [m for m in one.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, (d, x) in zip(norms, moves, strict=True):
        norm.weight.data *= 1 + d
        norm.bias.data *= 1 + x
    torch.testing.assert_close(hurt, F.cross_entropy(one(batch.inputs), batch.labels))


def test_pruning_goes_as_far_as_held_out_accuracy_allows():
    torch.manual_seed(0)
    data = samples(60)
    model = fit()(Classifier(built("convnet"), recipe(epochs=4)), data, "classifier")
    before = worth(model, data)
    attack = PruneNeurons(recipe=recipe(), tolerance=0.0)
    module = NeuronMaskModule(model, recipe(), 0.4, 0.2)
    with torch.no_grad():
        for mask in module.masks:
            mask.copy_(torch.linspace(0.1, 0.8, len(mask)))
    note = attack.prune(model, module, data)
    assert worth(model, data) >= before
    chosen = float(note.rpartition(" ")[2])
    for norm, mask in zip(module.norms.values(), module.masks, strict=True):
        assert torch.equal(norm.weight == 0, mask.detach() < chosen)
    assert 0 <= chosen < 0.9
