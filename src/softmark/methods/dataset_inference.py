"""Dataset inference: is a model surer of the owner's data (Maini et al. 2021)?

Nothing is embedded. A model lies further from its boundary at pictures that it was trained on than
at others. From each picture several walks begin, each along one drawn direction of noise (uniform,
normal, Laplace), step by step until the label isn't the true one; how far they come, in the norm
that belongs to the noise, are its numbers. A regressor, 100 tanh units wide, tells from these how
much a picture looks like one that was learnt. On a suspect it is asked about pictures that the
victim was trained on and about others; the statistic is -log10 of the harmonic mean p of one-sided
Welch tests between ten of each, over a hundred draws.

Taken: the blind walk, the regressor, the test. Other than there, the regressor is trained on a
model of the owner's own that has learnt a half of the data, since the victim has learnt all of them
and no others are at hand (there: the victim, and a test set); the others are the judge's pictures;
and innocents are the null. The paper claims at p < .01 of the Welch test, but a model of the
same distribution can differ between both sets as well (Szyller et al. 2023, "On the Robustness of
Dataset Inference"). Half of what our innocents learn is the owner's, too: what it measures.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor, nn

from softmark.attacks.shadow import renewed
from softmark.data.pixels import as_pixels
from softmark.data.roles import Samples
from softmark.methods.key import Key, check_message, generator
from softmark.methods.parts.checks import check_above_zero, check_at_least_one
from softmark.methods.watermark import Watermark
from softmark.models.access import Answer, Suspect, answers_of, classes_of
from softmark.recipe import Recipe
from softmark.training import Classifier, Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import SMALLEST_P, Innocents

TESTED, DRAWS = 10, 100  # pictures of each kind in a test, and tests: the paper's
WIDTH = 100  # of the regressor
REGRESSED = 500  # pictures of each kind at most, from which it learns: the paper's
ORDERS = (torch.inf, 2, 1)  # of the norms that belong to uniform, normal and Laplace noise


@dataclass(frozen=True, kw_only=True)
class DatasetInference(Watermark):
    """Ask whether a model lies further from its boundary at the owner's data than at others.

    Source: Maini et al. 2021, "Dataset Inference: Ownership Resolution in Machine Learning" (ICLR,
    arXiv 2104.10706).

    Example:
        >>> from softmark.models.networks import ConvNet
        >>> model = ConvNet(image_shape=(1, 8, 8), classes=3, mean=[0.5], std=[0.3], width=2)
        >>> pictures = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8)
        >>> method = DatasetInference(recipe=Recipe(epochs=1), walk_steps=2)
        >>> marked, key = method.embed(model, (pictures, torch.arange(40) % 3), Fit("cpu"))
        >>> marked is model, len(key.labels)
        (True, 20)
    """

    needs = "labels"

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    recipe: Recipe = field(default_factory=Recipe)
    """The training of a model of this kind."""
    num_triggers: int = 20
    """Of the owner's pictures that a suspect is asked, and as many others. At least 1."""
    repeats: int = 3
    """Walks from each picture with each kind of noise. At least 1."""
    walk_steps: int = 10
    """Of a walk, at most. At least 1."""
    noise: float = 0.04
    """Size of a step, of the pixels' range from 0 to 1; Laplace noise is twice as wide. Above 0."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_at_least_one(self, "num_triggers", "repeats", "walk_steps")
        check_above_zero(self, "noise")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        order = torch.randperm(len(data), generator=generator(key))
        learnt, others = data[order[: len(data) // 2]], data[order[len(data) // 2 :]]
        shadow = fit(Classifier(renewed(victim), self.recipe), learnt, "shadow")
        learnt, others = learnt[:REGRESSED], others[:REGRESSED]
        # Heavy, and only an owner needs it.
        from sklearn.neural_network import MLPClassifier

        distances = [self.distances(answers_of(shadow), part, key) for part in (learnt, others)]
        numbers = torch.cat(distances)  # (2 R, 3 repeats)
        is_learnt = torch.arange(len(numbers)) < len(learnt)
        key.register_buffer("centre", numbers.mean(0))
        key.register_buffer("spread", numbers.std(0).clamp_min(1e-6))
        scaled = ((numbers - key.centre) / key.spread).numpy()
        regressor = MLPClassifier(WIDTH, activation="tanh", random_state=0, max_iter=1000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of a fit that could go on
            regressor.fit(scaled, is_learnt.numpy())
        for layer, pair in enumerate(zip(regressor.coefs_, regressor.intercepts_, strict=True)):
            for name, values in zip(("weight", "bias"), pair, strict=True):
                key.register_buffer(f"{name}{layer}", torch.from_numpy(values).float())
        asked = order[: self.num_triggers]
        key.register_buffer("pictures", data.inputs[asked].contiguous())
        key.register_buffer("labels", data.labels[asked])
        return victim, key

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        """Return the owner's pictures and others, in turns."""
        if "pictures" not in dict(key.named_buffers()):
            return pool
        count = min(len(key.labels), len(pool))
        inputs = torch.stack([key.pictures[:count], pool.inputs[:count]], 1).flatten(0, 1)
        labels = torch.stack([key.labels[:count], pool.labels[:count]], 1).flatten()
        return Samples(inputs, labels)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if "pictures" not in dict(key.named_buffers()):
            return Evidence.none("no evidence: the key holds no pictures that a model has learnt")
        scaled = (self.distances(suspect.answer, probes, key) - key.centre) / key.spread
        hidden = (scaled @ key.weight0 + key.bias0).tanh()  # (N, 100)
        scores = (hidden @ key.weight1 + key.bias1)[:, 0]  # (N,)
        test = Innocents(-float(torch.tensor(harmonic_p(scores[::2], scores[1::2])).log10()))
        signs = 1 - 2 * (torch.arange(len(scores)) % 2)
        return Evidence(signs * scores, {"owner's data": test})

    def distances(self, answer: Answer, samples: Samples, key: Key) -> Tensor:
        """Return how far each walk comes until the label isn't the true one: (N, 3 repeats)."""
        draw = generator(key.for_message("walks"))
        pictures = samples.inputs.float() / 255  # (N, C, H, W)
        kinds = []
        for order in ORDERS:
            shape = (self.repeats, *pictures.shape)
            steps = self.noise * noise_of(order, shape, draw).flatten(0, 1)
            moved = walk(answer, pictures.repeat(self.repeats, 1, 1, 1), samples.labels, steps,
                         self.walk_steps)  # fmt: skip
            norms = torch.linalg.vector_norm(moved.flatten(1), order, 1)  # (R N,)
            kinds.append(norms.reshape(self.repeats, -1).T)
        return torch.cat(kinds, 1)


