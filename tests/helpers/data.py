"""Data whose pictures are numbers, so that each can be told."""

from dataclasses import dataclass

import numpy as np
import torch

from softmark.data.roles import Shares
from softmark.data.sources import Decoded

SHARES = Shares(owner=0.5, judge=0.25, split_seed=0, limit=None, judge_limit=None, tuning=False)


def numbered(counts, train=None, seed=0):
    """Samples of which each one's picture holds its own number, in mixed order."""
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    numbers = np.arange(len(labels), dtype=np.uint32)
    images = np.zeros((len(labels), 1, 8, 8), dtype=np.uint8)
    images.reshape(len(labels), -1)[:, :4] = numbers[:, None].view(np.uint8)
    names = tuple(f"class {number}" for number in range(len(counts)))
    return Decoded(images, labels.astype(np.int64), names, len(labels) if train is None else train)


def numbers_of(samples):
    return samples.inputs.flatten(1)[:, :4].contiguous().view(torch.int32).flatten().tolist()


def parts(roles):
    return {role: numbers_of(getattr(roles, role)) for role in ("owner", "attacker", "judge")}


@dataclass
class Memory:
    """A source that counts how often it was read."""

    decoded: Decoded
    name: str = "memory"
    reads: int = 0

    def read(self):
        self.reads += 1
        return self.decoded

    def signature(self):
        return {"name": self.name}
