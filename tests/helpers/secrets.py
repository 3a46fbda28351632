"""Where a secret of an owner's key lies in files that it has no business in."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from softmark import Key
from softmark.methods.parts.loss import Marking, MarkingLoss
from softmark.owner.watermarks import watermark_of_statement


def secrets_of(key: Key) -> dict[str, bytes]:
    """What nobody but the owner may have: secret, seeds, pattern, what follows from it, triggers.

    Of arrays a row is taken: no other array has it by chance.
    """
    found = {"secret": key.secret}
    for message in key.messages:
        pattern_key = key.pattern_key(message)
        found |= {f"{message} seed": key.seed(message), f"{message} root": pattern_key.seed()}
        watermark = watermark_of_statement(key.statement)
        pattern = getattr(watermark, "soft", watermark).pattern(pattern_key)
        loss = MarkingLoss(pattern, Marking(**key.statement.numbers))
        arrays = {"pattern": pattern, "templates": loss.templates, "rows": loss.planted.rows}
        for name, array in arrays.items():
            found |= {f"{message} {name}": array[1].numpy().tobytes()}
            found |= {f"{message} {name} as float64": array[1].double().numpy().tobytes()}
    for name, content in list(found.items()):
        found[f"{name} in hex"] = content.hex().encode()
        # Of three bytes each, so that it is found in a longer text.
        found[f"{name} in base64"] = base64.b64encode(content[: len(content) // 3 * 3])
    return found


def triggers_of(key: Key, probes: np.ndarray) -> dict[str, bytes]:
    """The bytes of the first triggers, if the key has any."""
    triggers = probes[key.statement.probes.count :]
    return {f"trigger {n}": one.tobytes() for n, one in enumerate(triggers[:3])}


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and of what is packed in it."""
    content = path.read_bytes()
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def leaks(folder: Path, needles: dict[str, bytes]) -> list[str]:
    """Which of ``needles`` lie in which file below ``folder``."""
    found = {
        f"{path.relative_to(folder)}: {name}"
        for path in folder.rglob("*")
        if path.is_file()
        for content in contents(path)
        for name, needle in needles.items()
        if needle in content
    }
    return sorted(found)
