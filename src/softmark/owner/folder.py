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
from softmark.owner.checks import check_probes
from softmark.owner.commitment import COMMITMENT, check_published, publish, read_publication
from softmark.owner.key import Key
from softmark.owner.mark import Marked
from softmark.owner.model_files import save_model
from softmark.owner.probe_files import load_probes, save_probes
from softmark.owner.samples import as_inputs

KEY = "key.safetensors"
PROBES = "probes.npz"


def save(
    marked: Marked | Sequence[Marked] | tuple[Key, Any],
    folder: str | Path,
    passphrase: str | None = None,
) -> None:
    """Write all that an owner needs later into ``folder``; all files or none.

    These are model.safetensors (or model-1, model-2, ... for customers, in their order),
    key.safetensors (secret: keep it), softmark.commitment.json (publish it now) and probes.npz.

    Args:
        marked: what ``mark`` or ``mark_each`` returned, or a pair (key, probes) of ``new_key``,
            whose model is yet to be trained.
        folder: a new or an empty one.
        passphrase: locks the key's file; None to leave it open.

    Raises:
        InputError: where a file can't be written, or lies there already.

    Example:
        >>> softmark.save(marked, folder / "marked", passphrase="correct horse")
        >>> sorted(path.name for path in (folder / "marked").iterdir())
        ['key.safetensors', 'model.safetensors', 'probes.npz', 'softmark.commitment.json']
    """
    folder, (models, key, probes) = Path(folder), _models_key_probes(marked)
    check_new(folder)
    # With a beacon the commitment was written when the round was still to come.
    published = (folder / COMMITMENT).exists()
    if published:
        check_published(read_publication(folder / COMMITMENT), key)
    is_new = not folder.exists()
    writers = [
        *((name, functools.partial(save_model, model)) for name, model in models.items()),
        (KEY, lambda path: key.save(path, passphrase)),
        *([] if published else [(COMMITMENT, lambda path: publish(key, path.parent))]),
        (PROBES, lambda path: save_probes(probes, path)),
    ]
    partial = folder / ".partial"
    try:
        partial.mkdir(parents=True)
        for name, write in writers:
            write(partial / name)
        # The key last: a folder that has one has everything.
        for name in sorted((name for name, _ in writers), key=lambda name: name == KEY):
            (partial / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: it can't be written ({reason})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            if is_new:
                folder.rmdir()  # which a folder with files in it refuses


def _models_key_probes(marked: Any) -> tuple[dict[str, nn.Module], Key, Tensor]:
    """Return the models by their files' names, their key, and the probes."""
    if isinstance(marked, tuple) and len(marked) == 2 and isinstance(marked[0], Key):
        key, inputs = marked[0], as_inputs(marked[1])
        check_probes(key.statement, inputs)
        return {}, key, inputs
    copies = marked if isinstance(marked, list | tuple) else [marked]
    if not copies or not all(isinstance(one, Marked) for one in copies):
        raise InputError("what mark or mark_each returned is needed, or a pair (key, probes)")
    if len({one.key.commitment for one in copies}) > 1:
        raise InputError("the models have several keys: each needs a folder of its own")
    names = ["model"] if len(copies) == 1 else [f"model-{n}" for n in range(1, len(copies) + 1)]
    models = {f"{name}.safetensors": one.model for name, one in zip(names, copies, strict=True)}
    return models, copies[0].key, copies[0].probes


def load(folder: str | Path, passphrase: str | None = None) -> tuple[Key, Tensor]:
    """Read the key and the probes of a folder that ``save`` wrote.

    Args:
        folder: with key.safetensors, softmark.commitment.json and probes.npz.
        passphrase: the one that locks the key, if one does.

    Returns:
        The key, and the probes (N + T, ...), triggers included.

    Raises:
        InputError: for a folder that lacks one of the files, a passphrase that isn't the key's,
            and a key that isn't the one of the commitment beside it.

    Example:
        >>> softmark.save(marked, folder / "marked")
        >>> key, probes = softmark.load(folder / "marked")
        >>> softmark.verify(marked.model, key, probes).claimed
        True
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    key = Key.load(folder / KEY, passphrase)
    check_published(read_publication(folder / COMMITMENT), key)
    return key, load_probes(folder / PROBES, key.statement.input_bytes)


def check_new(folder: Path) -> None:
    """Raise ``InputError`` if ``folder`` can't be written, or holds more than a commitment."""
    try:
        is_new = not folder.exists()
        others = folder.is_dir() and {path.name for path in folder.iterdir()} - {COMMITMENT}
        if not is_new and (others or not folder.is_dir()):
            raise InputError(f"{folder}: it is there already; a new folder is needed")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        if is_new:
            folder.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
