"""The accuracy baseline: no mark, no key, nothing to claim."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from softmark.attacks.attack import Suspect
from softmark.data import Samples
from softmark.methods.watermark import Key, Watermark
from softmark.training import Fit
from softmark.verification import NO_MARK, Evidence


class Unmarked(Watermark):
    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, None]:
        return victim, None

    def load_key(self, path: Path) -> None:
        return None

    def evidence(self, suspect: Suspect, key: Key | None, probes: Samples) -> Evidence:
        return NO_MARK
