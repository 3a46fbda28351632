"""The file of a key: private, written whole, and locked where the owner gives a passphrase.

scrypt (RFC 7914) stretches the passphrase, AES-GCM locks the content and proves it unchanged.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from softmark.errors import InputError

MAGIC = b"softmark locked 1\n"
SALT_BYTES, NONCE_BYTES = 16, 12
# 64 MiB and about .1 s a guess.
SCRYPT = {"n": 2**16, "r": 8, "p": 1}


def lock(content: bytes, passphrase: str) -> bytes:
    """Return ``content``, locked by ``passphrase``.

    Raises:
        InputError: for an empty passphrase.

    Example:
        >>> locked = lock(b"secret", "correct horse")
        >>> unlock(locked, "correct horse", "key.locked")
        b'secret'
    """
    if not passphrase:
        raise InputError("the passphrase is empty: it would lock nothing")
    salt, nonce = os.urandom(SALT_BYTES), os.urandom(NONCE_BYTES)
    locked = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, content, MAGIC)
    return MAGIC + salt + nonce + locked


def unlock(content: bytes, passphrase: str | None, where: object) -> bytes:
    """Return what ``lock`` was given.

    Args:
        content: what ``lock`` returned.
        passphrase: the same; None where there is none.
        where: names the file in errors.

    Raises:
        InputError: where the passphrase is missing or another one, or bytes were changed.
    """
    if not passphrase:
        raise InputError(f"{where}: it is locked: its passphrase is needed")
    body = content[len(MAGIC) :]
    salt, body = body[:SALT_BYTES], body[SALT_BYTES:]
    nonce, locked = body[:NONCE_BYTES], body[NONCE_BYTES:]
    try:
        return AESGCM(_stretch(passphrase, salt)).decrypt(nonce, locked, MAGIC)
    except (InvalidTag, ValueError) as error:
        raise InputError(
            f"{where}: another passphrase locked it, or the file is damaged; without the right one "
            "nobody can read the key"
        ) from error


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, **SCRYPT).derive(passphrase.encode())


def is_locked(path: Path) -> bool:
    """Return whether a passphrase locks the file, which needn't exist."""
    return path.is_file() and path.read_bytes().startswith(MAGIC)


def read_key_file(path: Path, passphrase: str | None) -> bytes:
    """Return the content of ``path``, unlocked where it is locked. Raise as ``unlock`` does."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error
    return unlock(content, passphrase, path) if content.startswith(MAGIC) else content


def write_private(path: Path, content: bytes) -> None:
    """Write ``content`` into a new file for its owner alone (mode 600), all of it or nothing.

    Raises:
        InputError: where the file exists, since an overwritten key can't be had again, and where it
            can't be written.
    """
    if path.exists():
        raise InputError(f"{path}: it is there already, and would be lost; a new file is needed")
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise InputError(f"{path}: it can't be written ({error.strerror})") from error
