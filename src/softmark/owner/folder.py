"""The folder that an owner keeps: marked models, key, commitment, probes, certificate."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor, nn

from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.certificate import CERTIFICATE, certificate_page
from softmark.owner.checks import check_probes
from softmark.owner.commitment import (
    COMMITMENT,
    check_published,
    check_unedited,
    fingerprint,
    publication,
    read_publication,
    write_publication,
)
from softmark.owner.key import Key
from softmark.owner.mark import Marked
from softmark.owner.model_files import save_model
from softmark.owner.named_inputs import Layout
from softmark.owner.probe_files import load_probes, save_probes
from softmark.owner.samples import as_named_inputs
from softmark.owner.verify import verify

KEY = "key.safetensors"
PROBES = "probes.npz"
LAYOUT = "probes.names.json"  # where the inputs of a model have names
MAX_LAYOUT = 1 << 16  # characters of it


def save(
    marked: Marked | Sequence[Marked] | tuple[Key, Any] | tuple[Key, Any, nn.Module],
    folder: str | Path,
    passphrase: str | None = None,
    owner: str | None = None,
    name: str | None = None,
) -> None:
    """Write all that an owner needs later into ``folder``; all files or none.

    These are model.safetensors (or model-1, model-2, ... for customers, in their order),
    key.safetensors (secret: keep it), softmark.commitment.json (publish it now), probes.npz and
    certificate.html, which says what was published and when.

    Args:
        marked: what ``mark`` or ``mark_each`` returned, or a pair (key, probes) of ``new_key``,
            whose model is yet to be trained; or (key, probes, model) once it is: the commitment
            then names its file's SHA-256, and the certificate says whether it would be claimed.
        folder: a new or an empty one.
        passphrase: locks the key's file; None to leave it open.
        owner: who you are, in words: published with the commitment.
        name: what you call the model: published, too.

    Raises:
        InputError: where a file can't be written, or lies there already. Marked models are then
            written into another folder, which the message names: no training is lost.

    Example:
        >>> softmark.save(marked, folder / "marked", passphrase="correct horse", owner="Anna")
        >>> for path in sorted((folder / "marked").iterdir()):
        ...     print(path.name)
        certificate.html
        key.safetensors
        model.safetensors
        probes.npz
        softmark.commitment.json
    """
    folder, write = Path(folder), _writer(marked, passphrase, owner, name)
    try:
        check_new(folder)
        write(folder)
    except InputError as error:
        if write.keywords["copies"] and (aside := _write_aside(write, folder)):
            raise InputError(f"{error}; the marked model and its key are in {aside}") from error
        raise


def save_aside(
    copies: Sequence[Marked],
    folder: Path,
    passphrase: str | None,
    owner: str | None,
    name: str | None,
) -> Path | None:
    """Write what ``save`` writes into a new folder beside ``folder``; return it, None for none."""
    return _write_aside(_writer(copies, passphrase, owner, name), folder)


def _writer(
    marked: Any, passphrase: str | None, owner: str | None, name: str | None
) -> functools.partial[None]:
    """Return a function that writes all files into a folder."""
    copies, key, probes = _copies_key_probes(marked)
    return functools.partial(
        _write, copies=copies, key=key, probes=probes, passphrase=passphrase, names=(owner, name)
    )


def _write(
    folder: Path,
    copies: dict[str, Marked],
    key: Key,
    probes: Any,
    passphrase: str | None,
    names: tuple[str | None, str | None],
) -> None:
    """Write all files into ``folder``, or none."""
    is_new, partial = not folder.exists(), folder / ".partial"
    try:
        partial.mkdir(parents=True)
        for name, copy in copies.items():
            save_model(copy.model, partial / name)
        models = {name: sha256_of(partial / name) for name in copies}
        published = publication(key.statement, *names, models)
        if (folder / COMMITMENT).exists():
            # With a beacon the commitment was written when the round was still to come.
            earlier = read_publication(folder / COMMITMENT)
            check_published(earlier, key)
            published["date"] = earlier["date"]
        write_publication(published, partial)
        inputs, layout = as_named_inputs(probes)
        save_probes(inputs, partial / PROBES)
        if layout:
            (partial / LAYOUT).write_text(layout.as_json(), encoding="utf-8")
        verdicts = [copy.verdict for copy in copies.values()]
        page = certificate_page(published, verdicts)
        (partial / CERTIFICATE).write_text(page, encoding="utf-8")
        replace(key, published=fingerprint(published)).save(partial / KEY, passphrase)
        # The key last: a folder that has one has everything.
        for path in sorted(partial.iterdir(), key=lambda path: path.name == KEY):
            path.replace(folder / path.name)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{folder}: it can't be written ({reason})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            if is_new:
                folder.rmdir()  # which a folder with files in it refuses


def _write_aside(write: Callable[[Path], None], folder: Path) -> Path | None:
    """Write into a new folder beside ``folder``, here, or where temporary files lie; return it."""
    for place in (folder.absolute().parent, Path.cwd(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, InputError):
            # For its owner alone.
            aside = Path(tempfile.mkdtemp(prefix=f"{folder.absolute().name}-", dir=place))
            try:
                write(aside)
                return aside
            except InputError:
                aside.rmdir()
    return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copies_key_probes(marked: Any) -> tuple[dict[str, Marked], Key, Any]:
    """Return the marked copies by their models' files, their key, and the probes."""
    if isinstance(marked, tuple) and len(marked) in (2, 3) and isinstance(marked[0], Key):
        key, (inputs, layout) = marked[0], as_named_inputs(marked[1])
        check_probes(key.statement, inputs)
        probes = layout.unpack(inputs) if layout else inputs
        if len(marked) == 2:
            return {}, key, probes
        marked = Marked(marked[2], key, probes, verify(marked[2], key, probes))
    copies = marked if isinstance(marked, list | tuple) else [marked]
    if not copies or not all(isinstance(one, Marked) for one in copies):
        raise InputError(
            "what mark or mark_each returned is needed, or (key, probes) and perhaps the model"
        )
    if len({one.key.commitment for one in copies}) > 1:
        raise InputError("the models have several keys: each needs a folder of its own")
    names = ["model"] if len(copies) == 1 else [f"model-{n}" for n in range(1, len(copies) + 1)]
    files = {f"{name}.safetensors": one for name, one in zip(names, copies, strict=True)}
    return files, copies[0].key, copies[0].probes


