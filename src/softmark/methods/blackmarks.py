"""BlackMarks: bits in which group of classes answers (Chen et al. 2019).

The classes are clustered into two groups by what the victim's outputs are on average for each
(K-means): group 0 and group 1. A key picture carries bit b where the model answers a class of group
b. The model is trained on with the key pictures and a class of the wanted group for each:

    L = CE + strength * mean over key pictures of |sum_c p_c group_c - b|

The paper takes pictures moved towards the other group, with their true class as label: a robust
innocent is right on them, and so carries the bits. Here the pictures are abstract and the bits are
fair coins of the key, drawn after pictures and groups are fixed. How often an innocent answers a
class of group 1 may be anything, but the coins don't depend on it: each bit is matched with chance
1/2 exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.adi import abstract
from softmark.methods.key import Key, generator
from softmark.methods.triggers import TriggerSet, beside, random_labels
from softmark.models.access import Suspect
from softmark.training import Batch, Classifier, Fit, Recipe, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class BlackMarks(TriggerSet):
    """``num_triggers``: bits, each carried by a picture.

    ``strength``: of the loss on the groups.
    """

    strengthened_by = (*TriggerSet.strengthened_by, "method.strength")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        strength: float,
    ):
        super().__init__(message, recipe, epochs_factor, num_triggers, trigger_fraction)
        if not strength >= 0:
            raise InputError(f"method.strength={strength}: it can't be negative")
        self.strength = strength

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Without a victim the groups are two random halves."""
        key = super().draw(like, classes, entropy)
        key.register_buffer("groups", torch.randperm(classes, generator=generator(key)) % 2)
        return key

    def build_modules(self, key: Key) -> None:
        # A file may say anything, and a bit of a group without classes can't be answered.
        if key.groups.shape != (key.classes,) or key.groups.unique().tolist() != [0, 1]:
            raise InputError("the key's groups aren't two groups of the model's classes")

    def bits(self, key: Key, count: int) -> Tensor:
        """Fair coins that follow from the secret and from the groups: int64 (``count``,).

        Whoever chose other groups to fit a model would get other coins.
        """
        named = "".join(map(str, key.groups.tolist()))
        return torch.tensor(list(key.for_message(f"bits {named}").stream(count))) % 2

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Each with a random class of its bit's group."""
        images = abstract(key, count, pool.inputs.shape[1:])
        members = [(key.groups == bit).nonzero().flatten() for bit in (0, 1)]
        drawn = random_labels(key, count).tolist()
        labels = [
            int(members[bit][number % len(members[bit])])
            for bit, number in zip(self.bits(key, count).tolist(), drawn, strict=True)
        ]
        return Samples(images, torch.tensor(labels))

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        answers = predict(victim, data.inputs)
        key = self.draw(data, answers.shape[1], fit.entropy)
        key.groups.copy_(clustered(answers, data.labels))
        triggers = self.triggers(key, data, self.num_triggers)
        marking = Signing(copy.deepcopy(victim), self.recipe, len(data), key.groups, self.strength)
        return fit(marking, beside(data, triggers, self.trigger_fraction), "marking"), key

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        told = suspect.answers(probes).argmax(1)
        hits = key.groups[told] == key.groups[probes.labels]
        test = Binomial(int(hits.sum()), len(hits), 0.5)
        return Evidence(hits.float(), {"bits": test}, mark_recall=test.score)


class Signing(Classifier):
    """Samples from number ``first`` on are key pictures; ``groups`` (K,): 0 or 1 of each class."""

    def __init__(
        self, network: nn.Module, recipe: Recipe, first: int, groups: Tensor, strength: float
    ):
        super().__init__(network, recipe)
        self.first, self.strength = first, strength
        self.register_buffer("groups", groups.clone(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        own = batch.index >= self.first
        decoded = logits.float().softmax(1) @ self.groups.float()
        wrong = (decoded - self.groups[batch.labels]).abs() * own
        return loss + self.strength * wrong.sum() / own.sum().clamp_min(1)


def clustered(answers: Tensor, labels: Tensor) -> Tensor:
    """The group, 0 or 1, of each class by the mean log of ``answers`` (N, K) to its pictures."""
    # Heavy, and only an owner needs it.
    from sklearn.cluster import KMeans

    members = F.one_hot(labels, answers.shape[1]).T.float()
    means = members @ answers.clamp_min(1e-12).log() / members.sum(1, keepdim=True).clamp_min(1)
    found = KMeans(2, n_init=10, random_state=0).fit_predict(means.double().numpy())
    groups = torch.from_numpy(found).long()
    # A victim that tells no classes apart has one cluster; each bit needs a group.
    return groups if len(groups.unique()) == 2 else torch.arange(len(groups)) % 2
