"""SSW: triggers that go over to students and not to others (Tan et al. 2023).

"Deep Neural Network Watermarking against Model Extraction Attack". The host learns one label for
pictures outside the task. A positive shadow model learns the host's labels of the data, as a thief
would; the negative one is a model without the mark. Then the pictures x are moved by Adam:

    min over x of CE(p_host(x) * p_positive(x) * (1 - p_negative(x)), label)

with the products of probabilities, class by class, in the place of logits. Those that host and
positive shadow answer with the label, and the negative doesn't, are kept.

Taken: the loss, the shadows, the choice. Other than there, the pictures are abstract ones of the
key (there one class of another data set), the training starts from the victim, which is the
negative shadow, too, the positive one is trained once from new weights, and pictures are moved
once, after both (there in the last epochs, by turns), and rounded to 8 bits. They are moved after
the label is drawn and share it: innocents are the null, where the paper has a t-test against them.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.shadow import renewed
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.devices import choose_device
from softmark.methods.adi import abstract_pictures
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.parts.trigger_set import TriggerSet
from softmark.models.access import Suspect, classes_of
from softmark.training import Classifier, Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents, Null


@dataclass(frozen=True, kw_only=True)
class SSW(TriggerSet):
    """Move triggers until a student of the host knows them, too, and another model doesn't.

    Source: Tan et al. 2023, "Deep Neural Network Watermarking against Model Extraction Attack" (ACM
    MM).

    Example:
        >>> SSW().iterations
        100
    """

    epochs_factor: float = 1.0
    """Epochs of the marking, over the recipe's. Above 0."""
    batch_size_factor: float = 1.0
    """Size of its batches over the recipe's. Above 0."""
    trigger_fraction: float = 0.1
    """Of the training samples that are triggers. Between 0 and 1."""
    iterations: int = 100
    """Steps of Adam on the pictures. At least 1."""
    pixel_lr: float = 0.01
    """Of Adam, on pixels from 0 to 1. Above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "iterations")
        check_above_zero(self, "pixel_lr")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        first = self.triggers(key, data, self.num_triggers)
        host = self.train(copy.deepcopy(victim), data, first, fit)
        answered = Samples(data.inputs, predict(host, data.inputs).argmax(1))
        positive = fit(Classifier(renewed(victim), self.recipe), answered, "shadow")
        device = choose_device(fit.accelerator)
        models = [copy.deepcopy(one).to(device).eval() for one in (host, positive, victim)]
        pictures = self.move(models, first.inputs.to(device), first.labels.to(device)).cpu()
        told = [
            predict(one, pictures).argmax(1) == first.labels for one in (host, positive, victim)
        ]
        kept = told[0] & told[1] & ~told[2]
        if not kept.any():  # a training that is too short: the mark is then as weak as it is
            kept = torch.ones_like(kept)
        key.register_buffer("pictures", pictures[kept].contiguous())
        return host, key

    def move(self, models: list[nn.Module], pictures: Tensor, labels: Tensor) -> Tensor:
        """Return ``pictures`` uint8 (N, C, H, W), moved: of host, positive and negative shadow."""
        moved = (pictures.float() / 255).requires_grad_(True)
        optimizer = torch.optim.Adam([moved], self.pixel_lr)
        for _ in range(self.iterations):
            (slope,) = torch.autograd.grad(transfer_loss(models, moved, labels), moved)
            moved.grad = slope
            optimizer.step()
            with torch.no_grad():
                moved.clamp_(0, 1)
        return as_pixels(255 * moved.detach())

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        target = int(torch.randint(key.classes, (), generator=generator(key)))
        if "pictures" in dict(key.named_buffers()):
            pictures = key.pictures[:count]
        else:
            pictures = abstract_pictures(key, count, pool.inputs.shape[1:])
        return Samples(pictures, torch.full((len(pictures),), target))

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "pictures" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no pictures that were moved")
        return super().evidence(suspect, key, probes)

    def null(self, key: Key, hits: Tensor) -> Null:
        return Innocents(float(hits.float().mean()))


def transfer_loss(models: list[nn.Module], pictures: Tensor, labels: Tensor) -> Tensor:
    """Return CE(p_host * p_positive * (1 - p_negative), label): a scalar.

    Args:
        models: host, positive and negative shadow, each to logits (N, K).
        pictures: from 0 to 1, (N, C, H, W).
        labels: (N,).
    """
    host, positive, negative = (model(pictures).float().softmax(1) for model in models)
    return F.cross_entropy(host * positive * (1 - negative), labels)
