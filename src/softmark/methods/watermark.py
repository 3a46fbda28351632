"""The contract of a watermark. A new one is one class file here and one YAML in conf/method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.models.access import Access, Answer, Suspect
from softmark.training import Fit
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null


class Watermark:
    """Stateless: what is secret, or was learnt for one owner, is in the ``Key``.

    ``needs``: what the judge must be able to see of a suspect. ``logs``: whether the evidence
    reads what the owner's interface was asked. ``expects``: whether the labels of its probes are
    what the unmarked victim answers to them, and not the true ones. ``message``: what its keys say.

    The least that a method writes:

        class Mine(Watermark):
            message = "softmark"
            def embed(self, victim, data, fit):
                key = self.draw(data, classes_of(victim, data), fit.entropy)
                return fit(MyTraining(victim, key), data, "marking"), key
            def evidence(self, suspect, key, probes):
                hits = ...suspect.answers(probes)...
                return Evidence(scores, {"bits": Binomial(hits, trials, 0.5)})
    """

    needs: ClassVar[Access] = "probabilities"
    logs: ClassVar[bool] = False
    expects: ClassVar[bool] = False
    message: str

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key | None]:
        """The watermarked model and its key, from the victim and the owner's data."""
        raise NotImplementedError

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key | None:
        """A new key without any training: what a forger draws, and what a null redraws.

        ``like``: samples of the size and kind of the model's inputs. ``entropy(n)``: n secret
        bytes. None for a method without keys.
        """
        return Key.draw(self.message, classes, entropy)

    def complete(self, key: Key) -> None:
        """Adds the modules that this method keeps in a key, before their weights are read."""

    def load_key(self, path: Path) -> Key | None:
        """The key that ``Key.save`` wrote. Raises ``InputError`` for another's."""
        return Key.load(path, self.complete)

    def serve(self, answer: Answer, key: Key) -> Answer:
        """What the owner's interface makes of the watermarked model's answers."""
        return answer

    def probes(self, key: Key, pool: Samples, log: Samples | None) -> Samples:
        """What the judge asks. ``pool``: the judge's samples, which no key has chosen.

        Another choice (triggers, fingerprints, logged queries) rules out ``Signs`` and
        ``Direction``, which are exact only for probes that don't depend on the key.
        """
        return pool

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        """What the suspect shows of ``key``; its answers were made probabilities."""
        raise NotImplementedError

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        """An exact test of each message that the owner of ``key`` may have registered.

        Empty for a method whose marks carry no message.
        """
        return {}


class Unmarked(Watermark):
    """The accuracy baseline: no mark, no key, nothing to claim."""

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, None]:
        return victim, None

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> None:
        return None

    def load_key(self, path: Path) -> None:
        return None
