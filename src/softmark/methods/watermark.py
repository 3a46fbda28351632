"""The contract of a watermark. A new one is one class file here and one YAML in conf/method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Self

from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.models.access import Access, Answer, Suspect
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null


class Watermark:
    """Mark models, and read marks. Stateless: what is secret or was learnt is in the ``Key``.

    A class says in its class variables what it needs, and defines at least ``embed`` and
    ``evidence``:

        class Mine(Watermark):
            message = "softmark"
            def embed(self, victim, data, fit):
                key = self.draw(data, classes_of(victim, data), fit.entropy)
                return fit(MyTraining(victim, key), data, "marking"), key
            def evidence(self, suspect, key, probes):
                hits = ...suspect.answers(probes)...
                return Evidence(scores, {"bits": Binomial(hits, trials, 0.5)})

    One that owners may use outside of experiments sets ``supports_owner`` and defines ``mark`` as
    well; the other methods of the contract with owners do nothing until they are overridden.
    """

    needs: ClassVar[Access] = "probabilities"
    """What the judge must be able to see of a suspect."""
    uses_query_log: ClassVar[bool] = False
    """Whether the evidence reads what the owner's interface was asked."""
    uses_victim_labels: ClassVar[bool] = False
    """Whether the labels of its probes are the unmarked victim's answers, and not the true ones."""
    supports_owner: ClassVar[bool] = False
    """Whether owners may mark models of their own with it, by ``softmark.mark``."""
    strengthened_by: ClassVar[tuple[str, ...]] = ("recipe.epochs",)
    """Config keys that make the mark easier to see where they are raised."""

    message: str
    """What its keys say: the customer or the licence."""
    num_triggers: int = 0
    """How many triggers a key has."""

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key | None]:
        """The watermarked model and its key, from the victim and the owner's data."""
        raise NotImplementedError

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key | None:
        """A new key without any training: what a forger draws, and what a null redraws.

        ``like``: samples of the size and kind of the model's inputs. ``entropy(n)``: n secret
        bytes. None for a method without keys.
        """
        return Key.draw(self.message, classes, entropy)

    def build_modules(self, key: Key) -> None:
        """Add the modules that this method keeps in a key, before their weights are read."""

    def load_key(self, path: Path) -> Key | None:
        """The key that ``Key.save`` wrote. Raises ``InputError`` for another's."""
        return Key.load(path, self.build_modules)

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

    # The contract with owners, who mark models of their own and commit to a statement first.

    @property
    def marking_numbers(self) -> Mapping[str, float]:
        """The numbers of the training by name, of which a statement binds some."""
        return {}

    @property
    def epochs(self) -> int:
        """How many epochs ``mark`` trains a model that nobody has trained before."""
        return 0

    def with_numbers(self, numbers: Mapping[str, float], num_triggers: int) -> Self:
        """Return the same watermark with other ``marking_numbers`` and ``num_triggers``."""
        return self

    def scale_epochs(self, factor: float) -> Self:
        """Return the same watermark, which trains ``factor`` times as many epochs."""
        return self

    def check_inputs(self, inputs: Tensor) -> None:
        """Raise ``InputError`` where ``inputs`` (N, ...) aren't of a kind that it can mark."""

    def observe_victim(self, victim: nn.Module, data: Samples) -> tuple[Tensor, Tensor | None]:
        """Return the unmarked ``victim``'s answers (N, K) to ``data``, and what the key is to
        know of them: (2, K, K), or None for nothing."""
        return predict(victim, data.inputs), None

    def trigger_probes(self, key: Key, like: Samples) -> Samples:
        """Return the triggers of ``key`` that an owner's suspect is asked behind the probes.

        ``like``: samples of the size and kind of the model's inputs.
        """
        return like[:0]

    def mark(
        self,
        victim: nn.Module,
        key: Key,
        answers: Tensor,
        data: Samples,
        fit: Fit,
        *,
        detector: bool = True,
    ) -> nn.Module:
        """Return the watermarked model of ``victim`` for a ``key`` that is there already.

        ``answers`` (N, K): the victim's, to the same ``data``. ``detector``: fit what the key
        learns as well, which no claim needs.
        """
        raise NotImplementedError


class Unmarked(Watermark):
    """The accuracy baseline: no mark, no key, nothing to claim."""

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, None]:
        return victim, None

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> None:
        return None

    def load_key(self, path: Path) -> None:
        return None
