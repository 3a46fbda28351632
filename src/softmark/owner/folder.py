"""The folder that an owner keeps: marked models, key, commitment and probes, all or none."""

from __future__ import annotations

import contextlib
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.owner.commitment import COMMITMENT, check_published, publish, read_publication
from softmark.owner.court import check_inputs
from softmark.owner.key import Key
from softmark.owner.mark import Marked
from softmark.owner.models import load_probes, save_model, save_probes
from softmark.owner.samples import as_inputs

KEY = "key.safetensors"
PROBES = "probes.npz"


def save(
    made: Marked | Sequence[Marked] | tuple[Key, Any],
    folder: str | Path,
    passphrase: str | None = None,
) -> None:
    """Writes into ``folder``, a new or an empty one, what an owner needs later.

    ``made``: what ``mark`` or ``mark_each`` gave, or (key, probes) of ``new_key``, whose model is
    yet to be trained. model.safetensors (or model-1, model-2, ... for customers, in their order),
    key.safetensors (secret: keep it; ``passphrase`` locks it), softmark.commitment.json (publish it
    now) and probes.npz. Where one can't be written none is left, and ``InputError`` says why.
    """
    folder, (models, key, probes) = Path(folder), _parts(made)
    check_new(folder)
    # With a beacon the commitment was written when the round was still to come.
    published = (folder / COMMITMENT).exists()
    if published:
        check_published(read_publication(folder / COMMITMENT), key)
    new = not folder.exists()
    writing = [
        *((name, functools.partial(save_model, model)) for name, model in models.items()),
        (KEY, lambda path: key.save(path, passphrase)),
        *([] if published else [(COMMITMENT, lambda path: publish(key, path.parent))]),
        (PROBES, lambda path: save_probes(probes, path)),
    ]
    partial = folder / ".partial"
    try:
        partial.mkdir(parents=True)
        for name, write in writing:
            write(partial / name)
        # The key last: a folder that has one has everything.
        for name, _ in sorted(writing, key=lambda each: each[0] == KEY):
            (partial / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: it can't be written ({reason})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            if new:
                folder.rmdir()  # which a folder with files in it refuses


def _parts(made: Any) -> tuple[dict[str, nn.Module], Key, Tensor]:
    """The models by their files' names, their key, and the probes."""
    if isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], Key):
        key, inputs = made[0], as_inputs(made[1])
        check_inputs(key.statement, inputs)
        return {}, key, inputs
    marked = made if isinstance(made, list | tuple) else [made]
    if not marked or not all(isinstance(each, Marked) for each in marked):
        raise InputError("what mark or mark_each gave is needed, or a pair (key, probes)")
    if len({each.key.commitment for each in marked}) > 1:
        raise InputError("the models have several keys: each needs a folder of its own")
    names = ["model"] if len(marked) == 1 else [f"model-{n}" for n in range(1, len(marked) + 1)]
    models = {f"{name}.safetensors": each.model for name, each in zip(names, marked, strict=True)}
    return models, marked[0].key, marked[0].probes


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
    """Raises ``InputError`` where ``folder`` can't be written, or holds more than a commitment."""
    try:
        new = not folder.exists()
        there = folder.is_dir() and {path.name for path in folder.iterdir()} - {COMMITMENT}
        if folder.exists() and (there or not folder.is_dir()):
            raise InputError(f"{folder}: it is there already; a new folder is needed")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if new:
            folder.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
