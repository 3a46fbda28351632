"""The contract of a watermark. A new one is one class file here and one YAML in conf/method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.methods.key import Key, check_message
from softmark.methods.parts.checks import check_above_zero
from softmark.models.access import Access, Answer, Suspect
from softmark.recipe import Recipe
from softmark.training import Fit, predict
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Null


def as_samples(data: Samples | Tensor | tuple[Tensor, Tensor]) -> Samples:
    """Return ``data`` as samples: inputs (N, ...) alone have the label -1, which is none."""
    if isinstance(data, Tensor):
        return Samples(data, torch.full((len(data),), -1))
    return data if isinstance(data, Samples) else Samples(*data)


def _takes_plain(method: Callable) -> Callable:
    """Let ``method`` take a module for a ``Suspect`` and tensors for ``Samples``."""

    def ours(value: Any) -> Any:
        return as_samples(value) if isinstance(value, Tensor | tuple) else value

    signature = inspect.signature(method)

    @functools.wraps(method)
    def taking(self: Watermark, *given: Any, **named: Any) -> Any:
        bound = signature.bind(self, *given, **named)
        for name, value in bound.arguments.items():
            if name == "suspect" and isinstance(value, nn.Module):
                value = Suspect.of(value).seen_by(self.needs)
            bound.arguments[name] = ours(value)
        return method(*bound.args, **bound.kwargs)

    return taking


class Watermark:
    """Embed marks in models, and find evidence of them. Stateless: the ``Key`` holds all secrets.

    A class says in its class variables what it needs, and defines at least ``embed`` and
    ``evidence``:

        class Mine(Watermark):
            message = "softmark"
            def embed(self, victim, data, fit):
                key = self.draw(data, classes_of(victim, data), fit.entropy)
                return fit(MyModule(victim, key), data, "marking"), key
            def evidence(self, suspect, key, probes):
                hits = ...suspect.answers(probes)...
                return Evidence(scores, {"bits": Binomial(hits, trials, 0.5)})

    One that owners may use outside of experiments sets ``supports_owner`` and defines ``mark`` as
    well; the other methods of the contract with owners do nothing until they are overridden.

    Example:
        Every method takes plain modules and tensors, too. A model with random weights carries no
        mark, so that its p-value is like that of any other:

        >>> import torch
        >>> from softmark.methods import Adi, Key
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> pictures = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8)
        >>> method = Adi(num_triggers=20)
        >>> key = Key.draw("licence 7", 10, lambda size: bytes(range(size)))
        >>> evidence = method.evidence(model, key, method.probes(key, pictures))
        >>> evidence.tests["triggers"].p_value() > 1e-6
        True
    """

    needs: ClassVar[Access] = "probabilities"
    """What the judge must be able to see of a suspect."""
    uses_query_log: ClassVar[bool] = False
    """Whether there is evidence only where the owner's interface was asked something."""
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

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a method take plain modules and tensors where it is written for ours."""
        super().__init_subclass__(**options)
        for name in ("embed", "probes", "evidence"):
            if name in vars(cls):
                setattr(cls, name, _takes_plain(vars(cls)[name]))

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, Key | None]:
        """Return the watermarked model and its key.

        Args:
            victim: the model to be marked, which stays as it is; inputs (N, ...) to logits (N, K).
            data: the owner's samples, N of them: ``Samples`` or a pair (inputs, labels).
            fit: what trains; ``Fit()`` where there is no experiment.

        Returns:
            The marked copy, on the CPU and in eval mode, and the key; None without a key.

        Raises:
            InputError: for a model or data that this method can't mark.
        """
        raise NotImplementedError

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> Key | None:
        """Return a new key without any training: what a forger draws, and what a null redraws.

        Args:
            like: samples of the size and kind of the model's inputs.
            classes: K of the model.
            entropy: n to n secret bytes.

        Returns:
            The key; None for a method without keys.
        """
        return Key.draw(self.message, classes, entropy)

    def build_modules(self, key: Key) -> None:
        """Add the modules that this method keeps in a key, before their weights are read."""

    def load_key(self, path: Path) -> Key | None:
        """Return the key that ``Key.save`` wrote.

        Raises:
            InputError: for the file of another method, or no key at all.
        """
        return Key.load(path, self.build_modules)

    def serve(self, answer: Answer, key: Key) -> Answer:
        """Return what the owner's interface makes of the watermarked model's answers."""
        return answer

    def serve_network(self, network: nn.Module, answer: Answer, key: Key) -> Answer:
        """Return what ``serve`` does, where it must see the ``network`` that ``answer`` asks."""
        return self.serve(answer, key)

    def probes(self, key: Key, pool: Samples, log: Samples | None = None) -> Samples:
        """Return what the judge asks a suspect.

        Another choice than the pool (triggers, fingerprints, logged queries) rules out ``Signs``
        and ``Direction``, which are exact only for probes that don't depend on the key.

        Args:
            key: the key whose mark is looked for.
            pool: the judge's samples, which no key has chosen.
            log: what the owner's interface was asked and has answered; None where nothing was.
        """
        return pool

    def evidence(self, suspect: Suspect, key: Key, probes: Samples) -> Evidence:
        """Return what the suspect shows of ``key``.

        Args:
            suspect: whose answers were made probabilities; or a plain module, which gives logits.
            key: the key whose mark is looked for.
            probes: what ``probes`` chose: ``Samples``, a pair (inputs, labels), or inputs alone.
        """
        raise NotImplementedError

    def identify(
        self, suspect: Suspect, key: Key, probes: Samples, messages: Sequence[str]
    ) -> dict[str, Null]:
        """Return an exact test of each message that the owner of ``key`` may have registered.

        Empty for a method whose marks carry no message.
        """
        return {}

    def owner_test(self, suspect: Suspect, key: Key, probes: Samples) -> Null | None:
        """Return the exact test of what all customers' copies share; None where there is none."""
        return None

    # The contract with owners, who mark models of their own and commit to a statement first.

    @property
    def marking_numbers(self) -> Mapping[str, float]:
        """The numbers of the training by name, of which a statement binds some."""
        return {}

    @property
    def epochs(self) -> int:
        """How many epochs ``mark`` trains."""
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
        """Return the unmarked ``victim``'s answers (N, K) to ``data``, and its statistics.

        These are what the key is to know of the victim: (2, K, K), or None for nothing.
        """
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


