"""Frontier: adversarial pictures with their true labels (Le Merrer et al. 2020).

"Adversarial Frontier Stitching": pictures that the victim answers rightly are moved by
eps * sign(gradient). Half of those that are kept fool the victim (true adversaries), half don't
(false ones). The model is trained on with their true labels, so that its boundary is pulled over
the true ones; it is claimed if it answers nearly all of them rightly.

The paper compares with a fixed rate of 1/2, but other models may be right on any number of them,
and a better model is no thief. So this one differs: twice as many are made, fair coins of the key
choose which are learnt, and the others are asked as well. To whoever doesn't know the key
the chosen are a random part: the number of right answers among them is hypergeometric, exactly, for
any innocent and even for the victim itself. The coins follow from the secret and from all the
pictures together, so that nobody can choose pictures to fit the coins.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy import stats
from torch import Tensor, nn

from softmark.attacks.perturb import check_perturbation, perturbed_pictures
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.trigger_set import TriggerSet, store_pictures
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import SMALLEST_P, Kind


@dataclass(frozen=True)
class Hypergeometric:
    """Of ``total`` questions fair coins chose ``chosen``; the suspect is right on ``right`` of all
    and on ``hits`` of the chosen.

    The suspect doesn't know the coins: given the counts, each choice is as likely.

    Example:
        >>> round(252 * Hypergeometric(hits=5, chosen=5, right=5, total=10).p_value(), 6)
        1.0
    """

    hits: int
    chosen: int
    right: int
    total: int
    kind: ClassVar[Kind] = "exact"
    independent_probes: ClassVar[bool] = False

    @property
    def score(self) -> float:
        """The part of the chosen that is right, less that of the others."""
        others = self.total - self.chosen
        return self.hits / max(1, self.chosen) - (self.right - self.hits) / max(1, others)

    def p_value(self, innocents: object = ()) -> float:
        tail = stats.hypergeom.sf(self.hits - 1, self.total, self.right, self.chosen)
        return min(1.0, max(float(tail), SMALLEST_P))


@dataclass(frozen=True, kw_only=True)
class Frontier(TriggerSet):
    """Train the model to be right on adversarial pictures that the key's coins choose.

    ``num_triggers`` are made, at least 2; about half of them are learnt.

    Source: Le Merrer et al. 2020, "Adversarial Frontier Stitching for Remote Neural Network
    Watermarking" (arXiv 1711.01894).

    Example:
        >>> import torch
        >>> like = Samples(torch.zeros(400, 1, 8, 8, dtype=torch.uint8), torch.zeros(400).long())
        >>> key = Frontier().draw(like, 10, lambda size: bytes(range(size)))
        >>> 150 < int(learnt_mask(key).sum()) < 250
        True
    """

    num_triggers: int = 400
    """Adversaries, half of which are learnt. At least 2."""
    trigger_fraction: float = 0.1
    """Of the training samples that are adversaries. Between 0 and 1."""
    eps: float = 0.15
    """How far the pixels are moved, of their range from 0 to 1. Above 0, at most 1."""
    iterations: int = 1
    """Steps of the gradient's sign. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_triggers >= 2:
            raise InputError(f"method.num_triggers={self.num_triggers}: at least 2")
        check_perturbation("method", self.eps, self.iterations)

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        classes = classes_of(victim, data)
        key = Key.draw(self.message, classes, fit.entropy)
        store_pictures(key, self.adversaries(copy.deepcopy(victim).eval(), data))
        triggers = self.triggers(key, data, self.num_triggers)
        learnt = triggers[learnt_mask(key)]
        return self.train(copy.deepcopy(victim), data, learnt, fit), key

    def adversaries(self, victim: nn.Module, data: Samples) -> Samples:
        """Return as many that fool the victim as don't, together ``num_triggers`` at most."""
        data = data[predict(victim, data.inputs).argmax(1) == data.labels]
        moved = Samples(perturbed_pictures(victim, data, self.eps, self.iterations), data.labels)
        fooled = predict(victim, moved.inputs).argmax(1) != moved.labels
        if not fooled.any():
            raise InputError(
                f"method.eps={self.eps}: none of {len(data)} moved pictures fools the victim: "
                "a larger one"
            )
        halves = [mask.nonzero().flatten()[: self.num_triggers // 2] for mask in (fooled, ~fooled)]
        return moved[torch.cat(halves)]

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key, for which pixels are moved at random: there is no victim."""
        key, like = Key.draw(self.message, classes, entropy), like[: self.num_triggers]
        signs = 2 * torch.randint(2, like.inputs.shape, generator=generator(key)) - 1
        moved = as_pixels(like.inputs + 255 * self.eps * signs)
        return store_pictures(key, Samples(moved, like.labels))

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        return Samples(key.images, key.labels)[:count]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        hits = suspect.answers(probes).argmax(1) == probes.labels  # (N,)
        scores = hits[learnt_mask(key)[: len(hits)]].float()
        test = Hypergeometric(int(scores.sum()), len(scores), int(hits.sum()), len(hits))
        recall = float(scores.mean()) if len(scores) else 0.0
        return Evidence(scores, {"triggers": test}, mark_recall=recall)


def learnt_mask(key: Key) -> Tensor:
    """Return a fair coin for each picture, from the secret and all pictures together: (N,)."""
    pictures = Samples(key.images, key.labels)
    drawn = key.for_message(f"frontier {pictures.fingerprint}").stream(len(pictures))
    return torch.tensor([byte % 2 == 1 for byte in drawn])
