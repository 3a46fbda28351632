"""The detector of usp and csp: says of one probability vector whether a marked model gave it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.tails import log_of, unit_tail
from softmark.training import Fit


class Features(nn.Module):
    """What a detector sees of log-probabilities (N, K): (N, 3 K + 2).

    Clipped log-probabilities, probabilities, the unit tail times the pattern's row, its alignment
    with that row, and with the tail that an unmarked model gives to this class.
    """

    def __init__(self, pattern: Tensor, usual: Tensor):
        super().__init__()
        unit = F.normalize(pattern, dim=1) * len(pattern) ** 0.5
        # The key has what both follow from.
        self.register_buffer("pattern", unit, persistent=False)
        self.register_buffer("usual", usual, persistent=False)
        self.size = 3 * len(pattern) + 2

    def forward(self, log_p: Tensor) -> Tensor:
        tail, top = unit_tail(log_p)
        signed = tail * self.pattern[top]
        alike = (tail * self.usual[top]).sum(1, keepdim=True)
        clipped = log_p.clamp_min(-12) / 6 + 1
        return torch.cat([clipped, log_p.exp(), signed, signed.mean(1, keepdim=True), alike], 1)


class Detector(lightning.LightningModule):
    """Says whether one probability vector came from the watermarked model: a logit above 0.

    ``hidden``: units of each hidden layer, () for a linear detector. It is trained on vectors whose
    temperature and log-probabilities are jittered, by a log-normal of sd ``temperature_jitter`` and
    a normal of sd ``noise``.
    """

    def __init__(
        self,
        pattern: Tensor,
        usual: Tensor,
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
        self.features = Features(pattern, usual)
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


def train_detector(detector: Detector, marked: Tensor, innocent: Tensor, fit: Fit) -> None:
    """Trains ``detector`` to tell the answers ``marked`` (M, K) from ``innocent`` (M', K)."""
    log_p = log_of(torch.cat([marked, innocent, shuffle_tails(marked)]))
    labels = (torch.arange(len(log_p)) < len(marked)).float()
    fit(detector, (log_p, labels), "detector")
