"""What the contract asks of somebody's own watermark: each breach is one line that says what to do.

A class that lacks a part is refused before anything is trained; what its methods return is checked
where they are called.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from softmark.errors import InputError
from softmark.methods.key import Key
from softmark.methods.watermark import Unmarked, Watermark
from softmark.nodes import short

NEEDED = {
    "embed": "embed(self, victim, data, fit), which returns the marked model and its key",
    "evidence": "evidence(self, suspect, key, probes), which returns an Evidence",
}


def check_class(kind: Any, where: str) -> None:
    """Raise ``InputError`` unless ``kind`` is a watermark that defines what each one must.

    Args:
        kind: what was named as a method's class.
        where: it was named, for the message.
    """
    if not (inspect.isclass(kind) and issubclass(kind, Watermark)):
        raise InputError(
            f"{where}: {short(kind)} is no class that derives from softmark.methods.Watermark"
        )
    if issubclass(kind, Unmarked):
        return
    for name, sentence in NEEDED.items():
        if getattr(kind, name) is getattr(Watermark, name):
            raise InputError(f"{where}: {kind.__name__} lacks {sentence}")


def check_marked(method: Watermark, marked: Any) -> tuple[nn.Module, Key | None]:
    """Return what ``method.embed`` returned: the marked model and its key.

    Raises:
        InputError: it is something else, or the key of a method with evidence is missing.
    """
    name = f"{type(method).__name__}.embed"
    if not (isinstance(marked, tuple) and len(marked) == 2 and isinstance(marked[0], nn.Module)):
        raise InputError(f"{name} returned {_kind(marked)}: (marked model, key) is needed")
    network, key = marked
    keyless = key is None and isinstance(method, Unmarked)
    if not keyless and not isinstance(key, Key):
        raise InputError(
            f"{name} returned no key but {_kind(key)}: return (marked model, key); "
            "self.draw(data, classes, fit.entropy) draws one"
        )
    return network, key


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
