"""The key that an owner keeps: a secret, the customers, and what was committed to.

First all that an owner may choose is fixed (``Statement``); only then does a pattern follow, from
the secret, from all of that, and from a beacon's round if there is one. docs/FORMAT.md describes
every byte.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from softmark.errors import InputError
from softmark.methods.key import SECRET_BYTES
from softmark.methods.keyfile import lock, read_key_file, write_private
from softmark.models.files import parse_tensors
from softmark.owner.pattern_key import (
    PatternKey,
    bytes_tensor,
    customer_root,
    customer_seed,
    pattern_root,
    seals,
    tensor_bytes,
)
from softmark.owner.statement import Statement, hash_of
from softmark.tails import is_victim_stats
from softmark.unpicklable import SecretBytes, SecretError

FORMAT = "softmark owner key 6"
PATTERN = b"softmark pattern 1\n"
MAX_MESSAGE_BYTES = 1000  # a customer's name


@dataclass(frozen=True, eq=False, repr=False)
class Key:
    """What proves a mark, and can remove it: keep it secret.

    ``softmark.mark`` and ``softmark.new_key`` make keys; ``Key.load`` reads one.

    Args:
        secret: 32 bytes.
        messages: the customers, or the one licence.
        statement: what was committed to.
        victim: what the unmarked model shows, (2, K, K) (``tails.compute_victim_stats``); None
            where there was no such model.
        labels: its answers to the probes, int64 (N,); None where there was no such model.
        randomness: the 32 bytes of the beacon's round; none without a beacon.
        published: SHA-256 of the commitment file that was written beside the key's; "" for none.

    Raises:
        InputError: where the parts don't fit what was committed to.

    Example:
        >>> key = softmark.new_key("licence 7", classes=10, probes=probes)
        >>> key.save(folder / "key.safetensors", passphrase="correct horse")
        >>> again = softmark.Key.load(folder / "key.safetensors", "correct horse")
        >>> again.commitment == key.commitment
        True
    """

    secret: bytes
    messages: tuple[str, ...]
    statement: Statement
    victim: Tensor | None
    labels: Tensor | None
    randomness: bytes = b""
    published: str = ""
    _pattern_keys: dict[str, PatternKey] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "secret", SecretBytes(self.secret))
        statement, mismatches = self.statement, []
        sealed = (statement.owner, *statement.seals)
        if len(self.secret) != SECRET_BYTES or sealed != seals(self.secret, ["", *self.messages]):
            mismatches.append("secret or customers")
        if statement.victim != hash_of(self.victim, "<f4"):
            mismatches.append("unmarked model")
        if statement.labels != hash_of(self.labels, "<i4"):
            mismatches.append("labels")
        if len(self.randomness) not in ((0, 32) if statement.beacon else (0,)):
            mismatches.append("randomness")
        if mismatches:
            raise InputError(
                f"the key's commitment {self.commitment[:16]}... doesn't fit its "
                f"{', '.join(mismatches)}: no verdict can stand on it"
            )
        if self.victim is not None and not is_victim_stats(self.victim, statement.classes):
            raise InputError("the key's unmarked model: no model answers as the key says")
        if self.labels is not None:
            expected = (statement.probes.count,), torch.int64
            is_class = (self.labels >= 0) & (self.labels < statement.classes)
            if (self.labels.shape, self.labels.dtype) != expected or not is_class.all():
                raise InputError("the key's labels aren't a class of its model for each probe")

    @property
    def commitment(self) -> str:
        """The hash to publish before any dispute: 64 hex digits."""
        return self.statement.commitment

    @property
    def classes(self) -> int:
        """K of the marked model."""
        return self.statement.classes

    def seed(self, message: str) -> bytes:
        """Return 32 bytes for one customer, or for "" those of all; they say nothing of others."""
        return customer_seed(self.secret, message)

    def pattern_key(self, message: str) -> PatternKey:
        """Return what the pattern of the customer ``message`` follows from.

        A key's first call takes a tenth of a second. Raises ``InputError`` where the beacon's round
        hasn't been taken.
        """
        self._derive([message])
        return self._pattern_keys[message]

    def pattern_keys(self) -> dict[str, PatternKey]:
        """Return ``pattern_key`` of every customer."""
        self._derive(self.messages)
        return {name: self._pattern_keys[name] for name in self.messages}

    def _derive(self, messages: Sequence[str]) -> None:
        """Add the missing pattern keys of ``messages``, and what all of them have in common."""
        if self.statement.beacon and not self.randomness:
            raise InputError(
                "the key's beacon round hasn't been taken: its pattern follows only from that"
            )
        if "" not in self._pattern_keys:
            bound = PATTERN + bytes.fromhex(self.commitment) + self.randomness
            root = pattern_root(self.seed(""), hashlib.sha256(bound).digest())
            self._pattern_keys[""] = PatternKey(root, "", self.classes, self.victim)
        owner = self._pattern_keys[""]
        for name in messages:
            if name not in self._pattern_keys:
                root = customer_root(self.seed(name), owner.seed())
                self._pattern_keys[name] = PatternKey(root, name, self.classes, self.victim, owner)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise SecretError(
            "a key is secret, and a pickle or a checkpoint would give it away: softmark.save and "
            "Key.save write it; in a LightningModule leave it out: "
            "self.save_hyperparameters(ignore=['key'])"
        )

    def save(self, path: str | Path, passphrase: str | None = None) -> None:
        """Write the key as safetensors, never as a pickle, readable for its owner alone (mode 600).

        Args:
            path: a new file. It holds the secret: keep it.
            passphrase: locks the file (``keyfile.lock``); None to leave it open.

        Raises:
            InputError: where the file is there already or can't be written.
        """
        tensors = {
            "secret": bytes_tensor(self.secret),
            "randomness": bytes_tensor(self.randomness),
            **({} if self.victim is None else {"victim": self.victim.contiguous()}),
            **({} if self.labels is None else {"labels": self.labels.contiguous()}),
        }
        metadata = {
            "format": FORMAT,
            "messages": json.dumps(self.messages),
            "statement": json.dumps(self.statement.as_dict()),
            "published": self.published,
        }
        content = safetensors.torch.save(tensors, metadata)
        write_private(Path(path), content if passphrase is None else lock(content, passphrase))

    @classmethod
    def load(cls, path: str | Path, passphrase: str | None = None) -> Key:
        """Read a key. The file is data: nothing that it names is imported, built or called.

        Args:
            path: what ``save`` wrote.
            passphrase: the one that locks the file, if one does.

        Raises:
            InputError: where the file is cut short, no key, one of an earlier softmark, or locked
                by another passphrase, and where its parts don't fit what was committed to.
        """
        tensors, metadata = parse_tensors(read_key_file(Path(path), passphrase), path)
        _check_format(metadata.get("format"), path)
        try:
            statement = Statement.read(json.loads(metadata["statement"]))
            messages = json.loads(metadata["messages"])
            check_messages(messages)
            dtypes = {"secret": torch.uint8, "randomness": torch.uint8}
            dtypes |= {"victim": torch.float32} if "victim" in tensors else {}
            dtypes |= {"labels": torch.int64} if "labels" in tensors else {}
            if {name: tensor.dtype for name, tensor in tensors.items()} != dtypes:
                raise InputError(f"its tensors are {', '.join(sorted(tensors))}, or of other types")
            secret, randomness = (tensor_bytes(tensors[name]) for name in ("secret", "randomness"))
            return cls(
                secret, tuple(messages), statement, tensors.get("victim"), tensors.get("labels"),
                randomness, metadata.get("published", ""),
            )  # fmt: skip
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except (KeyError, ValueError, RecursionError) as error:
            raise InputError(f"{path}: a damaged key ({type(error).__name__})") from error


def check_messages(messages: Any) -> None:
    """Raise ``InputError`` for anything but different texts, one for each customer."""
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
        if size > MAX_MESSAGE_BYTES:
            raise InputError(f"message={message[:40]!r}...: {MAX_MESSAGE_BYTES} bytes at most")
    if len(set(messages)) < len(messages):
        twice = next(message for message in messages if messages.count(message) > 1)
        raise InputError(f"messages: {twice!r} is named twice")


def _check_format(name: Any, path: str | Path) -> None:
    if name == FORMAT:
        return
    if name == "softmark owner key 5":
        raise InputError(
            f"{path}: a key of an earlier softmark ({name}), whose pattern has no part of the "
            "owner's own: verify it with the softmark that made it"
        )
    if str(name) in [f"softmark key {number}" for number in range(1, 5)]:
        raise InputError(
            f"{path}: a key of an earlier softmark ({name}), whose probes could be chosen after "
            "its pattern: no verdict can stand on it. Mark the model anew; the old commitment "
            "still proves its date"
        )
    raise InputError(f"{path}: not a key of this version of softmark")
