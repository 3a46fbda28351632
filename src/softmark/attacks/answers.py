"""What an attacker makes of answers: labels alone, other tails, fewer digits, noise.

A ``Change`` takes probabilities (N, K) and gives probabilities (N, K). An attacker puts one before
the model (``served.Serve``), or applies one to the answers that a student learns
(``distill.DistillChanged``). One that needs to know more than the answer at hand learns it first.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.own import own_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.tails import is_top, log_of, log_tail, with_tail
from softmark.training import Fit, predict


class Change(nn.Module):
    """The answers as they are, unless ``forward`` is overridden. It is the same on every call."""

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        """Called once before any use. ``answers`` (N, K): the model's, to the attacker's ``data``.

        What is learnt is kept in buffers.
        """

    def forward(self, p: Tensor) -> Tensor:
        return p


class Labels(Change):
    """The likeliest class alone."""

    def forward(self, p: Tensor) -> Tensor:
        return F.one_hot(p.argmax(1), p.shape[1]).float()


class Flatten(Change):
    """The likeliest class keeps its probability; the rest is spread evenly."""

    def forward(self, p: Tensor) -> Tensor:
        return with_tail(p, torch.zeros_like(p))


class Shuffle(Change):
    """Each tail in a random order of its own, with the same entries."""

    def forward(self, p: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(p))
        order = torch.rand(p.shape, generator=draw).masked_fill(is_top(p), -1).argsort(1)
        place = torch.rand(p.shape, generator=draw).masked_fill(is_top(p), -1).argsort(1)
        return torch.empty_like(p).scatter(1, place, p.gather(1, order))


class Round(Change):
    """``digits`` decimals; the sum need not be 1."""

    def __init__(self, digits: int):
        super().__init__()
        if not digits >= 1:
            raise InputError(f"attack.change.digits={digits}: at least 1, or no answer is left")
        self.digits = digits

    def forward(self, p: Tensor) -> Tensor:
        return p.round(decimals=self.digits)


class TopK(Change):
    """The ``k`` largest probabilities, divided by their sum; the others are 0."""

    def __init__(self, k: int):
        super().__init__()
        if not k >= 1:
            raise InputError(f"attack.change.k={k}: at least the likeliest class is told")
        self.k = k

    def forward(self, p: Tensor) -> Tensor:
        if self.k > p.shape[1]:
            raise InputError(f"attack.change.k={self.k}: the model has {p.shape[1]} classes")
        value, place = p.topk(self.k, 1)
        kept = torch.zeros_like(p).scatter(1, place, value)
        return kept / kept.sum(1, keepdim=True)


class Temper(Change):
    """p^(1/T), normalised: flatter above 1, sharper below."""

    def __init__(self, temperature: float):
        super().__init__()
        if not temperature > 0:
            raise InputError(f"attack.change.temperature={temperature}: it must be above 0")
        self.temperature = temperature

    def forward(self, p: Tensor) -> Tensor:
        return (log_of(p) / self.temperature).softmax(1)


class Noise(Change):
    """Independent normal noise of ``sd`` nats on each log-probability; the likeliest class stays.

    The attacker wants to hide a mark and not to lose accuracy.
    """

    def __init__(self, sd: float):
        super().__init__()
        if not sd > 0:
            raise InputError(f"attack.change.sd={sd}: it must be above 0")
        self.sd = sd

    def forward(self, p: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(p))
        noise = self.sd * torch.randn(p.shape, generator=draw)
        return with_tail(p, log_of(p) + noise)


class Abstain(Change):
    """No answer (1/K for each class) where the likeliest class has less than ``confidence``."""

    def __init__(self, confidence: float):
        super().__init__()
        if not 0 < confidence < 1:
            raise InputError(f"attack.change.confidence={confidence}: a fraction between 0 and 1")
        self.confidence = confidence

    def forward(self, p: Tensor) -> Tensor:
        sure = p.amax(1, keepdim=True) >= self.confidence
        return torch.where(sure, p, torch.full_like(p, 1 / p.shape[1]))


class Learnt(Change):
    """A change that keeps what it has learnt in the buffer ``learnt``."""

    def __init__(self):
        super().__init__()
        self.register_buffer("learnt", torch.zeros(0))

    def _load_from_state_dict(self, state, prefix, *args):
        # Its size is that of the answers it was learnt from.
        self.learnt = torch.zeros_like(state[f"{prefix}learnt"])
        super()._load_from_state_dict(state, prefix, *args)


class Subtract(Learnt):
    """What all tails of a class have in common is taken off them.

    The mean log-tail of each class is learnt from the answers to the attacker's own pictures: an
    estimate of the mark, which is the same for all answers of a class. Differences between answers
    stay.
    """

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        self.learnt = mean_tails(answers)

    def forward(self, p: Tensor) -> Tensor:
        return with_tail(p, log_of(p) - self.learnt[p.argmax(1)])


class Swap(Subtract):
    """As ``Subtract``, and the mean log-tails of a model that the attacker trained are put there.

    Every class so has on average the tail of an innocent model.
    """

    def __init__(self, recipe: Recipe, network: functools.partial[nn.Module]):
        super().__init__()
        self.recipe, self.network = recipe, network

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        own = own_model(self.network, self.recipe, data, answers.shape[1], fit)
        self.learnt = mean_tails(answers) - mean_tails(predict(own, data.inputs))


class Calibrate(Learnt):
    """softmax(W log p + b), fitted to the attacker's labels: matrix scaling (Guo et al. 2017).

    The border between two classes moves to where these labels want it, and each tail becomes what
    they say of it: whatever a mark moved goes back. ``penalty`` of the mean squares of W - I and b,
    as Kull et al. 2019 advise where labels are few. ``flat``: then the tails are flattened, too.
    """

    def __init__(self, penalty: float, flat: bool):
        super().__init__()
        if not penalty >= 0:
            raise InputError(f"attack.change.penalty={penalty}: it can't be negative")
        self.penalty, self.flat = penalty, flat

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        log_p, classes = log_of(answers), answers.shape[1]
        start = torch.cat([torch.eye(classes), torch.zeros(1, classes)])
        both = start.clone().requires_grad_(True)
        optimizer = torch.optim.LBFGS([both], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            wrong = F.cross_entropy(log_p @ both[:-1] + both[-1], data.labels)
            total = wrong + self.penalty * (both - start).square().mean()
            total.backward()
            return total

        with torch.enable_grad():
            optimizer.step(loss)
        self.learnt = both.detach()

    def forward(self, p: Tensor) -> Tensor:
        told = (log_of(p) @ self.learnt[:-1] + self.learnt[-1]).softmax(1)
        return with_tail(told, torch.zeros_like(told)) if self.flat else told


def mean_tails(p: Tensor) -> Tensor:
    """The mean centred log-tail of each class (K, K); 0 on the diagonal, and for unseen classes."""
    tail, top = log_tail(log_of(p))
    total = torch.zeros(p.shape[1], p.shape[1]).index_add(0, top, tail)
    return total / top.bincount(minlength=p.shape[1]).clamp_min(1)[:, None]
