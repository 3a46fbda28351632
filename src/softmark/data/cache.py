"""Decoded data, kept in one file for each source and checked on each load."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from softmark.data.pictures import reason
from softmark.data.roles import Roles, Shares, share
from softmark.data.sources import Decoded, Source
from softmark.errors import InputError
from softmark.store.lock import locked

BROKEN_CACHE = (SafetensorError, KeyError, TypeError, ValueError)


def open_data(source: Source, shares: Shares, folder: str | Path) -> Roles:
    """Decode ``source`` once into a file of ``folder`` and share the samples out, on the CPU.

    The file's content is checked on each load: a damaged one is reported and decoded again.

    Args:
        source: where the samples come from, ``source_of(config["data"])``.
        shares: who gets which part, ``Shares(**config["data"]["roles"])``.
        folder: where decoded data are kept.

    Raises:
        InputError: the data, the shares or the folder can't be used.
    """
    return share(_cached(source, Path(folder), _load), shares)


def decode(source: Source, folder: str | Path) -> str:
    """Decode ``source`` into ``folder``, unless that is done, and return its fingerprint.

    Raises:
        InputError: the data or the folder can't be used.
    """
    return _cached(source, Path(folder), _header)


def fingerprint(source: Source, folder: str | Path) -> str | None:
    """Return the hex SHA-256 of the decoded content (shares not included) that ``folder`` has.

    Nothing is decoded for this: None where the content isn't there. It is read from the header of a
    file, without torch; ``open_data`` checks the content against it.
    """
    try:
        return _header(cache_file(source, Path(folder))[0])
    except (OSError, *BROKEN_CACHE):
        return None


def cache_file(source: Source, folder: Path) -> tuple[Path, str]:
    """Return the cache file of ``source``, and the signature that its name says."""
    signature = json.dumps({"format": 2, **source.signature()}, sort_keys=True)
    name = hashlib.sha256(signature.encode()).hexdigest()[:16]
    return folder / f"{name}.safetensors", signature


def _cached(source: Source, folder: Path, read: Callable[[Path], Any]) -> Any:
    """Return what ``read`` makes of the cache file of ``source``, which is made if need be."""
    try:
        path, signature = cache_file(source, folder)
        if path.exists():
            with suppress(*BROKEN_CACHE):
                return read(path)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{path}.lock"), folder):
            if path.exists():  # another process made it meanwhile, or it is broken
                try:
                    return read(path)
                except BROKEN_CACHE as error:
                    print(f"{path} is damaged ({reason(error)}): decoding again", file=sys.stderr)
                    path.unlink()
            _save(source.read(), signature, path)
            return read(path)
    except OSError as error:
        raise InputError(
            f"data cannot be read, or not be kept in {folder}: {reason(error)}"
        ) from error


def _save(decoded: Decoded, signature: str, path: Path) -> None:
    """Write ``decoded`` so that a reader finds a whole file or none."""
    if len(decoded.classes) < 2:
        raise InputError(f"the data has too few classes: {decoded.classes}, two are needed")
    about = {
        "classes": json.dumps(decoded.classes),
        "train": str(decoded.train),
        "fingerprint": decoded.fingerprint,
        "signature": signature,
    }
    partial = path.with_suffix(".partial")  # one a cache file, under its lock
    try:
        save_file({"images": decoded.images, "labels": decoded.labels}, partial, about)
    except SafetensorError as error:  # what it makes of a full disk
        raise OSError(str(error)) from error
    partial.replace(path)


def _load(path: Path) -> Decoded:
    """Return what the file ``path`` holds. Raise ``ValueError`` where that isn't what it says."""
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        images, labels = file.get_tensor("images"), file.get_tensor("labels")
    decoded = Decoded(images, labels, tuple(json.loads(about["classes"])), int(about["train"]))
    if decoded.fingerprint != about["fingerprint"]:
        raise ValueError("its content is not what was written")
    return decoded


def _header(path: Path) -> str:
    """Return the fingerprint that the header of the file ``path`` says."""
    with safe_open(path, framework="numpy") as file:
        return file.metadata()["fingerprint"]
