"""softmark: mark neural networks through their soft labels, attack the mark, judge what is left.

    marked = softmark.mark(model, data, message="licence 7")
    softmark.verify(suspect, marked.key, marked.probes).claimed

Nothing is imported before it is used: the names below cost no torch.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Beacon": "softmark.owner.beacon",
    "Endpoint": "softmark.owner.suspects.endpoint",
    "Evaluation": "softmark.evaluation",
    "InputError": "softmark.errors",
    "Key": "softmark.owner.key",
    "MarkProgress": "softmark.owner.lightning_progress",
    "MarkProgressCallback": "softmark.owner.transformers_progress",
    "Marked": "softmark.owner.mark",
    "Verdict": "softmark.verification.verdict",
    "evaluate": "softmark.evaluation",
    "evidence": "softmark.owner.evidence",
    "example": "softmark.owner.example",
    "load": "softmark.owner.folder",
    "mark": "softmark.owner.mark",
    "mark_each": "softmark.owner.mark",
    "marking_loss": "softmark.owner.new_key",
    "new_key": "softmark.owner.new_key",
    "publish": "softmark.owner.commitment",
    "save": "softmark.owner.folder",
    "verify": "softmark.owner.verify",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name == "attacks":  # each of them can be called: softmark.attacks.Prune()(model, data)
        return import_module("softmark.attacks")
    if name not in _MODULES:
        raise AttributeError(f"module 'softmark' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
