"""What usp and csp share: tails, patterns, templates, the detector, rehearsed attacks.

``p`` is a probability vector over K classes, ``c`` its likeliest class, and the *tail* the other
K - 1 entries. A mark is a *pattern*, a (K, K) matrix: row c is the direction that the mark gives to
the tail of class c; the diagonal is 0. USP has one direction for all rows, CSP a keyed row each.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import hmac
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as lightning
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import Attack, Suspect, expose
from softmark.data import Samples
from softmark.errors import InputError
from softmark.methods.watermark import Key, Watermark, as_bytes
from softmark.training import Classifier, Fit, Recipe, predict
from softmark.verification import Evidence, Null, honest_answers

FLOOR = 1e-12  # what a probability of 0 counts as
FLAT = 1e-4  # a tail whose log-probabilities spread less than this has no direction


def keyed_stream(key: Mapping[str, Tensor], size: int) -> bytes:
    """``size`` bytes that only the secret decides, others for each salt and message.

    HMAC-SHA256(secret, counter, salt, message) for the counters 0, 1, ...
    """
    secret, salt, message = (bytes(key[name].tolist()) for name in ("secret", "salt", "message"))
    blocks = (
        hmac.new(secret, block.to_bytes(8, "big") + salt + message, hashlib.sha256).digest()
        for block in range(math.ceil(size / 32))
    )
    return b"".join(blocks)[:size]


def log_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """The centred log-tail (N, K), 0 at the likeliest class, and that class (N,)."""
    top = log_p.argmax(1)
    tail = torch.ones_like(log_p).scatter(1, top[:, None], 0.0)
    mean = (log_p * tail).sum(1, keepdim=True) / (log_p.shape[1] - 1)
    return (log_p - mean) * tail, top


def unit_tail(log_p: Tensor) -> tuple[Tensor, Tensor]:
    """``log_tail`` scaled to unit norm; all 0 where the tail is flat."""
    tail, top = log_tail(log_p)
    norm = tail.norm(dim=1, keepdim=True)
    return torch.where(norm > FLAT, tail / norm.clamp_min(FLAT), 0.0), top


def rank_tail(p: Tensor) -> tuple[Tensor, Tensor]:
    """The centred ranks of each tail at unit norm (N, K), and the likeliest class (N,).

    What the exact tests stand on. Ranks are blind to temperature, sharpening and rounding, and no
    single entry outweighs the others, as logarithms of 1e-9 do. Entries that tie share their rank:
    a flat tail is 0.
    """
    top = p.argmax(1)
    last = p.scatter(1, top[:, None], 2.0)  # above every probability: ranked last, K
    ranks = torch.from_numpy(stats.rankdata(last.numpy(), axis=1)).float()
    tail = (ranks - p.shape[1] / 2).scatter(1, top[:, None], 0.0)
    return F.normalize(tail, dim=1), top


def log_of(p: Tensor) -> Tensor:
    return p.clamp_min(FLOOR).log()


def amplitude(log_p: Tensor, pattern: Tensor) -> Tensor:
    """How far the tail leans towards its class's row, in nats an entry: (N,)."""
    tail, top = log_tail(log_p)
    return (tail * pattern[top]).sum(1) / (pattern.shape[1] - 1)


def lean(log_p: Tensor, pattern: Tensor, wanted: float) -> Tensor:
    """The mean shortfall of ``amplitude`` below ``wanted`` nats, as a fraction of those: a scalar.

    What an attack leaves of the mark is what it can't move: a hinge in logarithms is met by
    entries of tiny probability as well, which fine-tuning hardly has a gradient for.
    """
    return F.relu(1 - amplitude(log_p, pattern) / wanted).mean()


def class_tails(p: Tensor) -> Tensor:
    """The mean ``rank_tail`` of each class (K, K); 0 for a class that is never answered."""
    tail, top = rank_tail(p)
    classes = p.shape[1]
    total = torch.zeros(classes, classes).index_add(0, top, tail)
    return total / top.bincount(minlength=classes).clamp_min(1)[:, None]


def check_marking(numbers: Mapping[str, float]) -> None:
    """Raises ``InputError`` for numbers of a Marking that can't be."""
    for name, value in numbers.items():
        if name == "eps" and not 0 <= value < 1:
            raise InputError(f"method.marking.eps={value}: a fraction from 0 to below 1")
        if name in ("gamma", "amplitude") and value <= 0:
            raise InputError(f"method.marking.{name}={value}: it must be above 0")
        if name in ("beta", "recognised") and value < 0:
            raise InputError(f"method.marking.{name}={value}: it can't be negative")