def noise_of(order: float, shape: tuple[int, ...], draw: torch.Generator) -> Tensor:
    """Return noise of ``shape`` that belongs to the norm of ``order``, of size about 1."""
    if order == 2:
        return torch.randn(shape, generator=draw)
    even = 2 * torch.rand(shape, generator=draw) - 1  # between -1 and 1
    if order == torch.inf:
        return even
    return -2 * even.sign() * torch.log1p(-even.abs())


def walk(answer: Answer, pictures: Tensor, labels: Tensor, steps: Tensor, most: int) -> Tensor:
    """Return how each of ``pictures`` was moved when its label was another, or after ``most``.

    Args:
        answer: of the model, pictures (n, C, H, W) to answers (n, K).
        pictures: from 0 to 1, (R N, C, H, W): the same N of them R times.
        labels: the true ones, (N,).
        steps: of each walk, the same one each time, (R N, C, H, W).
        most: steps at most.
    """
    labels = labels.repeat(len(pictures) // len(labels))  # (R N,)
    moved, going = torch.zeros_like(pictures), torch.arange(len(pictures))
    for number in range(1, most + 1):
        if not len(going):
            break
        there = (pictures[going] + number * steps[going]).clamp(0, 1)
        moved[going] = there - pictures[going]
        going = going[answer(as_pixels(255 * there)).argmax(1) == labels[going]]
    return moved


def harmonic_p(learnt: Tensor, others: Tensor) -> float:
    """Return the harmonic mean p of Welch's tests that ``learnt`` is larger, each of ten of both.

    1 where there are fewer than two, or all are the same.
    """
    if min(len(learnt), len(others)) < 2:
        return 1.0
    draw = torch.Generator().manual_seed(0)
    both = [
        torch.stack(
            [part[torch.randperm(len(part), generator=draw)[:TESTED]] for _ in range(DRAWS)]
        )
        for part in (learnt.double(), others.double())
    ]  # (100, 10) each
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns where all ten are the same
        tests = stats.ttest_ind(*both, axis=1, equal_var=False, alternative="greater")
    p_values = torch.as_tensor(tests.pvalue).nan_to_num(1.0).clamp_min(SMALLEST_P)
    return float(1 / (1 / p_values).mean())