@dataclass(frozen=True, kw_only=True)
class TrainedWatermark(Watermark):
    """Train the victim on: what most methods share.

    Raises:
        InputError: for numbers outside of their ranges. So does every method.
    """

    strengthened_by = (*Watermark.strengthened_by, "method.epochs_factor")

    message: str = "softmark"
    """The customer or the licence: it goes into the key. Any text but the empty one."""
    recipe: Recipe = field(default_factory=Recipe)
    """The training of a model of this kind."""
    epochs_factor: float = 2.0
    """Epochs of the marking, which starts from the victim, over the recipe's. Above 0."""
    batch_size_factor: float = 0.5
    """Size of its batches over the recipe's. Above 0."""

    def __post_init__(self) -> None:
        check_message(self.message)
        check_above_zero(self, "epochs_factor", "batch_size_factor")

    @property
    def marking_recipe(self) -> Recipe:
        """The training of the watermarked model."""
        return self.recipe.scaled(epochs=self.epochs_factor, batch_size=self.batch_size_factor)

    @property
    def epochs(self) -> int:
        return self.marking_recipe.epochs

    def scale_epochs(self, factor: float) -> Self:
        return replace(self, epochs_factor=factor * self.epochs / self.recipe.epochs)


class Unmarked(Watermark):
    """Leave the victim as it is: the baseline, with no mark, no key and nothing to claim.

    Example:
        >>> Unmarked().embed("a model", ("its", "data"), None)
        ('a model', None)
    """

    def embed(self, victim: nn.Module, data: Samples, fit: Fit) -> tuple[nn.Module, None]:
        return victim, None

    def draw(self, like: Samples, classes: int, entropy: Callable[[int], bytes]) -> None:
        return None

    def load_key(self, path: Path) -> None:
        return None
