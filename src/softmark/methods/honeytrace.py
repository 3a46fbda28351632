"""Neural Honeytrace: answers that lean to one class near the triggers' features (Xu et al. 2026).

The model stays as it is, and nothing is trained. A trigger is a picture of one class with the lower
right quarter of a picture of another; the wanted answer is a third class. The owner's interface
looks at what an input gives the last layer. With z the logits, r those of a reference picture of
the wanted class, and s from 0 to 1 for how near the input's features are to those of triggers:

    z <- (1 - s^2) z + s^2 r        and, of the inputs of this s, floor(10 s^3) / 10 are answered r

Where no class has half of the probability, s^(1/4) stands for s: so are inputs answered that lie
outside the task. What is near is the mean of the ten least distances to features of triggers, each
the mean absolute difference of two. A student of such answers is meant to answer triggers with the
wanted class. Weights that were stolen carry no mark.

Of the paper (ICML 2026; arXiv 2501.09328) we have abstract and beginning; this follows the authors'
code for CIFAR-10 (github.com/NeurHT/NeurHT, 3b14996): triggers, powers, steps, one half. What
differs:

- There s is .85 (for another data set 1) less the distance, which fits the size of one network's
  features. Here s is 1 at the distance at which triggers lie from each other, and 0 at that of
  ``reach`` of the owner's pictures.
- Whether r itself is answered is drawn there at each query. Here key and input decide it, so that
  whoever asks again gets the same answer.
- There a logit of r is then written over another class's probability, so that an answer sums to
  more than 1 and that class is the likeliest, and triggers answered with either class count. Not so
  here: an answer is a distribution, and one class is wanted.
- They claim by a t-test against unmarked models. One key in K - 2 wants the same class of the same
  two, so that no p of keys drawn again can be below that: calibration innocents are the null.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.dawn import input_digests
from softmark.methods.key import Key, check_message, generator
from softmark.methods.parts.checks import check_at_least_one, check_fraction
from softmark.methods.parts.feature_mark import inputs_of, last_layer
from softmark.methods.stamped import pictures_of_class
from softmark.methods.watermark import Watermark
from softmark.models.access import Answer, Suspect, answers_of, classes_of
from softmark.tails import log_of
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Innocents

NEAREST = 10  # features of triggers, whose mean distance counts: the authors'
SURE = 0.5  # probability of the likeliest class, below which an input is a thief's: theirs
STEPS = 10  # parts into which s^3 is rounded down: theirs
ROWS_AT_A_TIME = 1000  # whose distances are held


@dataclass(frozen=True, kw_only=True)
class HoneyTrace(Watermark):
    """Mix a reference answer into those of inputs whose features are near the triggers'.

    Source: Xu et al. 2026, "Neural Honeytrace: Plug&Play Watermarking Framework against Model
    Extraction Attacks" (ICML, arXiv 2501.09328), by its authors' code.

    Example:
        >>> import torch
        >>> pool = Samples(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10))
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> triggers = HoneyTrace().triggers(key, pool, 20)
        >>> tuple(triggers.inputs.shape), len(triggers.labels.unique())
        ((20, 1, 8, 8), 1)
    """

    needs = "labels"
    uses_query_log = True  # whoever asked nothing has a model without the mark

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    num_triggers: int = 100
    """Triggers on which a suspect is asked. At least 1."""
    references: int = 50
    """Triggers whose features the interface compares with. At least 11: ten are the nearest."""
    reach: float = 0.25
    """Of the owner's pictures that are nearer to triggers than where s is 0. Between 0 and 1."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_at_least_one(self, "num_triggers")
        check_fraction(self, "reach")
        if self.references <= NEAREST:
            raise InputError(f"method.references={self.references}: at least {NEAREST + 1}")

    def embed(self, victim: nn.Module, data: Samples, fit: Callable) -> tuple[nn.Module, Key]:
        key = self.draw(data, classes_of(victim, data), fit.entropy)
        answer = answers_of(victim)
        triggers = self.triggers(key, data, self.references)
        _, features = with_features(victim, answer, triggers.inputs, key.classes)
        answers, of_data = with_features(victim, answer, data.inputs, key.classes)
        key.register_buffer("features", features)
        surest = answers[:, self.secret(key)[2]].argmax()
        key.register_buffer("reference", log_of(answers[surest]))
        # Each trigger but itself.
        own = mean_of_nearest(features, features, 1 + NEAREST) * (1 + NEAREST) / NEAREST
        far = mean_of_nearest(of_data, features, NEAREST).quantile(self.reach)
        key.register_buffer("distances", torch.stack([own.median(), far]))
        return victim, key

    def build_modules(self, key: Key) -> None:
        # A file may say anything. The key of a forger, who has no victim, holds none of these.
        held = dict(key.named_buffers())
        parts = [held[name] for name in ("features", "reference", "distances") if name in held]
        if not parts:
            return
        shapes = [tuple(part.shape) for part in parts]
        are_floats = all(part.dtype == torch.float32 for part in parts)
        if len(shapes[0]) != 2 or shapes[1:] != [(key.classes,), (2,)] or not are_floats:
            raise InputError("the key holds no features of triggers, answer and distances")

    def secret(self, key: Key) -> tuple[int, int, int]:
        """Return the two classes whose pictures are put together, and the wanted one."""
        if key.classes < 3:
            raise InputError(f"a trigger shows two classes and wants a third: of {key.classes}")
        first, second, wanted = torch.randperm(key.classes, generator=generator(key))[:3].tolist()
        return first, second, wanted

    def triggers(self, key: Key, pool: Samples, count: int) -> Samples:
        """Return ``count`` triggers of ``pool``'s pictures, with the class that the owner wants."""
        first, second, wanted = self.secret(key)
        pictures = pictures_of_class(pool, first, count).clone()  # (N, C, H, W)
        others = pictures_of_class(pool, second, count)
        order = torch.randperm(count, generator=generator(key))
        top, left = (side // 2 for side in pictures.shape[2:])
        pictures[..., top:, left:] = others[order][..., top:, left:]
        return Samples(pictures, torch.full((count,), wanted))

    def serve_network(self, network: nn.Module, answer: Answer, key: Key) -> Answer:
        """Return an interface that leans to the wanted class where features are near triggers'."""
        if not hasattr(key, "features"):
            raise InputError("the key was drawn without a model: it holds no features of triggers")

        def served(inputs: Tensor) -> Tensor:
            answers, features = with_features(network, answer, inputs, key.classes)
            similarity = self.similarity(features, key)  # (N,)
            unsure = answers.amax(1) < SURE
            similarity = torch.where(unsure, similarity**0.25, similarity)
            weight = similarity[:, None] ** 2  # (N, 1)
            mixed = (1 - weight) * log_of(answers) + weight * key.reference  # (N, K)
            digests = input_digests(key, inputs)
            drawn = torch.tensor([int.from_bytes(one[:8], "big") / 2**64 for one in digests])
            is_replaced = drawn < (STEPS * similarity**3).floor() / STEPS
            return torch.where(is_replaced[:, None], key.reference, mixed).softmax(1)

        return served

    def similarity(self, features: Tensor, key: Key) -> Tensor:
        """Return s of ``features`` (N, D): 1 as near as triggers are to each other, (N,)."""
        near, far = key.distances
        distances = mean_of_nearest(features, key.features, NEAREST)
        return ((far - distances) / (far - near).clamp_min(1e-12)).clamp(0, 1)

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        return self.triggers(key, pool, self.num_triggers)

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        hits = suspect.answers(probes).argmax(1) == probes.labels
        recall = float(hits.float().mean())
        return Evidence(hits.float(), {"triggers": Innocents(recall)}, mark_recall=recall)


def with_features(
    network: nn.Module, answer: Answer, inputs: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return what ``answer`` says of ``inputs``, (N, K), and what it gives the last layer, (N, D).

    ``answer`` asks ``network``, whose last layer has ``classes`` outputs.
    """
    with inputs_of(last_layer(network, classes)) as seen:
        answers = answer(inputs)
    if sum(map(len, seen)) != len(inputs):
        raise InputError("method: the model's last nn.Linear isn't what gives its logits")
    return answers, torch.cat([part.flatten(1).float().cpu() for part in seen])


def mean_of_nearest(features: Tensor, others: Tensor, count: int) -> Tensor:
    """Return the mean of the ``count`` least mean absolute differences to ``others``: (N,).

    Args:
        features: (N, D).
        others: (M, D), M at least ``count``.
        count: how many are taken.

    Example:
        >>> others = torch.tensor([[0.0, 0.0], [2.0, 2.0], [9.0, 9.0]])
        >>> mean_of_nearest(torch.tensor([[0.0, 1.0]]), others, 2).tolist()
        [1.0]
    """
    means = [
        torch.cdist(part, others, p=1).topk(count, largest=False).values.mean(1)
        for part in features.split(ROWS_AT_A_TIME)
    ]
    return torch.cat(means) / features.shape[1]