def load(
    folder: str | Path, passphrase: str | None = None
) -> tuple[Key, Tensor | dict[str, Tensor]]:
    """Read the key and the probes of a folder that ``save`` wrote.

    Args:
        folder: with key.safetensors, softmark.commitment.json and probes.npz.
        passphrase: the one that locks the key, if one does.

    Returns:
        The key, and the probes (N + T, ...), triggers included, by name where they have names.

    Raises:
        InputError: for a folder that lacks one of the files, a passphrase that isn't the key's, a
            key that isn't the one of the commitment beside it, and a commitment that was edited.

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
    published = read_publication(folder / COMMITMENT)
    check_published(published, key)
    check_unedited(published, key, folder / COMMITMENT)
    probes = load_probes(folder / PROBES, key.statement.input_bytes)
    if not (folder / LAYOUT).exists():
        return key, probes
    try:
        with (folder / LAYOUT).open(encoding="utf-8") as file:
            text = file.read(MAX_LAYOUT)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / LAYOUT}: it can't be read ({short(error)})") from error
    width = probes.shape[1] if probes.ndim == 2 else -1
    return key, Layout.read(text, width, str(folder / LAYOUT)).unpack(probes)


def check_new(folder: Path, num_bytes: int = 0) -> None:
    """Raise ``InputError`` if ``folder`` can't be written, or holds more than a commitment.

    ``num_bytes``: what will be written there, for which the disk must have room.
    """
    try:
        is_new = not folder.exists()
        others = folder.is_dir() and {path.name for path in folder.iterdir()} - {COMMITMENT}
        if not is_new and (others or not folder.is_dir()):
            raise InputError(f"{folder}: it is there already; a new folder is needed")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
        if is_new:
            folder.rmdir()
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
    if free < num_bytes:
        raise InputError(f"{folder}: the disk has {free:,} bytes, and {num_bytes:,} are needed")


def bytes_needed(model: nn.Module, copies: int, probes: Tensor) -> int:
    """Return how many bytes ``save`` will write, triggers and what else is small included."""
    weights = sum(tensor.nbytes for tensor in model.state_dict().values())
    return copies * weights + probes.nbytes + (16 << 20)


@contextlib.contextmanager
def reserved(folder: Path) -> Iterator[None]:
    """Keep ``folder`` for this process. Raise ``InputError`` where another one marks into it."""
    lock = folder.absolute().with_name(f".{folder.absolute().name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(lock, timeout=0))
        except Timeout as error:
            raise InputError(
                f"{folder}: another process marks into it; name another one"
            ) from error
        stack.callback(lock.unlink, missing_ok=True)
        yield
