"""One customer's part of a key: what a watermark's pattern and triggers follow from."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

import torch
from torch import Tensor

from softmark.methods import key as methods
from softmark.methods.key import as_bytes

SEAL = b"softmark seal 1\n"
# What it costs to get from a secret to its pattern: 64 MiB and a tenth of a second or two.
SCRYPT = {"n": 2**16, "r": 8, "p": 1, "maxmem": 2**27, "dklen": 32}


class PatternKey(methods.Key):
    """One customer's part of a ``Key``, in the form that a watermark reads.

    Args:
        root: 32 bytes, from which the pattern and the triggers follow.
        message: the customer.
        classes: K of the marked model.
        victim: what the unmarked model shows, (2, K, K), or None.
        owner: what all customers' patterns have in common; None for that part itself.
    """

    def __init__(
        self,
        root: bytes,
        message: str,
        classes: int,
        victim: Tensor | None,
        owner: PatternKey | None = None,
    ):
        super().__init__(bytes_tensor(root), bytes_tensor(b""), as_bytes(message), classes, victim)
        self._owner = [owner or self]  # in a list: a module that holds itself has no end

    def owner_part(self) -> PatternKey:
        return self._owner[0]

    def seed(self) -> bytes:
        return tensor_bytes(self.secret)

    def victim_bytes(self) -> bytes:
        """Return nothing more to bind: the root follows from all that the key says."""
        return b""

    def for_message(self, message: str) -> PatternKey:
        """Return the key of another stream of the same customer."""
        root = hmac.new(self.seed(), message.encode(), hashlib.sha256).digest()
        return PatternKey(root, message, self.classes, self.victim_stats)


def customer_seed(secret: bytes, message: str) -> bytes:
    """Return HMAC-SHA256(secret, message): 32 bytes. The empty message is the owner's part."""
    return hmac.new(secret, message.encode(), hashlib.sha256).digest()


def seals(secret: bytes, messages: Sequence[str]) -> tuple[str, ...]:
    """Return the published hash of each customer's seed."""
    return tuple(
        hashlib.sha256(SEAL + customer_seed(secret, name)).hexdigest() for name in messages
    )


def pattern_root(seed: bytes, bound: bytes) -> bytes:
    """Return 32 bytes, from which the owner's part of every pattern follows.

    ``bound``: the hash of all that was committed to.
    """
    return hashlib.scrypt(seed, salt=bound, **SCRYPT)


def customer_root(seed: bytes, owner_root: bytes) -> bytes:
    """Return 32 bytes, from which the customer's part of a pattern follows.

    It is bound by the owner's: whoever tries keys pays for each ``pattern_root``.
    """
    return hmac.new(seed, owner_root, hashlib.sha256).digest()


def bytes_tensor(content: bytes) -> Tensor:
    """Return ``content`` as uint8 (n,)."""
    return torch.tensor(list(content), dtype=torch.uint8)


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a uint8 tensor."""
    return bytes(tensor.flatten().tolist())
