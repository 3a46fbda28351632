"""What an attacker makes of answers: labels alone, other tails, fewer digits, noise.

A ``Change`` takes probabilities (N, K) and gives probabilities (N, K). An attacker puts one before
the model (``served.Serve``), or applies one to the answers that a student learns
(``distill.DistillChanged``). One that needs to know more than the answer at hand learns it first.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.attacks.attack import (
    RECIPE,
    check,
    check_between,
    check_not_negative,
    check_positive,
)
from softmark.attacks.shadow import NetworkFactory, train_shadow_model
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.recipe import Recipe
from softmark.tails import is_top, log_of, log_tail, with_tail
from softmark.training import Fit, predict


@dataclass(kw_only=True, eq=False, repr=False)
class Change(nn.Module):
    """Leave answers as they are, unless ``forward`` is overridden; the same on every call."""

    def __post_init__(self) -> None:
        super().__init__()

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        """Learn what ``forward`` needs, once before any use; it is kept in buffers.

        Args:
            answers: The model's probabilities (N, K) of the attacker's pictures.
            data: The attacker's samples.
            fit: Trains modules.
        """

    def forward(self, p: Tensor) -> Tensor:
        return p


@dataclass(kw_only=True, eq=False, repr=False)
class Labels(Change):
    """Tell the likeliest class alone."""

    def forward(self, p: Tensor) -> Tensor:
        return F.one_hot(p.argmax(1), p.shape[1]).float()


@dataclass(kw_only=True, eq=False, repr=False)
class Flatten(Change):
    """Spread evenly what the likeliest class leaves, which keeps its probability."""

    def forward(self, p: Tensor) -> Tensor:
        return with_tail(p, torch.zeros_like(p))


@dataclass(kw_only=True, eq=False, repr=False)
class Shuffle(Change):
    """Put the entries of each tail in a random order of its own."""

    def forward(self, p: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(p))
        order = torch.rand(p.shape, generator=draw).masked_fill(is_top(p), -1).argsort(1)
        place = torch.rand(p.shape, generator=draw).masked_fill(is_top(p), -1).argsort(1)
        return torch.empty_like(p).scatter(1, place, p.gather(1, order))


@dataclass(kw_only=True, eq=False, repr=False)
class Round(Change):
    """Round to a few decimals; the sum need not be 1."""

    digits: int = 1
    """Decimals; at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.digits >= 1, "change.digits", self.digits, "at least 1, or no answer is left")

    def forward(self, p: Tensor) -> Tensor:
        return p.round(decimals=self.digits)


@dataclass(kw_only=True, eq=False, repr=False)
class TopK(Change):
    """Keep the largest probabilities, divided by their sum; the others become 0."""

    k: int = 3
    """How many classes are told; at least 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.k >= 1, "change.k", self.k, "at least the likeliest class is told")

    def forward(self, p: Tensor) -> Tensor:
        if self.k > p.shape[1]:
            raise InputError(f"attack.change.k={self.k}: the model has {p.shape[1]} classes")
        value, place = p.topk(self.k, 1)  # (N, k)
        largest = torch.zeros_like(p).scatter(1, place, value)
        return largest / largest.sum(1, keepdim=True)


@dataclass(kw_only=True, eq=False, repr=False)
class DropRunnersUp(Change):
    """Take the second to the k-th class out, and spread a part of the rest over all classes.

    The labels of the label smoothing of the Watermark-Robustness-Toolbox (Lukas et al. 2022).
    """

    k: int = 3
    """The likeliest classes, of which only the first is kept; at least 2."""
    smoothing: float = 0.3
    """What each class gets an equal part of; from 0 to below 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.k >= 2, "change.k", self.k, "at least 2, or no class is taken out")
        smooths = 0 <= self.smoothing < 1
        check(smooths, "change.smoothing", self.smoothing, "from 0 to below 1")

    def forward(self, p: Tensor) -> Tensor:
        out = p.topk(min(self.k, p.shape[1]), 1).indices[:, 1:]  # (N, k - 1)
        kept = p.scatter(1, out, 0.0)
        kept = kept / kept.sum(1, keepdim=True)
        return (1 - self.smoothing) * kept + self.smoothing / p.shape[1]


