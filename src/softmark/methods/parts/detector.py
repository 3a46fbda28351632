"""The detector of usp and csp, which says whether a marked model gave a probability vector."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from softmark.tails import log_of, unit_tail
from softmark.training import Fit


class DetectorFeatures(nn.Module):
    """Compute what a detector sees of log-probabilities (N, K): (N, 3 K + 2).

    Clipped log-probabilities, probabilities, the unit tail times the pattern's row, its alignment
    with that row, and with the tail that an unmarked model gives to this class.

    Args:
        pattern: of the key, (K, K).
        victim_tails: the mean tail of each class that the unmarked model shows, (K, K).
    """

    def __init__(self, pattern: Tensor, victim_tails: Tensor):
        super().__init__()
        unit = F.normalize(pattern, dim=1) * len(pattern) ** 0.5
        # The key has what both follow from.
        self.register_buffer("pattern", unit, persistent=False)
        self.register_buffer("victim_tails", victim_tails, persistent=False)
        self.size = 3 * len(pattern) + 2

    def forward(self, log_p: Tensor) -> Tensor:
        tail, top = unit_tail(log_p)  # (N, K), (N,)
        signed = tail * self.pattern[top]  # (N, K)
        alike = (tail * self.victim_tails[top]).sum(1, keepdim=True)  # (N, 1)
        clipped = log_p.clamp_min(-12) / 6 + 1
        return torch.cat([clipped, log_p.exp(), signed, signed.mean(1, keepdim=True), alike], 1)


class Detector(lightning.LightningModule):
    """Say whether one probability vector came from the watermarked model: a logit above 0.

    Args:
        pattern: of the key, (K, K).
        victim_tails: the mean tail of each class that the unmarked model shows, (K, K).
        hidden: units of each hidden layer, () for a linear detector.
        epochs: passes over all answers.
        batch_size: answers of a step.
        lr: of AdamW, at the start.
        weight_decay: of AdamW.
        temperature_jitter: the sd of the log of the temperature at which answers are learnt.
        noise: the sd of what is added to their log-probabilities.
    """

    def __init__(
        self,
        pattern: Tensor,
        victim_tails: Tensor,
        hidden: Sequence[int] = (128, 128),
        epochs: int = 10,
        batch_size: int = 256,
        lr: float = 2e-3,
        weight_decay: float = 1e-2,
        temperature_jitter: float = 0.3,
        noise: float = 0.2,
    ):
        super().__init__()
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.temperature_jitter = temperature_jitter
        self.noise = noise
        self.features = DetectorFeatures(pattern, victim_tails)
        sizes = [self.features.size, *hidden]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.GELU()]
        self.network = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, log_p: Tensor) -> Tensor:
        """Return the logits (N,) of log-probabilities (N, K)."""
        return self.network(self.features(log_p)).squeeze(1)

    def jitter(self, log_p: Tensor) -> Tensor:
        """Return ``log_p`` (N, K) as a suspect may answer: another temperature, a little noise."""
        spread = self.temperature_jitter * torch.randn(len(log_p), 1, device=log_p.device)
        noise = self.noise * torch.randn_like(log_p)
        return (log_p * spread.exp() + noise).log_softmax(1)

    def batches(self, rows: tuple[Tensor, Tensor]) -> DetectorBatches:
        """Return batches of log-probabilities (N, K) and 1.0 (marked) or 0.0 for each."""
        return DetectorBatches(*rows, self.batch_size)

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


class DetectorBatches:
    """Give probability vectors and their labels in a new random order each time, in batches."""

    def __init__(self, log_p: Tensor, marked: Tensor, batch_size: int):
        self.log_p, self.marked, self.batch_size = log_p, marked, batch_size

    def __len__(self) -> int:
        return -(-len(self.log_p) // self.batch_size)

    def __iter__(self):
        order = torch.randperm(len(self.log_p)).to(self.log_p.device)
        for index in order.split(self.batch_size):
            yield self.log_p[index], self.marked[index]


def shuffle_tails(p: Tensor) -> Tensor:
    """Return ``p`` (N, K) with the entries of each tail in a random order of its own.

    What is left is as smooth as a marked answer and carries no pattern: a detector that has seen it
    among the innocent can't mistake a label-smoothed model for the watermarked one.
    """
    top = F.one_hot(p.argmax(1), p.shape[1]).bool()
    # The likeliest class keeps its place in both orders: it sorts first by a key below all others.
    place = torch.rand_like(p).masked_fill(top, -1).argsort(1)
    values = torch.rand_like(p).masked_fill(top, -1).argsort(1)
    return torch.empty_like(p).scatter(1, place, p.gather(1, values))


def train_detector(detector: Detector, marked: Tensor, innocent: Tensor, fit: Fit) -> None:
    """Train ``detector`` to tell the answers ``marked`` (M, K) from ``innocent`` (M', K)."""
    log_p = log_of(torch.cat([marked, innocent, shuffle_tails(marked)]))
    labels = (torch.arange(len(log_p)) < len(marked)).float()
    fit(detector, (log_p, labels), "detector")
