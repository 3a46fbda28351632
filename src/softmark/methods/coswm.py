"""CosWM: a cosine in what the interface answers (Charette et al. 2022, "Cosine Model ...").

The key is a class i*, a unit vector v and a frequency f. With p = v'x for the pixels x in [0, 1]
and c = cos(f p), the owner's interface answers (q_i* + eps (1 + c)) / (1 + 2 eps) for class i*, and
(q_i + eps (1 - c) / (K - 1)) / (1 + 2 eps) for each other class. The model is trained through this:
the loss is the cross-entropy of the perturbed answers. A student learns the wave; stolen weights
have none, since the interface adds it.

Detection, as in the authors' code: of the pictures that the suspect answers with i*, those with a
score above the median; the Lomb-Scargle power of these scores over p at f, against the mean power
at other frequencies. As there, the pictures are the student's own: those that the interface was
asked, where it was, else the judge's. What differs: power hardly changes within f +- .005, so that
one frequency stands for the window, and ``others`` for their 200,000; and where they claim a ratio
above 8, keys are drawn again, with other classes and vectors and the same f. The suspect's own
answer says which pictures are of a class: no label, which the key may have changed in the log.

The authors' student learns for 40 epochs on pictures that aren't augmented: the attack
``distill_unaugmented``. The other students here crop and mirror them, which hides the wave from
them: it is tied to the very pixels that were asked.
"""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.batches import Batch
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.watermark import TrainedWatermark
from softmark.models.access import Answer, Suspect, classes_of
from softmark.recipe import Recipe
from softmark.tails import FLOOR, log_of
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Sampled

FEWEST = 4  # pictures: a wave with a mean goes through any three


class CosWMModule(Classifier):
    """Train with the cross-entropy of the perturbed answers.

    Args:
        target: the class i*.
        vector: v, a unit vector in the space of pixels: (D,).
        frequency: f, radians for each unit of p.
        eps: of the perturbation.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        target: int,
        vector: Tensor,
        frequency: float,
        eps: float,
    ):
        super().__init__(network, recipe)
        self.target, self.frequency, self.eps = target, frequency, eps
        self.register_buffer("vector", vector, persistent=False)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(batch.inputs.device.type, enabled=False):
            wave = (self.frequency * batch.inputs.float().flatten(1) @ self.vector).cos()  # (B,)
        answers = self.network(batch.inputs).float().softmax(1)  # (B, K)
        return F.nll_loss(log_of(add_wave(answers, wave, self.target, self.eps)), batch.labels)


@dataclass(frozen=True, kw_only=True)
class CosWM(TrainedWatermark):
    """Answer with a cosine of a secret projection of the pixels, which a student learns.

    Source: Charette et al. 2022, "Cosine Model Watermarking Against Ensemble Distillation"
    (arXiv 2203.02777).

    Example:
        >>> import torch
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> flat = lambda pictures: torch.full((len(pictures), 10), 0.1)
        >>> served = CosWM(eps=0.05).serve(flat, key)
        >>> answers = served(torch.randint(256, (4, 1, 8, 8), dtype=torch.uint8))
        >>> bool((answers != 0.1).any()), bool(answers.sum(1).sub(1).abs().max() < 1e-6)
        (True, True)
    """

    needs = "probabilities"
    uses_query_log = True

    eps: float = 0.05
    """Of the perturbation, above 0."""
    frequency: float = 30.0
    """Radians for each unit of the projection, above 0."""
    highest: float = 251.0
    """Of the other frequencies, which the power is measured against: the paper's."""
    others: int = 100
    """How many other frequencies, evenly up to the highest. At least 1."""
    redraws: int = 1999
    """Keys that are drawn again for the null. At least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above_zero(self, "eps", "frequency")
        if not self.highest > self.frequency:
            raise InputError(f"method.highest={self.highest}: it must be above method.frequency")
        check_at_least_one(self, "others", "redraws")

    @functools.cached_property
    def spectrum(self) -> Tensor:
        """The key's frequency, and after it the others: float64 (F,)."""
        steps = torch.arange(1, self.others + 1, dtype=torch.float64)
        even = self.highest * steps / self.others
        return torch.cat([even.new_tensor([self.frequency]), even])

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        size = data.inputs[0].numel()
        (target,), (vector,) = draw_secrets(generator(key), 1, key.classes, size)
        network = copy.deepcopy(victim)
        module = CosWMModule(
            network, self.marking_recipe, int(target), vector, self.frequency, self.eps
        )
        return fit(module, data, "marking"), key

    def serve(self, answer: Answer, key: Key) -> Answer:
        def served(pictures: Tensor) -> Tensor:
            pixels = pictures.flatten(1).float() / 255  # (N, D)
            (target,), (vector,) = draw_secrets(generator(key), 1, key.classes, pixels.shape[1])
            wave = (self.frequency * pixels @ vector).cos()  # (N,)
            return add_wave(answer(pictures), wave, int(target), self.eps)

        return served

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        return pool if log is None else log

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answers = suspect.answers(probes).float()  # (N, K)
        pixels = probes.inputs.flatten(1) / 255  # (N, D)
        if (answers.amax(1) == 1).all():
            return Evidence.none("no evidence: the suspect tells labels and no scores")
        size, redraw = pixels.shape[1], torch.Generator().manual_seed(0)
        owners = draw_secrets(generator(key), 1, key.classes, size)
        redrawn = draw_secrets(redraw, self.redraws, key.classes, size)
        targets, vectors = (torch.cat(pair) for pair in zip(owners, redrawn, strict=True))
        chosen = [confident_pictures(answers, label) for label in range(key.classes)]
        ratios = [
            self.power_ratio(pixels[chosen[target]] @ vector, answers[chosen[target], target])
            for target, vector in zip(targets.tolist(), vectors, strict=True)
        ]
        pictures, target_probs = chosen[targets[0]], answers[:, targets[0]]
        wave = (self.frequency * pixels[pictures] @ vectors[0]).cos()
        scores = torch.zeros(len(answers))
        scores[pictures] = (target_probs[pictures] - target_probs[pictures].mean()) * wave
        return Evidence(scores, {"power": Sampled(ratios[0], torch.tensor(ratios[1:]))})

    def power_ratio(self, places: Tensor, scores: Tensor) -> float:
        """Return the power of ``scores`` (N,) over ``places`` (N,) at f, over the others' mean."""
        if len(scores) < FEWEST or (scores == scores[0]).all():
            return 0.0
        powers = lomb_scargle_power(places.double(), scores.double(), self.spectrum)  # (F,)
        return float(powers[0] / powers[1:].mean())