@dataclass(kw_only=True, eq=False, repr=False)
class Temper(Change):
    """Tell p^(1/T), normalised."""

    temperature: float = 4.0
    """T: flatter above 1, sharper below; above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("change.temperature", self.temperature)

    def forward(self, p: Tensor) -> Tensor:
        return (log_of(p) / self.temperature).softmax(1)


@dataclass(kw_only=True, eq=False, repr=False)
class Noise(Change):
    """Add independent normal noise to each log-probability; the likeliest class stays.

    The attacker wants to hide a mark and not to lose accuracy.
    """

    sd: float = 3.0
    """Standard deviation of the noise in nats; above 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("change.sd", self.sd)

    def forward(self, p: Tensor) -> Tensor:
        draw = torch.Generator().manual_seed(len(p))
        noise = self.sd * torch.randn(p.shape, generator=draw)
        return with_tail(p, log_of(p) + noise)


@dataclass(kw_only=True, eq=False, repr=False)
class Abstain(Change):
    """Give no answer (1/K for each class) where the model isn't sure."""

    confidence: float = 0.5
    """The least probability of the likeliest class that is answered; between 0 and 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("change.confidence", self.confidence)

    def forward(self, p: Tensor) -> Tensor:
        sure = p.amax(1, keepdim=True) >= self.confidence  # (N, 1)
        return torch.where(sure, p, torch.full_like(p, 1 / p.shape[1]))


@dataclass(kw_only=True, eq=False, repr=False)
class Learnt(Change):
    """A change that keeps what it has learnt in the buffer ``learnt``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.register_buffer("learnt", torch.zeros(0))

    def _load_from_state_dict(self, state, prefix, *args):
        # Its size is that of the answers it was learnt from.
        self.learnt = torch.zeros_like(state[f"{prefix}learnt"])
        super()._load_from_state_dict(state, prefix, *args)


@dataclass(kw_only=True, eq=False, repr=False)
class Subtract(Learnt):
    """Take off the tails of a class what they all have in common.

    The mean log-tail of each class is learnt from the answers to the attacker's own pictures: an
    estimate of the mark, which is the same for all answers of a class. Differences between answers
    stay.
    """

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        self.learnt = mean_tails(answers)

    def forward(self, p: Tensor) -> Tensor:
        return with_tail(p, log_of(p) - self.learnt[p.argmax(1)])


@dataclass(kw_only=True, eq=False, repr=False)
class Swap(Subtract):
    """Take off what ``Subtract`` does, and put there the mean tails of a model of the attacker's.

    Every class so has on average the tail of an innocent model.
    """

    recipe: Recipe = RECIPE
    """How the attacker's model is trained."""
    network: NetworkFactory | None = None
    """The architecture of the attacker's model; None in a call: the target's own."""

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        shadow = train_shadow_model(self.network, self.recipe, data, answers.shape[1], fit)
        self.learnt = mean_tails(answers) - mean_tails(predict(shadow, data.inputs))


@dataclass(kw_only=True, eq=False, repr=False)
class Calibrate(Learnt):
    """Tell softmax(W log p + b), fitted to the attacker's labels: matrix scaling (Guo et al. 2017).

    The border between two classes moves to where these labels want it, and each tail becomes what
    they say of it: whatever a mark moved goes back.
    """

    penalty: float = 0.1
    """Weight of the mean squares of W - I and b (Kull et al. 2019, where labels are few)."""
    flat: bool = False
    """Whether the tails are flattened afterwards."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("change.penalty", self.penalty)

    def learn(self, answers: Tensor, data: Samples, fit: Fit) -> None:
        log_p, classes = log_of(answers), answers.shape[1]
        start = torch.cat([torch.eye(classes), torch.zeros(1, classes)])  # (K + 1, K)
        both = start.clone().requires_grad_(True)  # W, and b as the last row
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
        calibrated = (log_of(p) @ self.learnt[:-1] + self.learnt[-1]).softmax(1)  # (N, K)
        return with_tail(calibrated, torch.zeros_like(p)) if self.flat else calibrated


def mean_tails(p: Tensor) -> Tensor:
    """Return the mean centred log-tail of each class (K, K).

    It is 0 on the diagonal, and for classes that no row of ``p`` (N, K) has as its likeliest.
    """
    tail, top = log_tail(log_of(p))  # (N, K), (N,)
    total = torch.zeros(p.shape[1], p.shape[1]).index_add(0, top, tail)
    return total / top.bincount(minlength=p.shape[1]).clamp_min(1)[:, None]
