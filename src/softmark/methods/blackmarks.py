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

No code of the authors' is known. The Watermark Robustness Toolbox writes 200 bits at a tenth of the
rate, and keeps only pictures that the marked model gets right and fine-tuned unmarked copies wrong;
another port weighs the loss by .5, as we do. Here 100 bits are learnt at the whole rate.
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
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_not_negative
from softmark.methods.parts.trigger_set import TriggerSet, random_labels, with_triggers
from softmark.models.access import Suspect
from softmark.recipe import Recipe
from softmark.tails import log_of
from softmark.training import Classifier, Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


@dataclass(frozen=True, kw_only=True)
class BlackMarks(TriggerSet):
    """Train the model to answer each key picture with a class of the group that its bit names.

    Each of the ``num_triggers`` pictures carries a bit.

    Source: Chen et al. 2019, "BlackMarks: Blackbox Multibit Watermarking for Deep Neural Networks"
    (arXiv 1904.00344).

    Example:
        >>> import random
        >>> key = BlackMarks().draw(None, 10, random.Random(0).randbytes)
        >>> sorted(key.groups.tolist()), len(BlackMarks().bits(key, 100))
        ([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], 100)
    """

    strengthened_by = (*TriggerSet.strengthened_by, "method.strength")

    strength: float = 0.5
    """Of the loss on the groups, from 0 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "strength")

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key, whose groups are two random halves: there is no victim."""
        key = super().draw(like, classes, entropy)
        key.register_buffer("groups", torch.randperm(classes, generator=generator(key)) % 2)
        return key

    def build_modules(self, key: Key) -> None:
        # A file may say anything, and a bit of a group without classes can't be answered.
        if key.groups.shape != (key.classes,) or key.groups.unique().tolist() != [0, 1]:
            raise InputError("the key's groups aren't two groups of the model's classes")

    def bits(self, key: Key, count: int) -> Tensor:
        """Return fair coins that follow from the secret and the groups: int64 (``count``,).

        Whoever chose other groups to fit a model would get other coins.
        """
        groups = "".join(map(str, key.groups.tolist()))
        return torch.tensor(list(key.for_message(f"bits {groups}").stream(count))) % 2

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Return abstract pictures, each with a random class of its bit's group."""
        pictures = abstract_pictures(key, count, pool.inputs.shape[1:])
        members = [(key.groups == bit).nonzero().flatten() for bit in (0, 1)]
        drawn = random_labels(key, count).tolist()
        labels = [
            int(members[bit][number % len(members[bit])])
            for bit, number in zip(self.bits(key, count).tolist(), drawn, strict=True)
        ]
        return Samples(pictures, torch.tensor(labels))

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        answers = predict(victim, data.inputs)
        key = self.draw(data, answers.shape[1], fit.entropy)
        key.groups.copy_(cluster_classes(answers, data.labels))
        triggers = self.triggers(key, data, self.num_triggers)
        module = BlackMarksModule(
            copy.deepcopy(victim), self.marking_recipe, len(data), key.groups, self.strength
        )
        return fit(module, with_triggers(data, triggers, self.trigger_fraction), "marking"), key

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answered = suspect.answers(probes).argmax(1)
        hits = key.groups[answered] == key.groups[probes.labels]
        test = Binomial(int(hits.sum()), len(hits), 0.5)
        return Evidence(hits.float(), {"bits": test}, mark_recall=test.score)


class BlackMarksModule(Classifier):
    """Train with the loss on the groups.

    Args:
        first: samples from this number on are key pictures.
        groups: of each class, 0 or 1: (K,).
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, first: int, groups: Tensor, strength: float
    ):
        super().__init__(network, recipe)
        self.first, self.strength = first, strength
        self.register_buffer("groups", groups.clone(), persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.inputs)  # (B, K)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        is_key_picture = batch.index >= self.first  # (B,)
        decoded = logits.float().softmax(1) @ self.groups.float()  # (B,), the chance of group 1
        errors = (decoded - self.groups[batch.labels]).abs() * is_key_picture
        return loss + self.strength * errors.sum() / is_key_picture.sum().clamp_min(1)


def cluster_classes(answers: Tensor, labels: Tensor) -> Tensor:
    """Return the group of each class, 0 or 1, by the mean log of the answers to its pictures.

    Args:
        answers: of the victim, (N, K).
        labels: of the same pictures, (N,).
    """
    # Heavy, and only an owner needs it.
    from sklearn.cluster import KMeans

    members = F.one_hot(labels, answers.shape[1]).T.float()  # (K, N)
    means = members @ log_of(answers) / members.sum(1, keepdim=True).clamp_min(1)  # (K, K)
    clusters = KMeans(2, n_init=10, random_state=0).fit_predict(means.double().numpy())
    groups = torch.from_numpy(clusters).long()
    # A victim that tells no classes apart has one cluster; each bit needs a group.
    return groups if len(groups.unique()) == 2 else torch.arange(len(groups)) % 2
