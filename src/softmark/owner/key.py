"""The key that an owner keeps: a secret, the customers, and what was committed to.

First all that an owner may choose is fixed (``Statement``); only then does a pattern follow, from
the secret, from all of that, and from a beacon's round where there is one. docs/FORMAT.md says
every byte.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.methods import key as methods
from softmark.methods.key import SECRET_BYTES, as_bytes
from softmark.methods.keyfile import lock, read_key_file, write_private
from softmark.models.files import parse_tensors
from softmark.owner.statement import Statement, hash_of
from softmark.tails import is_usual

FORMAT = "softmark owner key 5"
SEAL, PATTERN = b"softmark seal 1\n", b"softmark pattern 1\n"
# Between a secret and its pattern: 64 MiB and a tenth of a second or two for each key.
PRICE = {"n": 2**16, "r": 8, "p": 1, "maxmem": 2**27, "dklen": 32}
MOST_BYTES = 1000  # of a customer's name


@dataclass(frozen=True, eq=False, repr=False)
class Key:
    """What proves a mark, and can remove it: keep it secret.

    ``secret``: 32 bytes. ``messages``: the customers, or the one licence. ``statement``: what was
    committed to. ``victim`` (2, K, K): what the unmarked model shows (``tails.usual_of``), and
    ``labels`` (N,): its answers to the probes, int64; None where there was no such model.
    ``randomness``: 32 bytes of the beacon's round, none without a beacon.
    """

    secret: bytes
    messages: tuple[str, ...]
    statement: Statement
    victim: Tensor | None
    labels: Tensor | None
    randomness: bytes = b""
    _patterns: dict[str, PatternKey] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        made, wrong = self.statement, []
        if len(self.secret) != SECRET_BYTES or tuple(made.seals) != seals(
            self.secret, self.messages
        ):
            wrong.append("secret or customers")
        if made.victim != hash_of(self.victim, "<f4"):
            wrong.append("unmarked model")
        if made.labels != hash_of(self.labels, "<i4"):
            wrong.append("labels")
        if len(self.randomness) not in ((0, 32) if made.beacon else (0,)):
            wrong.append("randomness")
        if wrong:
            raise InputError(
                f"the key's commitment {self.commitment[:16]}... doesn't fit its "
                f"{', '.join(wrong)}: no verdict can stand on it"
            )
        if self.victim is not None and not is_usual(self.victim, made.classes):
            raise InputError("the key's unmarked model: no model shows that")
        if self.labels is not None:
            whole = self.labels.shape == (made.probes.count,) and self.labels.dtype == torch.int64
            if not (whole and ((self.labels >= 0) & (self.labels < made.classes)).all()):
                raise InputError("the key's labels aren't a class of its model for each probe")

    @property
    def commitment(self) -> str:
        """What is published before any dispute: 64 hex digits."""
        return self.statement.commitment

    @property
    def classes(self) -> int:
        """K of the marked model."""
        return self.statement.classes

    def seed(self, message: str) -> bytes:
        """32 bytes of one customer, which tell nothing of the others'."""
        return seed(self.secret, message)

    def pattern_key(self, message: str) -> PatternKey:
        """What the pattern of a customer follows from; the first call takes a tenth of a second.

        Raises ``InputError`` where the beacon's round hasn't been taken.
        """
        if message not in self._patterns:
            self._patterns.update(self._derived([message]))
        return self._patterns[message]

    def pattern_keys(self) -> dict[str, PatternKey]:
        """``pattern_key`` of every customer, by as many threads as there are cores."""
        missing = [name for name in self.messages if name not in self._patterns]
        self._patterns.update(self._derived(missing))
        return {name: self._patterns[name] for name in self.messages}

    def _derived(self, messages: Sequence[str]) -> dict[str, PatternKey]:
        if self.statement.beacon and not self.randomness:
            raise InputError("the key waits for its beacon's round: no pattern follows before")
        bound = hashlib.sha256(PATTERN + bytes.fromhex(self.commitment) + self.randomness).digest()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            roots = pool.map(lambda message: root(self.seed(message), bound), messages)
            return {
                message: PatternKey(each, message, self.classes, self.victim)
                for message, each in zip(messages, roots, strict=True)
            }

    def save(self, path: str | Path, passphrase: str | None = None) -> None:
        """As safetensors, never as a pickle, readable for its owner alone (mode 600).

        The file holds the secret: keep it. ``passphrase``: locks it (``keyfile.lock``).
        """
        tensors = {
            "secret": _tensor(self.secret),
            "randomness": _tensor(self.randomness),
            **({} if self.victim is None else {"victim": self.victim.contiguous()}),
            **({} if self.labels is None else {"labels": self.labels.contiguous()}),
        }
        about = {
            "format": FORMAT,
            "messages": json.dumps(self.messages),
            "statement": json.dumps(self.statement.as_dict()),
        }
        content = safetensors.torch.save(tensors, about)
        write_private(Path(path), content if passphrase is None else lock(content, passphrase))

    @classmethod
    def load(cls, path: str | Path, passphrase: str | None = None) -> Key:
        """Reads a key. A file is data: nothing that it names is imported, built or called.

        Raises ``InputError`` where the file is cut short, no key, an older one, or locked by
        another passphrase, and where its parts don't fit what was committed to.
        """
        tensors, about = parse_tensors(read_key_file(Path(path), passphrase), path)
        _check_format(about.get("format"), path)
        try:
            statement = Statement.read(json.loads(about["statement"]))
            messages = json.loads(about["messages"])
            check_messages(messages)
            kinds = {"secret": torch.uint8, "randomness": torch.uint8}
            kinds |= {"victim": torch.float32} if "victim" in tensors else {}
            kinds |= {"labels": torch.int64} if "labels" in tensors else {}
            if {name: tensor.dtype for name, tensor in tensors.items()} != kinds:
                raise InputError(f"its tensors are {', '.join(sorted(tensors))}, or of other types")
            secret, randomness = (_bytes(tensors[name]) for name in ("secret", "randomness"))
            return cls(
                secret, tuple(messages), statement, tensors.get("victim"), tensors.get("labels"),
                randomness,
            )  # fmt: skip
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: a damaged key ({type(error).__name__})") from error


