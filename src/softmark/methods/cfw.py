"""CFW: a class of its own as trigger (class-feature watermarks, AAAI 2026, arXiv 2511.07947).

Pictures from outside the task get one label together, so that what is learnt is one class more,
hidden in the label, and not an exception for each picture. The model is trained on data and
triggers; then it is tuned so that the mark goes over to students. With frozen answers f0, features
m_l (their mean, of layer l), logits z, and the first principal component u_c of class c's logits:

    L = KL(f0 || f) on data + .02 CE(triggers)
        - .003 * sum over layers l of cos(m_l(triggers), m_l(data))
        + .15 * mean over pairs of triggers i, j and classes c of |<z_i - z_j, u_c>|

The third term brings the triggers to where the task is, the fourth keeps them together along the
ways in which classes stretch. Taken: the losses and their weights. In the authors' code the
difference is multiplied by the matrix of the u_c from the wrong side, which is no projection; here
it is the paper's. Other than there, the training starts from the victim, the tuning is SGD (there
Adam), the layers are the last ones at each size of picture, and **the pictures are abstract ones
that the key draws**: the paper's claim rests on natural classes (ten superclasses of CIFAR-20,
picked so that a clean model spreads them over all its classes, as here). All triggers share a
label, and one of K keys has the same: drawn again, keys could not prove p below 1/K. So innocents
are the null.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import abstract_pictures
from softmark.methods.ewe import layer_outputs
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero, check_not_negative
from softmark.methods.parts.trigger_set import TriggerSet, with_triggers
from softmark.models.access import classes_of
from softmark.tails import log_of
from softmark.training import Classifier, Fit, predict
from softmark.verification.nulls import Innocents, Null

CANDIDATES = 10  # pictures drawn for each trigger, of which the victim's answers choose


@dataclass(frozen=True, kw_only=True)
class CFW(TriggerSet):
    """Learn one label for a class of pictures outside the task, near the task's features.

    Source: "Class-feature Watermark: A Resilient Black-box Watermark Against Model Extraction
    Attacks" (AAAI 2026, arXiv 2511.07947).

    Example:
        >>> spread_evenly(torch.tensor([1, 1, 1, 0, 1, 0]), 4).tolist()
        [3, 0, 5, 1]
    """

    epochs_factor: float = 1.0
    """Epochs of the training with triggers, over the recipe's. Above 0."""
    batch_size_factor: float = 1.0
    """Size of its batches over the recipe's. Above 0."""
    trigger_fraction: float = 0.1
    """Of the training samples that are triggers. Between 0 and 1."""
    tuning_epochs_factor: float = 0.5
    """Epochs of the tuning after the training, over the recipe's. Above 0."""
    tuning_lr_factor: float = 0.1
    """Learning rate of the tuning over the recipe's. Above 0."""
    label_weight: float = 0.02
    """Of the triggers' cross-entropy in the tuning. From 0 on."""
    similarity_weight: float = 0.003
    """Of the cosine between mean features of triggers and data. From 0 on."""
    spread_weight: float = 0.15
    """Of the triggers' spread along the classes' principal components. From 0 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "tuning_epochs_factor", "tuning_lr_factor")
        check_not_negative(self, "label_weight", "similarity_weight", "spread_weight")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if not hasattr(victim, "features"):
            raise InputError(f"method: {type(victim).__name__} has no layers called features")
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        answered = predict(victim, self.candidates(key, data)).argmax(1)
        key.chosen.copy_(spread_evenly(answered, self.num_triggers))
        triggers = self.triggers(key, data, self.num_triggers)
        network = self.train(copy.deepcopy(victim), data, triggers, fit)
        module = CFWModule(network, self, data, predict(network, data.inputs))
        return fit(module, with_triggers(data, triggers, self.trigger_fraction), "tuning"), key

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key with the first pictures that it draws: there is no victim."""
        key = Key.draw(self.message, classes, entropy)
        key.register_buffer("chosen", torch.arange(self.num_triggers))
        return key

    def build_modules(self, key: Key) -> None:
        # A file may say anything.
        inside = (key.chosen >= 0) & (key.chosen < CANDIDATES * self.num_triggers)
        if key.chosen.shape != (self.num_triggers,) or not inside.all():
            raise InputError("the key's choice isn't one of the pictures that it draws")

    def candidates(self, key: Key, pool: Samples) -> Tensor:
        """Return the pictures of which the triggers are chosen: uint8 (10 T, C, H, W)."""
        return abstract_pictures(key, CANDIDATES * self.num_triggers, pool.inputs.shape[1:])

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        target = int(torch.randint(key.classes, (), generator=generator(key)))
        pictures = self.candidates(key, pool)[key.chosen[:count]]
        return Samples(pictures, torch.full((len(pictures),), target))

    def null(self, key: Key, hits: Tensor) -> Null:
        return Innocents(float(hits.float().mean()))


