"""DAWN: wrong answers to a few inputs (Szyller et al. 2021, "Dynamic Adversarial Watermarking").

The model stays as it is. The owner's interface answers a part of all inputs with a wrong
class; the key and the input alone decide which inputs and which class, so that the same question
gets the same answer. Whoever trains a surrogate on the answers learns the wrong ones too. The
evidence is the log of what the interface was asked: a suspect that repeats the wrong answers was
trained on them. An innocent guesses such a label with chance 1/(K - 1) at most: the paper's null is
that binomial. Weights that were stolen carry no mark.
"""

from __future__ import annotations

import hmac

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.key import Key, named
from softmark.methods.watermark import Watermark
from softmark.models.access import Answer, Suspect, classes_of
from softmark.training import Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


class Dawn(Watermark):
    needs = "labels"
    uses_query_log = True

    def __init__(self, message: str, input_fraction: float):
        if not 0 < input_fraction < 1:
            raise InputError(f"method.input_fraction={input_fraction}: a fraction between 0 and 1")
        self.message, self.input_fraction = named(message), input_fraction

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        classes = classes_of(victim, data)
        return victim, self.draw(data, classes, fit.entropy)

    def steps(self, key: Key, images: Tensor) -> Tensor:
        """How far each answer is moved, 1 to K - 1 classes; 0 for a true one: int64 (N,)."""
        secret = key.stream(32)
        found = []
        for image in images:
            drawn = hmac.digest(secret, image.numpy().tobytes(), "sha256")
            chosen = int.from_bytes(drawn[:8], "big") < self.input_fraction * 2**64
            step = 1 + int.from_bytes(drawn[8:16], "big") % (key.classes - 1)
            found.append(step if chosen else 0)
        return torch.tensor(found, dtype=torch.int64)

    def serve(self, answer: Answer, key: Key) -> Answer:
        """The likeliest class and the wrong one change places."""

        def served(images: Tensor) -> Tensor:
            told = answer(images).clone()
            true = told.argmax(1)
            wrong = (true + self.steps(key, images)) % key.classes
            rows = torch.arange(len(told))
            told[rows, true], told[rows, wrong] = told[rows, wrong], told[rows, true]
            return told

        return served

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        """The logged inputs that were answered wrongly, with these answers."""
        if log is None:
            return pool
        chosen = self.steps(key, log.inputs) > 0
        return log[chosen]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        asked = probes
        if suspect.log is None:
            return Evidence.none("no evidence: the owner's interface was never asked")
        if not len(asked) or not (self.steps(key, asked.inputs) > 0).all():
            return Evidence.none("no evidence: no wrong answer was given")
        hits = suspect.answers(asked).argmax(1) == asked.labels
        test = Binomial(int(hits.sum()), len(hits), 1 / (key.classes - 1))
        return Evidence(hits.float(), {"wrong answers": test}, mark_recall=test.score)