def lomb_scargle_power(places: Tensor, scores: Tensor, frequencies: Tensor) -> Tensor:
    """Return the Lomb-Scargle power with a floating mean: (F,).

    By how much a mean and a wave leave a smaller sum of squares than a mean alone. Without the
    floating mean a wave would be missed whose places aren't spread evenly over its period: those
    with a score above the median lie near its crests.

    Args:
        places: where the scores were measured, (N,).
        scores: (N,).
        frequencies: radians for each unit of place, (F,).
    """
    angles = frequencies[:, None] * places  # (F, N)
    cos, sin, swing = (
        values - values.mean(-1, keepdim=True) for values in (angles.cos(), angles.sin(), scores)
    )
    cc, ss, cs = (cos * cos).sum(1), (sin * sin).sum(1), (cos * sin).sum(1)  # (F,)
    yc, ys = cos @ swing, sin @ swing  # (F,)
    return (yc**2 * ss - 2 * yc * ys * cs + ys**2 * cc) / (cc * ss - cs**2).clamp_min(FLOOR)


def draw_secrets(
    draw: torch.Generator, count: int, classes: int, size: int
) -> tuple[Tensor, Tensor]:
    """Return ``count`` secrets: classes (count,) and unit vectors (count, ``size``)."""
    targets = torch.randint(classes, (count,), generator=draw)
    return targets, F.normalize(torch.randn(count, size, generator=draw), dim=1)


def add_wave(answers: Tensor, wave: Tensor, target: int, eps: float) -> Tensor:
    """Return ``answers`` (N, K) with ``wave`` (N,) in class ``target``, against it in others."""
    classes = answers.shape[1]
    added = (eps * (1 - wave) / (classes - 1))[:, None].repeat(1, classes)  # (N, K)
    added[:, target] = eps * (1 + wave)
    return (answers + added) / (1 + 2 * eps)


def confident_pictures(answers: Tensor, label: int) -> Tensor:
    """Return the places of the pictures that are answered with ``label`` and with a score above
    these pictures' median."""
    places = (answers.argmax(1) == label).nonzero().flatten()
    scores = answers[places, label]
    return places[scores > scores.median()] if len(places) else places
