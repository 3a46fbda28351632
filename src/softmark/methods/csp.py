"""CSP: a keyed perturbation of the output distribution that carries the owner's message.

Chien and Shen 2022 (arXiv 2208.05477), of which we have the abstract: this is our reconstruction.
Each message has a sign matrix U of its own; the watermarked model is trained so that the log-tail
of every answer leans towards the row of its class, and what is left of that after an attack is
tested exactly, since under "this suspect knows nothing of the key" the signs are coin flips.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import Attack, Suspect
from softmark.data import Samples
from softmark.errors import InputError
from softmark.methods.soft_labels import (
    Detector,
    alignment,
    check_template,
    class_tails,
    detector_for,
    harden,
    log_of,
    rehearse,
    templates,
    unit_tail,
)
from softmark.methods.watermark import Key, Watermark
from softmark.training import Batch, Classifier, Fit, Recipe, fresh, predict
from softmark.verification import Evidence, Signs, honest_answers


def sign_matrix(secret: bytes, message: bytes, salt: bytes, classes: int) -> Tensor:
    """The key's signs: (K, K) in {-1, +1}, 0 on the diagonal.

    The first K (K - 1) bits, row by row, of HMAC-SHA256(secret, counter, salt, message) for the
    counters 0, 1, ...
    """
    wanted = classes * (classes - 1)
    stream = b"".join(
        hmac.new(secret, block.to_bytes(8, "big") + salt + message, hashlib.sha256).digest()
        for block in range(math.ceil(wanted / 256))
    )
    bits = torch.tensor([byte >> shift & 1 for byte in stream for shift in range(7, -1, -1)])
    signs = torch.zeros(classes, classes)
    signs[~torch.eye(classes, dtype=torch.bool)] = 2.0 * bits[:wanted] - 1
    return signs


class Marking(Classifier):
    """The watermarked model: CE(T_y, f(x)) + beta max(0, margin - s(x)), s the tail's alignment."""

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        pattern: Tensor,
        eps: float,
        gamma: float,
        beta: float,
        margin: float,
    ):
        super().__init__(network, recipe)
        self.beta = beta
        self.margin = margin
        self.register_buffer("pattern", pattern)
        self.register_buffer("templates", templates(pattern, eps, gamma))

    def loss(self, batch: Batch) -> Tensor:
        logits = self.network(batch.images).float()
        task = F.cross_entropy(logits, self.templates[batch.labels])
        aligned = alignment(logits.log_softmax(1), self.pattern)
        return task + self.beta * F.relu(self.margin - aligned).mean()


class CSP(Watermark):
    """``rehearsals``: attacks on copies, with the owner's data, from which the detector learns."""

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        marking: functools.partial[Marking],
        detector: Callable[..., Detector],
        rehearsals: Mapping[str, Attack],
    ):
        if not message:
            raise InputError("method.message is empty: name the customer or the licence")
        # Before a victim is trained for nothing.
        check_template(marking.keywords["eps"], marking.keywords["gamma"])
        self.message = message
        self.recipe = recipe
        self.marking = marking
        self.detector = detector
        self.rehearsals = rehearsals

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        usual = predict(victim, data.images)
        classes = usual.shape[1]
        tensors = Key.draw(self.message)
        drawn = (bytes(tensors[name].tolist()) for name in ("secret", "message", "salt"))
        tensors["pattern"] = sign_matrix(*drawn, classes)
        tensors["baseline"] = class_tails(usual)
        marking = self.marking(
            network=fresh(victim), recipe=self.recipe, pattern=tensors["pattern"]
        )
        network = fit(marking, data, "marking")
        marked = rehearse(network, self.rehearsals, data, classes, fit)
        innocent = rehearse(victim, self.rehearsals, data, classes, fit)
        detector = harden(detector_for(tensors, self.detector), marked, innocent, fit)
        return network, Key(tensors, detector)

    def load_key(self, path: Path) -> Key:
        return Key.load(path, lambda tensors: detector_for(tensors, self.detector))

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answers = predict(suspect.network, probes.images)
        classes = len(key.pattern)
        if why := honest_answers(answers, classes):
            return Evidence(torch.empty(0), (), why)
        if classes < 3:
            return Evidence(torch.empty(0), (), "two classes have a tail of one entry: no mark")
        weights = tail_sums(answers, key.baseline)
        there = key.pattern != 0
        with torch.inference_mode():
            scores = key.detector(log_of(answers))
        return Evidence(scores, (Signs(weights[there], key.pattern[there]),))


def tail_sums(answers: Tensor, baseline: Tensor) -> Tensor:
    """A_cj, the sum of t_j / sqrt(K - 1) over the probes answered c: (K, K), 0 on the diagonal.

    What any model of the task shows is projected out: from each row, the part along the unmarked
    victim's mean tail of that class. Neither depends on the key's signs, so the null stays exact.
    """
    tail, top = unit_tail(log_of(answers))
    sums = torch.zeros_like(baseline).index_add(0, top, tail)
    usual = F.normalize(baseline, dim=1)
    along = (sums * usual).sum(1, keepdim=True).clamp_min(0)
    rest = sums - along * usual
    return rest / math.sqrt(len(baseline) - 1)
