"""The folder that an owner keeps: marked models, key, commitment and probes, all or none."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.owner.commitment import COMMITMENT, check_published, publish, read_publication
from softmark.owner.mark import Marked
from softmark.owner.models import load_probes, save_model, save_probes

KEY = "key.safetensors"
PROBES = "probes.npz"


def save(
    marked: Marked | Sequence[Marked], folder: str | Path, passphrase: str | None = None
) -> None:
    """Writes what ``mark`` or ``mark_each`` gave into ``folder``, a new or an empty one.

    model.safetensors (or model-1, model-2, ... for customers, in their order), key.safetensors
    (secret: keep it; ``passphrase`` locks it), softmark.commitment.json (publish it now) and
    probes.npz. Everything is there afterwards, or nothing. Raises ``InputError`` where it can't be.
    """
    folder, each = Path(folder), [marked] if isinstance(marked, Marked) else list(marked)
    check_new(folder)
    partial = _partial(folder)
    partial.mkdir()
    try:
        for place, one in enumerate(each, 1):
            name = "model" if len(each) == 1 else f"model-{place}"
            save_model(one.model, partial / f"{name}.safetensors")
        each[0].key.save(partial / KEY, passphrase)
        publish(each[0].key, partial)
        save_probes(each[0].probes, partial / PROBES)
        if folder.exists():
            folder.rmdir()  # it is empty
        partial.replace(folder)
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: str | Path, passphrase: str | None = None) -> tuple[Key, Tensor]:
    """The key and the probes of a folder that ``save`` wrote.

    Raises ``InputError`` for a folder that lacks one of them, a passphrase that isn't the key's,
    and a key that isn't the one of the commitment beside it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    key = Key.load(folder / KEY, passphrase)
    check_published(read_publication(folder / COMMITMENT), key)
    return key, load_probes(folder / PROBES)


def check_new(folder: Path) -> None:
    """Raises ``InputError`` where ``folder`` can't be written, or isn't empty."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder}: it is there already; a new folder is needed")
        shutil.rmtree(_partial(folder), ignore_errors=True)
        _partial(folder).mkdir(parents=True)
        _partial(folder).rmdir()
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error


def _partial(folder: Path) -> Path:
    """Where everything is written before it appears in ``folder``."""
    return folder.with_name(f".{folder.name}.partial")
