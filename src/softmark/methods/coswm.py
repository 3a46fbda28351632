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
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.control import longer
from softmark.methods.key import Key, generator, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Answer, Suspect, classes_of
from softmark.training import Batch, Classifier, Fit, Recipe
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Sampled

FEWEST = 4  # pictures: a wave with a mean goes through any three


class Waved(Classifier):
    """The cross-entropy of the perturbed answers; ``vector`` (D,)."""

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
            wave = (self.frequency * batch.inputs.float().flatten(1) @ self.vector).cos()
        answers = self.network(batch.inputs).float().softmax(1)
        told = perturbed(answers, wave, self.target, self.eps)
        return F.nll_loss(told.clamp_min(1e-12).log(), batch.labels)


class CosWM(Watermark):
    """``eps``: of the perturbation. ``frequency``: f, radians for each unit of p.

    ``others``: how many other frequencies, evenly up to ``highest``, f's power is measured against.
    ``redraws``: how many keys are drawn again for the null.
    """

    needs = "probabilities"
    uses_query_log = True
    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor")

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        epochs_factor: float,
        eps: float,
        frequency: float,
        highest: float,
        others: int,
        redraws: int,
    ):
        for name, value in (("eps", eps), ("frequency", frequency)):
            if not value > 0:
                raise InputError(f"method.{name}={value}: it must be above 0")
        if not highest > frequency:
            raise InputError(f"method.highest={highest}: it must be above method.frequency")
        for name, count in (("others", others), ("redraws", redraws)):
            if not count >= 1:
                raise InputError(f"method.{name}={count}: at least 1")
        self.message = named(message)
        self.recipe = longer(recipe, epochs_factor)
        self.eps, self.frequency, self.redraws = eps, frequency, redraws
        even = highest * torch.arange(1, others + 1, dtype=torch.float64) / others
        self.spectrum = torch.cat([even.new_tensor([frequency]), even])

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        (target,), (vector,) = secret(generator(key), 1, key.classes, data.inputs[0].numel())
        network = copy.deepcopy(victim)
        marking = Waved(network, self.recipe, int(target), vector, self.frequency, self.eps)
        return fit(marking, data, "marking"), key

    def serve(self, answer: Answer, key: Key) -> Answer:
        def served(images: Tensor) -> Tensor:
            pixels = images.flatten(1).float() / 255
            (target,), (vector,) = secret(generator(key), 1, key.classes, pixels.shape[1])
            wave = (self.frequency * pixels @ vector).cos()
            return perturbed(answer(images), wave, int(target), self.eps)

        return served

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        return pool if log is None else log

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answers, pixels = suspect.answers(probes), probes.inputs.flatten(1) / 255
        if (answers.amax(1) == 1).all():
            return Evidence.none("no evidence: the suspect tells labels and no scores")
        size, redraw = pixels.shape[1], torch.Generator().manual_seed(0)
        own = secret(generator(key), 1, key.classes, size)
        drawn = secret(redraw, self.redraws, key.classes, size)
        targets, vectors = (torch.cat(pair) for pair in zip(own, drawn, strict=True))
        chosen = [sure(answers, label) for label in range(key.classes)]
        ratios = [
            self.ratio(pixels[chosen[target]] @ vector, answers[chosen[target], target])
            for target, vector in zip(targets.tolist(), vectors, strict=True)
        ]
        scores, here, told = torch.zeros(len(answers)), chosen[targets[0]], answers[:, targets[0]]
        wave = (self.frequency * pixels[here] @ vectors[0]).cos()
        scores[here] = (told[here] - told[here].mean()) * wave
        return Evidence(scores, {"power": Sampled(ratios[0], torch.tensor(ratios[1:]))})

    def ratio(self, places: Tensor, scores: Tensor) -> float:
        """The power at f of ``scores`` (N,) over ``places`` (N,), over the others' mean power."""
        if len(scores) < FEWEST or (scores == scores[0]).all():
            return 0.0
        found = power(places.double(), scores.double(), self.spectrum)
        return float(found[0] / found[1:].mean())


def power(places: Tensor, scores: Tensor, frequencies: Tensor) -> Tensor:
    """The Lomb-Scargle power with a floating mean: (F,).

    By how much a mean and a wave leave a smaller sum of squares than a mean alone. Without the
    floating mean a wave would be missed whose places aren't spread evenly over its period: those
    with a score above the median lie near its crests.
    """
    angles = frequencies[:, None] * places
    cos, sin, swing = (
        each - each.mean(-1, keepdim=True) for each in (angles.cos(), angles.sin(), scores)
    )
    cc, ss, cs = (cos * cos).sum(1), (sin * sin).sum(1), (cos * sin).sum(1)
    yc, ys = cos @ swing, sin @ swing
    return (yc**2 * ss - 2 * yc * ys * cs + ys**2 * cc) / (cc * ss - cs**2).clamp_min(1e-12)


def secret(draw: torch.Generator, count: int, classes: int, size: int) -> tuple[Tensor, Tensor]:
    """``count`` secrets: classes (count,) and unit vectors (count, ``size``)."""
    targets = torch.randint(classes, (count,), generator=draw)
    return targets, F.normalize(torch.randn(count, size, generator=draw), dim=1)


def perturbed(answers: Tensor, wave: Tensor, target: int, eps: float) -> Tensor:
    """``answers`` (N, K) with ``wave`` (N,) in class ``target``, against it in the others."""
    classes = answers.shape[1]
    added = (eps * (1 - wave) / (classes - 1))[:, None].repeat(1, classes)
    added[:, target] = eps * (1 + wave)
    return (answers + added) / (1 + 2 * eps)


def sure(answers: Tensor, label: int) -> Tensor:
    """Which pictures are answered with ``label`` and a score above these pictures' median."""
    there = (answers.argmax(1) == label).nonzero().flatten()
    scores = answers[there, label]
    return there[scores > scores.median()] if len(there) else there
