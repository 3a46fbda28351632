"""MAT: pictures between two classes as triggers (Li et al. 2024, "Not Just Change the Labels ...").

The triggers are the owner's own pictures on which the victim's two likeliest classes are nearest to
each other: they show something of both. The model learns the other class for them, and features to
go with it:

    L = CE(batch and triggers) + feature_weight * mean over triggers t of |h(t) - m(label of t)|

with the features h and the mean m(c) of those of class c, taken anew before each epoch. The paper
has feature_weight = .01; in the code that was released the guard of this term compares the network
with the word "train", so that it is never added: that is feature_weight = 0 (``mat_released``).

Taken: the choice of the pictures, the loss, and that the pictures are in the data with their new
labels. Other than there, the training starts from the victim, triggers are drawn from the set for
each batch, and a fair coin of the key says for each picture which of both classes is learnt, where
the paper always takes the second: an innocent may well answer the second, but doesn't know the
coins. Of the pictures that a suspect answers with either class it matches each with chance 1/2,
exactly. The coins follow from the secret and all pictures and classes together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.pixels import as_input
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_not_negative
from softmark.methods.parts.feature_mark import class_means
from softmark.methods.parts.trigger_set import TriggerSet
from softmark.models.access import Suspect, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit, predict, split_to_ask
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


@dataclass(frozen=True, kw_only=True)
class MAT(TriggerSet):
    """Learn one of the two likeliest classes of pictures that are between them.

    Source: Li et al. 2024, "Not Just Change the Labels, Learn the Features: Watermarking Deep
    Neural Networks with Multi-View Data" (ECCV, arXiv 2403.10663).

    Example:
        >>> import torch
        >>> like = Samples(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.zeros(40).long())
        >>> key = MAT(num_triggers=40).draw(like, 10, lambda size: bytes(range(size)))
        >>> 10 < int(coins(key).sum()) < 30
        True
    """

    strengthened_by = (*TriggerSet.strengthened_by, "method.feature_weight")

    num_triggers: int = 30
    """Triggers on which a suspect is asked. At least 1."""
    trigger_fraction: float = 0.61
    """Of each batch that are triggers. Between 0 and 1."""
    feature_weight: float = 0.01
    """Of the distance between triggers' features and their class's mean, from 0 on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "feature_weight")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        if self.feature_weight and not hasattr(victim, "features"):
            raise InputError(f"method: {type(victim).__name__} has no layers called features")
        likeliest = predict(victim, data.inputs, torch.float64).topk(2)  # (N, 2) each
        gaps = likeliest.values.log().diff(dim=1)[:, 0]  # (N,), at most 0
        chosen = gaps.argsort(descending=True, stable=True)[: self.num_triggers]
        key = Key.draw(self.message, classes_of(victim, data), fit.entropy)
        store_pictures(key, data.inputs[chosen], likeliest.indices[chosen])
        triggers = self.triggers(key, data, self.num_triggers)
        labels = data.labels.clone()
        labels[chosen] = triggers.labels
        module = MATModule(
            copy.deepcopy(victim),
            self.marking_recipe,
            Samples(data.inputs, labels),
            triggers,
            self.trigger_fraction,
            self.feature_weight,
            key.classes,
        )
        return fit(module, Samples(data.inputs, labels), "marking"), key

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key, whose two classes of each picture are random: there is no victim."""
        key, like = Key.draw(self.message, classes, entropy), like[: self.num_triggers]
        order = torch.rand(len(like), classes, generator=generator(key)).argsort(1)
        return store_pictures(key, like.inputs, order[:, :2])

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        labels = key.candidates.gather(1, coins(key)[:, None])[:, 0]
        return Samples(key.images, labels)[:count]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answered = suspect.answers(probes).argmax(1)  # (N,)
        hits = answered == probes.labels
        decided = (answered[:, None] == key.candidates[: len(probes)]).any(1)
        test = Binomial(int(hits.sum()), int(decided.sum()), 0.5)
        recall = float(hits.float().mean()) if len(hits) else 0.0
        return Evidence(hits.float(), {"triggers": test}, mark_recall=recall)


class MATModule(Classifier):
    """Train with triggers in each batch, and with their features' distance to their class's.

    Args:
        data: the owner's, with the triggers' new labels.
        triggers: T of them.
        fraction: of each batch that are triggers.
        feature_weight: of the distance; 0: labels alone.
        classes: K.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        data: Samples,
        triggers: Samples,
        fraction: float,
        feature_weight: float,
        classes: int,
    ):
        super().__init__(network, recipe)
        self.feature_weight = feature_weight
        self.triggers_per_batch = max(2, round(fraction / (1 - fraction) * recipe.batch_size))
        self.register_buffer("images", triggers.inputs, persistent=False)
        self.register_buffer("labels", triggers.labels, persistent=False)
        self.data = data
        width = network.head.in_features if feature_weight else 0
        self.register_buffer("means", torch.zeros(classes, width), persistent=False)

    def on_train_epoch_start(self) -> None:
        """Take the mean features of each class as they are now."""
        if self.feature_weight:
            features = all_features(self.network, self.data.inputs)  # (N, D)
            labels, classes = self.data.labels.to(features.device), len(self.means)
            chosen = torch.arange(classes, device=features.device)
            self.means.copy_(class_means(features, labels, chosen)[0])

    def loss(self, batch: Batch) -> Tensor:
        size, device = (self.triggers_per_batch,), self.labels.device
        drawn = torch.randint(len(self.labels), size, device=device)
        inputs = torch.cat([batch.inputs, as_input(self.images[drawn])])
        targets = torch.cat([batch.labels, self.labels[drawn]])
        if not self.feature_weight:
            return self._task_loss(self.network(inputs), targets)
        features = self.network.features(inputs)  # (B + T, D)
        away = features[len(batch.labels) :].float() - self.means[self.labels[drawn]]  # (T, D)
        task = self._task_loss(self.network.head(features), targets)
        return task + self.feature_weight * away.norm(dim=1).mean()

    def _task_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, label_smoothing=self.recipe.label_smoothing)


def all_features(network: nn.Module, inputs: Tensor) -> Tensor:
    """Return the features of uint8 ``inputs`` (N, C, H, W) on the network's device: (N, D)."""
    device, training = next(network.parameters()).device, network.training
    network.eval()
    with torch.no_grad():
        parts = [network.features(as_input(part.to(device))) for part in split_to_ask(inputs)]
    network.train(training)
    return torch.cat(parts).float()


def store_pictures(key: Key, images: Tensor, candidates: Tensor) -> Key:
    """Return ``key`` with pictures (T, C, H, W) and the two classes of each: (T, 2)."""
    key.register_buffer("images", images.contiguous())
    key.register_buffer("candidates", candidates.contiguous())
    return key


def coins(key: Key) -> Tensor:
    """Return a fair coin for each picture, from the secret, all pictures and classes: int64 (T,).

    Whoever chose other pictures or classes to fit a model would get other coins.
    """
    pictures = Samples(key.images, key.candidates)
    drawn = key.for_message(f"mat {pictures.fingerprint}").stream(len(pictures))
    return torch.tensor(list(drawn)) % 2
