"""The contract of a watermark, and the key that its owner keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from softmark.attacks.attack import Suspect
from softmark.data import Samples
from softmark.errors import InputError
from softmark.training import Fit, read_tensors
from softmark.verification import Evidence, Null

SECRET_BYTES = 32
SALT_BYTES = 16


class Watermark:
    """Stateless: what is secret, or was learnt for one owner, is in the ``Key``."""

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key | None]:
        """The watermarked model and its key, from the victim and the owner's data."""
        raise NotImplementedError

    def load_key(self, path: Path) -> Key | None:
        """The key that ``Key.save`` wrote."""
        return Key.load(path)

    def evidence(self, suspect: Suspect, key: Key | None, probes: Samples) -> Evidence:
        """What the suspect's answers to ``probes`` show of ``key``."""
        raise NotImplementedError

    def accuse(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        """An exact test of each message that the owner of ``key`` may have registered.

        Empty for a method whose marks carry no message.
        """
        return {}


def as_bytes(text: str) -> Tensor:
    """UTF-8, uint8 (N,)."""
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


class Key(nn.Module):
    """What the owner keeps: secret, salt, message, tensors of the method's own, perhaps a detector.

    ``tensors`` become buffers. ``commitment``: the SHA-256 to be published when the key is made,
    before any suspect is seen; empty until ``commit``.
    """

    secret: Tensor
    salt: Tensor
    message: Tensor
    commitment: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], detector: nn.Module | None = None):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.detector = detector

    @staticmethod
    def draw(message: str) -> dict[str, Tensor]:
        """A new secret and salt from torch's generator, and the message, as bytes.

        Whoever knows the generator's seed knows the secret: right for experiments that must be
        repeatable. An owner of a real model seeds it from the system's entropy.
        """
        if not message:
            raise InputError("method.message is empty: name the customer or the licence")
        return {
            "secret": torch.randint(256, (SECRET_BYTES,), dtype=torch.uint8),
            "salt": torch.randint(256, (SALT_BYTES,), dtype=torch.uint8),
            "message": as_bytes(message),
            "commitment": torch.zeros(32, dtype=torch.uint8),
        }

    def tensors(self) -> dict[str, Tensor]:
        """What ``draw`` and the method put in, by name."""
        return dict(self.named_buffers(recurse=False))

    def digest(self, probes: Samples) -> bytes:
        """SHA-256 of secret, message, salt and probes, each with its length before it."""
        parts = [bytes(part.tolist()) for part in (self.secret, self.message, self.salt)]
        parts.append(bytes.fromhex(probes.fingerprint))
        text = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hashlib.sha256(text).digest()

    def commit(self, probes: Samples) -> str:
        """Binds the key to ``probes`` and returns the commitment in hex."""
        self.commitment = torch.tensor(list(self.digest(probes)), dtype=torch.uint8)
        return self.digest(probes).hex()

    def check(self, probes: Samples) -> str:
        """The commitment in hex. Raises ``InputError`` where key and probes are not those of it."""
        committed = bytes(self.commitment.tolist())
        if committed != self.digest(probes):
            raise InputError(
                f"the key's commitment {committed.hex()[:16]}... doesn't fit its secret, message, "
                "salt and these probes: no verdict can stand on it"
            )
        return committed.hex()

    def save(self, path: Path) -> None:
        """As safetensors, never as a pickle. The file holds the secret: keep it."""
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        safetensors.torch.save_file(tensors, path)

    @classmethod
    def load(cls, path: Path, detector: Callable[[Mapping[str, Tensor]], nn.Module] | None = None):
        """Reads a key; ``detector(tensors)`` builds the empty detector that its weights go into.

        Raises ``InputError`` where the file is cut short, no safetensors, or another method's.
        """
        tensors = read_tensors(path)
        own = {name: tensor for name, tensor in tensors.items() if "." not in name}
        try:
            key = cls(own, detector(own) if detector else None)
            key.load_state_dict(tensors)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise InputError(f"{path}: the key of another method or network ({reason})") from error
        return key.eval()