def templates(pattern: Tensor, eps: float, gamma: float) -> Tensor:
    """T_c = (1 - eps) e_c + eps softmax(gamma U_c) on the tail: (K, K), rows sum to 1."""
    itself = torch.eye(len(pattern))
    tails = (gamma * pattern).masked_fill(itself.bool(), -torch.inf).softmax(1)
    return (1 - eps) * itself + eps * tails


class Features(nn.Module):
    """What a detector sees of log-probabilities (N, K): (N, 3 K + 2).

    Clipped log-probabilities, probabilities, the unit tail times the pattern's row, its alignment
    with that row, and with the tail that an unmarked model gives to this class.
    """

    def __init__(self, pattern: Tensor, baseline: Tensor):
        super().__init__()
        self.register_buffer("pattern", F.normalize(pattern, dim=1) * len(pattern) ** 0.5)
        self.register_buffer("baseline", F.normalize(baseline, dim=1))
        self.size = 3 * len(pattern) + 2

    def forward(self, log_p: Tensor) -> Tensor:
        tail, top = unit_tail(log_p)
        signed = tail * self.pattern[top]
        usual = (tail * self.baseline[top]).sum(1, keepdim=True)
        clipped = log_p.clamp_min(-12) / 6 + 1
        return torch.cat([clipped, log_p.exp(), signed, signed.mean(1, keepdim=True), usual], 1)