class CFWModule(Classifier):
    """Tune a network so that its trigger class lies near the task.

    Args:
        network: trained on data and triggers.
        method: whose numbers and recipe are taken.
        data: the owner's, N of them; samples from this number on are triggers.
        answers: of the network before the tuning, to ``data``, (N, K).
    """

    def __init__(self, network: nn.Module, method: CFW, data: Samples, answers: Tensor):
        epochs, lr = method.tuning_epochs_factor, method.tuning_lr_factor
        super().__init__(network, method.recipe.scaled(epochs=epochs, lr=lr))
        self.method, self.first = method, len(data)
        self.register_buffer("answers", answers, persistent=False)
        self.register_buffer("components", first_components(answers, data.labels), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        method, is_trigger = self.method, (batch.index >= self.first).float()  # (B,)
        of_task = 1 - is_trigger
        hidden = layer_outputs(self.network.features, batch.inputs)
        logits = self.network.head(hidden[-1]).float()  # (B, K)
        before = self.answers[batch.index.clamp_max(self.first - 1)]  # (B, K)
        divergence = F.kl_div(logits.log_softmax(1), before, reduction="none").sum(1)
        labelled = F.cross_entropy(logits, batch.labels, reduction="none")  # (B,)
        loss = masked_mean(divergence, of_task) + method.label_weight * masked_mean(
            labelled, is_trigger
        )
        for output in hidden:
            means = [masked_mean(output.float(), mask) for mask in (is_trigger, of_task)]  # (D,)
            loss = loss - method.similarity_weight * F.cosine_similarity(*means, dim=0)
        return loss + method.spread_weight * spread(logits, self.components, is_trigger)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of ``values`` (N, ...) where ``mask`` (N,) is 1; 0 where it nowhere is."""
    return torch.tensordot(mask, values, 1) / mask.sum().clamp_min(1)


def spread(logits: Tensor, components: Tensor, mask: Tensor) -> Tensor:
    """Return the mean of |<z_i - z_j, u_c>| over pairs and classes: a scalar.

    Args:
        logits: z, (N, K).
        components: u_c, (K, K).
        mask: 1 for the rows whose pairs count, (N,).
    """
    along = logits @ components.T  # (N, K)
    distances = (along[:, None] - along).abs().mean(2)  # (N, N)
    pairs = mask[:, None] * mask  # (N, N), of which each row's own counts nothing
    count = (mask.sum() * (mask.sum() - 1)).clamp_min(1)
    return (distances * pairs).sum() / count


def first_components(answers: Tensor, labels: Tensor) -> Tensor:
    """Return the first principal component of each class's log-probabilities: (K, K).

    These are logits but for a number that a row's classes share. 0 for a class of fewer than two.

    Args:
        answers: (N, K).
        labels: of the same samples, (N,).
    """
    rows, components = log_of(answers).double(), []
    for label in range(answers.shape[1]):
        own = rows[labels == label]
        if len(own) < 2:
            components.append(torch.zeros(rows.shape[1], dtype=rows.dtype))
        else:
            components.append(torch.linalg.svd(own - own.mean(0), full_matrices=False).Vh[0])
    return torch.stack(components).float()


def spread_evenly(answered: Tensor, count: int) -> Tensor:
    """Return the places of ``count`` of ``answered`` (N,), so that classes are as even as can be.

    Each class's first ones, its turn before its next turn.
    """
    turns = torch.zeros_like(answered)
    for label in answered.unique():
        members = answered == label
        turns[members] = torch.arange(int(members.sum()))
    return (turns * (int(answered.max()) + 1) + answered).argsort(stable=True)[:count]
