"""The key of a watermark, and the commitment that binds it to what the judge will do."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.methods.keyfile import write_private
from softmark.models.files import read_tensors
from softmark.store.address import config_hash
from softmark.unpicklable import Unpicklable

SECRET_BYTES = 32
SALT_BYTES = 16
# Longer statistics of the victim (224 classes or more) enter the stream by their hash.
MAX_VICTIM_BYTES = 400_000
FORMAT = "softmark experiment key 5"
# Names of tensors in files and digests where they differ: commitments stay what they were.
FILE_NAMES = {"victim_stats": "usual"}


def as_bytes(text: str) -> Tensor:
    """Return ``text`` in UTF-8: uint8 (n,)."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def check_message(message: str) -> None:
    """Raise ``InputError`` where ``message`` is empty: a key names somebody."""
    if not message:
        raise InputError("method.message is empty: name the customer or the licence")


class Key(Unpicklable, nn.Module):
    """Hold secret, salt and message, and what a method learnt or drew for this owner.

    A method adds buffers and submodules of its own; what follows from the secret is derived again
    at each verification and never stored.

    Args:
        secret: uint8 (32,).
        salt: uint8 (16,).
        message: the customer or the licence, UTF-8, uint8 (n,).
        classes: K of the model.
        victim_stats: what the unmarked model shows (``tails.compute_victim_stats``), (2, K, K), for
            a method that tells it from a mark; None where nothing is known of that.

    Attributes:
        method: the hash of the watermark's config (``method_hash``).
        terms: how a claim will be decided (``Verifier.terms``).
        probes: the fingerprint of the judge's samples in their order.
        commitment: the SHA-256 over all of these, empty until ``commit``.

    Example:
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> key.stream(4).hex(), key.for_message("licence 8").stream(4).hex()
        ('6c4c9e39', 'b1cef5e4')
    """

    secret: Tensor
    salt: Tensor
    message: Tensor
    victim_stats: Tensor | None

    def __init__(
        self,
        secret: Tensor,
        salt: Tensor,
        message: Tensor,
        classes: int,
        victim_stats: Tensor | None = None,
    ):
        super().__init__()
        for name, tensor in (("secret", secret), ("salt", salt), ("message", message)):
            self.register_buffer(name, tensor)
        self.register_buffer("victim_stats", victim_stats)
        self.classes = classes
        self.method = ""
        self.terms: dict[str, Any] = {}
        self.probes = ""
        self.commitment = ""

    @classmethod
    def draw(cls, message: str, classes: int, entropy: Callable[[int], bytes]) -> Key:
        """Return a new key.

        Args:
            message: the customer or the licence.
            classes: K of the model.
            entropy: n to n secret bytes, such as ``secrets.token_bytes``.

        Raises:
            InputError: for an empty message.
        """
        check_message(message)
        secret, salt = (
            torch.tensor(list(entropy(size)), dtype=torch.uint8)
            for size in (SECRET_BYTES, SALT_BYTES)
        )
        return cls(secret, salt, as_bytes(message), classes)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: Any) -> None:
        """Add what the key holds to its own state, and nothing to that of a module around it."""
        if not prefix:
            super()._save_to_state_dict(destination, prefix, keep_vars)

    def seed(self) -> bytes:
        """Return HMAC-SHA256(secret, salt + message): 32 bytes.

        Whoever knows them has ``stream``, and that of no other message.
        """
        secret, salt, message = (_bytes(t) for t in (self.secret, self.salt, self.message))
        return hmac.new(secret, salt + message, hashlib.sha256).digest()

    def stream(self, size: int) -> bytes:
        """Return ``size`` bytes that look random to whoever doesn't know the seed.

        HMAC-SHA256(seed, counter + ``victim_bytes``) for the counters 0, 1, ... Nobody can choose
        seed and victim's statistics so that the bytes come out as they want. SHA-256 of
        ``victim_bytes`` stands for more than ``MAX_VICTIM_BYTES``: each block would hash them anew.
        """
        seed, victim_bytes = self.seed(), self.victim_bytes()
        if len(victim_bytes) > MAX_VICTIM_BYTES:
            victim_bytes = hashlib.sha256(victim_bytes).digest()
        blocks = (
            hmac.digest(seed, block.to_bytes(8, "big") + victim_bytes, "sha256")
            for block in range(math.ceil(size / 32))
        )
        return b"".join(blocks)[:size]

    def victim_bytes(self) -> bytes:
        """Return ``victim_stats`` as float32, little-endian, row by row; nothing where None."""
        return (
            b""
            if self.victim_stats is None
            else self.victim_stats.cpu().numpy().astype("<f4").tobytes()
        )

    def owner_part(self) -> Key:
        """Return the key of what all customers' marks have in common: that of no message."""
        return Key(self.secret, self.salt, as_bytes(""), self.classes, self.victim_stats)

    def for_message(self, message: str) -> Key:
        """Return the key of another message: the same secret and salt, nothing learnt."""
        return Key(self.secret, self.salt, as_bytes(message), self.classes, self.victim_stats)

    def file_tensors(self) -> dict[str, Tensor]:
        """Return every tensor under its name in files."""
        return {FILE_NAMES.get(name, name): value for name, value in self.state_dict().items()}

    def digest(self, tensors: Mapping[str, Tensor] | None = None) -> str:
        """Return the SHA-256 (hex) over every tensor, classes, method, terms and probes.

        ``tensors``: those of a file that isn't read yet; the key's own where None.
        """
        facts = {
            "format": FORMAT,
            "classes": self.classes,
            "method": self.method,
            "terms": self.terms,
            "probes": self.probes,
        }
        hashed = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        for name, tensor in sorted((tensors or self.file_tensors()).items()):
            content = tensor.cpu().contiguous()
            about = json.dumps([name, str(content.dtype), list(content.shape)])
            hashed.update(len(about).to_bytes(8, "big") + about.encode())
            hashed.update(content.reshape(-1).view(torch.uint8).numpy().tobytes())
        return hashed.hexdigest()

    def commit(self, method: Mapping[str, Any], terms: Mapping[str, Any], probes: Samples) -> str:
        """Bind the key to method, terms and probes, and return the commitment in hex."""
        self.method, self.terms = method_hash(method), dict(terms)
        self.probes = probes.fingerprint
        self.commitment = self.digest()
        return self.commitment

    def check(self, method: Mapping[str, Any], terms: Mapping[str, Any], probes: Samples) -> str:
        """Return the commitment in hex.

        Raises:
            InputError: where the key is not what was committed to, or the judge's method, terms or
                probes are others than the committed ones.
        """
        if not self.commitment:
            raise InputError("the key was never committed to: no verdict can stand on it")
        wrong = [
            name
            for name, bound, used in (
                ("method", self.method, method_hash(method)),
                ("terms of a claim", self.terms, dict(terms)),
                ("probes", self.probes, probes.fingerprint),
                ("content", self.commitment, self.digest()),
            )
            if bound != used
        ]
        if wrong:
            raise InputError(
                f"the key's commitment {self.commitment[:16]}... doesn't fit its "
                f"{', '.join(wrong)}: no verdict can stand on it"
            )
        return self.commitment

    def save(self, path: str | Path) -> None:
        """Write the key as safetensors, never a pickle, readable for its owner alone (mode 600).

        The file holds the secret: keep it.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.file_tensors().items()}
        about = {
            "format": FORMAT,
            "classes": str(self.classes),
            "method": self.method,
            "terms": json.dumps(self.terms),
            "probes": self.probes,
            "commitment": self.commitment,
        }
        write_private(Path(path), safetensors.torch.save(tensors, about))

    @classmethod
    def load(cls, path: str | Path, build_modules: Callable[[Key], None]) -> Key:
        """Return the key in a file. Nothing that the file says is called.

        Args:
            path: of the file.
            build_modules: adds the method's own modules to the key, before their weights are read.

        Raises:
            InputError: where the file is cut short, no key, or another method's.
        """
        tensors, about = read_tensors(Path(path))
        if about.get("format") != FORMAT:
            raise InputError(f"{path}: not a key of this version of softmark")
        try:
            named = (tensors[name] for name in ("secret", "salt", "message"))
            key = cls(*named, _count(about), tensors.get(FILE_NAMES["victim_stats"]))
            key.method, key.terms = about["method"], json.loads(about["terms"])
            key.probes, key.commitment = about["probes"], about["commitment"]
            # Before anything is built from it: a file may claim a million classes.
            if key.commitment and key.commitment != key.digest(tensors):
                raise InputError(f"{path}: its content isn't what was committed to")
            names = {file_name: name for name, file_name in FILE_NAMES.items()}
            tensors = {names.get(name, name): tensor for name, tensor in tensors.items()}
            for name, tensor in tensors.items():
                if "." not in name and name not in dict(key.named_buffers()):
                    key.register_buffer(name, tensor)
            build_modules(key)
            key.load_state_dict(tensors)
        except InputError:
            raise
        except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: the key of another method or network ({reason})") from error
        return key.eval()


def method_hash(node: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a watermark's config node, whatever its classes are called."""
    try:
        return config_hash(node, judges=True)
    except InputError:  # of a class that isn't there: its name counts, which fits no other
        return hashlib.sha256(json.dumps(node, sort_keys=True).encode()).hexdigest()


def generator(key: Key) -> torch.Generator:
    """Return a generator of random numbers that follow from the key."""
    seed = int.from_bytes(key.for_message("triggers").stream(8), "big") >> 1
    return torch.Generator().manual_seed(seed)


def _count(about: Mapping[str, str]) -> int:
    classes = int(about["classes"])
    if not 2 <= classes <= 1_000_000:
        raise ValueError(f"{classes} classes")
    return classes


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.tolist())
