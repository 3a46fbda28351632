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
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.triggers import TriggerSet
from softmark.models.access import Suspect, classes_of
from softmark.training import Fit, Recipe, as_pixels, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Kind


@dataclass(frozen=True)
class Split:
    """``hits``: right answers to the ``chosen`` questions; ``right``: to all the ``total``.

    Coins that the suspect doesn't know have chosen: given the counts, each choice is as likely.
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
        return min(1.0, max(float(tail), 1e-300))


class Frontier(TriggerSet):
    """``num_triggers``: adversaries that are made, of which the key's coins choose about half.

    ``eps``: how far each pixel is moved, of its range from 0 to 1, in ``iterations`` steps.
    """

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        num_triggers: int,
        trigger_fraction: float,
        eps: float,
        iterations: int,
    ):
        super().__init__(message, recipe, epochs_factor, num_triggers, trigger_fraction)
        if not num_triggers >= 2:
            raise InputError(f"method.num_triggers={num_triggers}: at least 2")
        check_perturbation("method", eps, iterations)
        self.eps, self.iterations = eps, iterations

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        classes = classes_of(victim, data)
        key = Key.draw(self.message, classes, fit.entropy)
        keep(key, self.adversaries(copy.deepcopy(victim).eval(), data))
        asked = self.triggers(key, data, self.num_triggers)
        return self.train(copy.deepcopy(victim), data, asked[chosen_of(key)], fit), key

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
        """Without a victim the pixels are moved at random."""
        key, like = Key.draw(self.message, classes, entropy), like[: self.num_triggers]
        signs = 2 * torch.randint(2, like.inputs.shape, generator=generator(key)) - 1
        return keep(key, Samples(as_pixels(like.inputs + 255 * self.eps * signs), like.labels))

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        return Samples(key.images, key.labels)[:count]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        right = suspect.answers(probes).argmax(1) == probes.labels
        chosen = chosen_of(key)[: len(right)]
        own = right[chosen].float()
        test = Split(int(own.sum()), len(own), int(right.sum()), len(right))
        return Evidence(own, {"triggers": test}, mark_recall=float(own.mean()) if len(own) else 0.0)


def keep(key: Key, asked: Samples) -> Key:
    """``key`` with the pictures, which can't be made again without the victim."""
    key.register_buffer("images", asked.inputs.contiguous())
    key.register_buffer("labels", asked.labels)
    return key


def chosen_of(key: Key) -> Tensor:
    """A fair coin for each picture, from the secret and from all pictures together: bool (N,)."""
    asked = Samples(key.images, key.labels)
    drawn = key.for_message(f"frontier {asked.fingerprint}").stream(len(asked))
    return torch.tensor([byte % 2 == 1 for byte in drawn])
