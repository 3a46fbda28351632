"""DAWN: wrong answers to a few inputs (Szyller et al. 2021, "Dynamic Adversarial Watermarking").

The model stays as it is. The owner's interface answers a part of all inputs with a wrong class; the
key and the input alone decide which inputs and which class, so that the same question gets the same
answer. Whoever trains a surrogate on the answers learns the wrong ones too. The evidence is the log
of what the interface was asked: a suspect that repeats the wrong answers was trained on them. An
innocent guesses such a label with chance 1/(K - 1) at most: the paper's null is that binomial.
Weights that were stolen carry no mark.

The authors' code answers 5 of 1,000 inputs wrongly; their published runs have 250 wrong answers and
a surrogate that trains 500 epochs (``distill_unaugmented`` with ``attack.epochs_factor=25``, on
digits). Of ten classes a claim at 1e-6 needs seven answers at least, all repeated: where fewer than
1,400 inputs are asked there are hardly so many, and ``dawn_often`` answers one in twenty wrongly.
Their mapping of near duplicates to one answer is left out: whoever asks for shifted copies averages
the wrong answers away.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.methods.key import Key, check_message
from softmark.methods.parts.checks import check_fraction
from softmark.methods.watermark import Watermark
from softmark.models.access import Answer, Suspect, classes_of
from softmark.training import Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Binomial


@dataclass(frozen=True, kw_only=True)
class Dawn(Watermark):
    """Answer a keyed part of all inputs wrongly; a student repeats the wrong answers.

    Source: Szyller et al. 2021, "DAWN: Dynamic Adversarial Watermarking of Neural Networks"
    (arXiv 1906.00830).

    Example:
        >>> import torch
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> pictures = torch.arange(400, dtype=torch.uint8).reshape(100, 1, 2, 2)
        >>> int((Dawn(input_fraction=0.1).steps(key, pictures) > 0).sum()) < 30
        True
    """

    needs = "labels"
    uses_query_log = True

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    input_fraction: float = 0.005
    """Of all inputs that are answered wrongly. Between 0 and 1."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_fraction(self, "input_fraction")

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        return victim, self.draw(data, classes_of(victim, data), fit.entropy)

    def steps(self, key: Key, inputs: Tensor) -> Tensor:
        """Return how far each answer is moved, 1 to K - 1 classes; 0 for a true one: (N,)."""
        steps = []
        for drawn in input_digests(key, inputs):
            is_wrong = int.from_bytes(drawn[:8], "big") < self.input_fraction * 2**64
            step = 1 + int.from_bytes(drawn[8:16], "big") % (key.classes - 1)
            steps.append(step if is_wrong else 0)
        return torch.tensor(steps, dtype=torch.int64)

    def serve(self, answer: Answer, key: Key) -> Answer:
        """Return an interface where the likeliest class and the wrong one change places."""

        def served(inputs: Tensor) -> Tensor:
            answers = answer(inputs).clone()  # (N, K)
            true = answers.argmax(1)
            wrong = (true + self.steps(key, inputs)) % key.classes
            rows = torch.arange(len(answers))
            answers[rows, true], answers[rows, wrong] = answers[rows, wrong], answers[rows, true]
            return answers

        return served

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        """Return the logged inputs that were answered wrongly, with these answers."""
        return pool if log is None else log[self.steps(key, log.inputs) > 0]

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        if suspect.log is None:
            return Evidence.none("no evidence: the owner's interface was never asked")
        if not len(probes) or not (self.steps(key, probes.inputs) > 0).all():
            return Evidence.none("no evidence: no wrong answer was given")
        hits = suspect.answers(probes).argmax(1) == probes.labels
        test = Binomial(int(hits.sum()), len(hits), 1 / (key.classes - 1))
        return Evidence(hits.float(), {"wrong answers": test}, mark_recall=test.score)


def input_digests(key: Key, inputs: Tensor) -> list[bytes]:
    """Return HMAC-SHA256 of each of ``inputs`` (N, ...), under the key: 32 bytes each."""
    secret = key.stream(32)
    return [hmac.digest(secret, one.numpy().tobytes(), "sha256") for one in inputs]