class PatternKey(methods.Key):
    """A customer's part of a ``Key``, as a watermark reads it: all follows from ``root``."""

    def __init__(self, root: bytes, message: str, classes: int, victim: Tensor | None):
        super().__init__(_tensor(root), _tensor(b""), as_bytes(message), classes, victim)

    def seed(self) -> bytes:
        return _bytes(self.secret)

    def known(self) -> bytes:
        """Nothing: the root follows from all that the key says."""
        return b""

    def for_message(self, message: str) -> PatternKey:
        """Another stream of the same customer."""
        root = hmac.new(self.seed(), message.encode(), hashlib.sha256).digest()
        return PatternKey(root, message, self.classes, self.usual)


def seed(secret: bytes, message: str) -> bytes:
    """HMAC-SHA256(secret, message): 32 bytes."""
    return hmac.new(secret, message.encode(), hashlib.sha256).digest()


def seals(secret: bytes, messages: Sequence[str]) -> tuple[str, ...]:
    """The published hash of each customer's seed."""
    return tuple(hashlib.sha256(SEAL + seed(secret, name)).hexdigest() for name in messages)


def root(seed: bytes, bound: bytes) -> bytes:
    """32 bytes, from which a pattern follows. ``bound``: the hash of all that was committed to."""
    return hashlib.scrypt(seed, salt=bound, **PRICE)


def check_messages(messages: Any) -> None:
    """Raises ``InputError`` for anything but texts, one for each customer."""
    if isinstance(messages, str):
        raise InputError(f"messages={messages!r}: a list of texts is needed, [{messages!r}]")
    if not isinstance(messages, list | tuple) or not messages:
        raise InputError("messages: there is none; name at least one customer")
    for message in messages:
        if not isinstance(message, str) or not message:
            raise InputError(f"message={message!r:.80}: name the customer or the licence")
        try:
            size = len(message.encode())
        except UnicodeEncodeError as error:
            raise InputError(f"message={message!r:.80}: it is no Unicode text") from error
        if size > MOST_BYTES:
            raise InputError(f"message={message[:40]!r}...: {MOST_BYTES} bytes at most")
    if len(set(messages)) < len(messages):
        twice = next(each for each in messages if messages.count(each) > 1)
        raise InputError(f"messages: {twice!r} is there twice")


def _check_format(said: Any, path: str | Path) -> None:
    if said == FORMAT:
        return
    if str(said) in [f"softmark key {number}" for number in range(1, 5)]:
        raise InputError(
            f"{path}: a key of an earlier softmark ({said}), whose probes could be chosen after "
            "its pattern: no verdict can stand on it. Mark the model anew; the old commitment "
            "still proves its date"
        )
    raise InputError(f"{path}: not a key of this version of softmark")


def _tensor(content: bytes) -> Tensor:
    return torch.tensor(list(content), dtype=torch.uint8)


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.flatten().tolist())