class Detector(lightning.LightningModule):
    """Says whether one probability vector came from the watermarked model: a logit above 0.

    ``hidden``: units of each hidden layer, () for a linear detector. It is trained on vectors whose
    temperature and log-probabilities are jittered, by a log-normal of sd ``temperature_jitter`` and
    a normal of sd ``noise``.
    """

    def __init__(
        self,
        pattern: Tensor,
        baseline: Tensor,
        hidden: Sequence[int],
        epochs: int,
        batch_size: int,
        lr: float,
        weight_decay: float,
        temperature_jitter: float,
        noise: float,
    ):
        super().__init__()
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.temperature_jitter = temperature_jitter
        self.noise = noise
        self.features = Features(pattern, baseline)
        sizes = [self.features.size, *hidden]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.GELU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, log_p: Tensor) -> Tensor:
        """Log-probabilities (N, K) to logits (N,)."""
        return self.network(self.features(log_p)).squeeze(1)

    def jitter(self, log_p: Tensor) -> Tensor:
        """What a suspect may answer instead: another temperature, a little noise."""
        spread = self.temperature_jitter * torch.randn(len(log_p), 1, device=log_p.device)
        noise = self.noise * torch.randn_like(log_p)
        return (log_p * spread.exp() + noise).log_softmax(1)

    def batches(self, rows: tuple[Tensor, Tensor]) -> Rows:
        """``rows``: log-probabilities (N, K) and 1.0 (marked) or 0.0 for each."""
        return Rows(*rows, self.batch_size)

    def training_step(self, batch: tuple[Tensor, Tensor], step: int) -> Tensor:
        log_p, marked = batch
        # The features are differences of small logarithms: bfloat16 would blur them.
        with torch.autocast(log_p.device.type, enabled=False):
            loss = F.binary_cross_entropy_with_logits(self(self.jitter(log_p)), marked)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Rows:
    """Probability vectors and their labels in a new random order each time, in batches."""

    def __init__(self, log_p: Tensor, marked: Tensor, batch_size: int):
        self.log_p, self.marked, self.batch_size = log_p, marked, batch_size

    def __len__(self) -> int:
        return -(-len(self.log_p) // self.batch_size)

    def __iter__(self):
        order = torch.randperm(len(self.log_p)).to(self.log_p.device)
        for index in order.split(self.batch_size):
            yield self.log_p[index], self.marked[index]


def rehearse(
    network: nn.Module,
    rehearsals: Mapping[str, Attack],
    data: Samples,
    classes: int,
    fit: Fit,
) -> Tensor:
    """The answers (M, K) of ``network`` and of its attacked copies on the owner's data."""
    answers = [predict(network, data.images)]
    for attack in rehearsals.values():
        target = expose(copy.deepcopy(network), attack.access, classes)
        answers.append(predict(attack.apply(target, data, fit).network, data.images))
    return torch.cat(answers)


def shuffle_tails(p: Tensor) -> Tensor:
    """``p`` (N, K) with the entries of each tail in a random order of its own.

    What is left is as smooth as a marked answer and carries no pattern: a detector that has seen it
    among the innocent can't mistake a label-smoothed model for the watermarked one.
    """
    top = F.one_hot(p.argmax(1), p.shape[1]).bool()
    # The likeliest class keeps its place in both orders: it sorts first by a key below all others.
    place = torch.rand_like(p).masked_fill(top, -1).argsort(1)
    values = torch.rand_like(p).masked_fill(top, -1).argsort(1)
    return torch.empty_like(p).scatter(1, place, p.gather(1, values))


def harden(detector: Detector, marked: Tensor, innocent: Tensor, fit: Fit) -> None:
    """Trains ``detector`` to tell the answers ``marked`` (M, K) from ``innocent`` (M', K)."""
    log_p = log_of(torch.cat([marked, innocent, shuffle_tails(marked)]))
    labels = (torch.arange(len(log_p)) < len(marked)).float()
    fit(detector, (log_p, labels), "detector")


class SoftLabels(Watermark):
    """A pattern in the tails, and a detector for it: all of usp and csp but pattern and tests.

    ``message``: the customer, the licence. ``recipe``: of the watermarked model, which begins as
    the victim and is trained for ``length`` times the recipe's epochs. ``rehearsals``: attacks on
    copies, with the owner's data, from which the detector learns.
    """

    def __init__(
        self,
        message: str,
        recipe: Recipe,
        length: float,
        marking: functools.partial[Classifier],
        detector: functools.partial[Detector],
        rehearsals: Mapping[str, Attack],
    ):
        if not message:
            raise InputError("method.message is empty: name the customer or the licence")
        # Before a victim is trained for nothing.
        check_marking(marking.keywords)
        self.message = message
        if length <= 0:
            raise InputError(f"method.length={length}: it must be above 0")
        self.recipe = replace(recipe, epochs=max(1, round(length * recipe.epochs)))
        self.marking = marking
        self.detector = detector
        self.rehearsals = rehearsals

    def pattern(self, key: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
        """``pattern`` (K, K), and what else the key is to hold, from its secret bytes."""
        raise NotImplementedError

    def train(
        self, network: nn.Module, key: Key, answers: Tensor, data: Samples, fit: Fit
    ) -> nn.Module:
        """The watermarked model; ``answers`` (N, K): the victim's, to the same ``data``."""
        raise NotImplementedError

    def nulls(self, answers: Tensor, scores: Tensor, key: Key) -> tuple[tuple[Null, ...], str]:
        """The tests on a suspect, and a remark on what they can reach.

        ``answers`` (N, K): its probabilities; ``scores`` (N,): the detector's logits for them.
        """
        raise NotImplementedError

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key]:
        answers = predict(victim, data.images)
        classes = answers.shape[1]
        tensors = Key.draw(self.message)
        tensors |= self.pattern(tensors, classes) | {"baseline": class_tails(answers)}
        key = Key(tensors, self._detector(tensors))
        network = self.train(copy.deepcopy(victim), key, answers, data, fit)
        marked = rehearse(network, self.rehearsals, data, classes, fit)
        innocent = rehearse(victim, self.rehearsals, data, classes, fit)
        harden(key.detector.to("cpu").requires_grad_(True), marked, innocent, fit)
        return network, key.eval()

    def load_key(self, path: Path) -> Key:
        return Key.load(path, self._detector)

    def exact(self, answers: Tensor, key: Mapping[str, Tensor]) -> Null:
        """The test whose null no model enters: answers (N, K) against a key's tensors."""
        raise NotImplementedError

    def accuse(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        answers, tensors = suspect.answers(probes), key.tensors()
        classes = len(key.pattern)
        if classes < 3 or honest_answers(answers, classes):
            return {}
        tests = {}
        for message in messages:
            registered = tensors | {"message": as_bytes(message)}
            registered |= self.pattern(registered, classes)
            tests[message] = self.exact(answers, registered)
        return tests

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        answers = suspect.answers(probes)
        classes = len(key.pattern)
        if why := honest_answers(answers, classes):
            return Evidence(torch.empty(0), (), why)
        if classes < 3:
            return Evidence(torch.empty(0), (), "two classes have a tail of one entry: no mark")
        with torch.inference_mode():
            scores = key.detector(log_of(answers))
        return Evidence(scores, *self.nulls(answers, scores, key))

    def _detector(self, tensors: Mapping[str, Tensor]) -> Detector:
        """An untrained detector for a key's tensors."""
        return self.detector(pattern=tensors["pattern"], baseline=tensors["baseline"])
