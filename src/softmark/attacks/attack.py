"""The contract of an attack. A new one is one class file here and one YAML in conf/attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from softmark.data.roles import Samples
from softmark.models.access import Access, Answer
from softmark.training import Fit


@dataclass(frozen=True)
class Stolen:
    """What the attacker holds afterwards.

    ``queries``: how many inputs were asked for it. ``key``: one of the attacker's own
    (``methods.key.Key``), with which they claim the model; None for most. ``note``: what the
    attacker found out and a reader of the record wants to know, such as the settings of a search.
    """

    network: nn.Module
    queries: int = 0
    key: Any = None
    note: str = ""


class Attack:
    """An attacker with data of their own, who never sees the owner's data, key or secret.

    ``access``: what of the target they need. ``knows``: whether they know the method, of which
    they then get a fresh instance by config. ``innocent``: the suspect doesn't derive from the
    target, so that a claim on it is a false one. ``front``: a module that ``serve`` uses and that
    ``apply`` may train; what it has learnt is kept with the suspect.

        class Noise(Attack):
            access = "weights"
            def __init__(self, sd):
                self.sd = sd
            def apply(self, target, data, fit):
                for weight in target.parameters():
                    weight.data += self.sd * torch.randn_like(weight)
                return Stolen(target)
    """

    access: ClassVar[Access]
    knows: ClassVar[Literal["nothing", "method"]] = "nothing"
    innocent: ClassVar[bool] = False
    front: nn.Module | None = None

    def apply(self, target: Any, data: Samples, fit: Fit) -> Stolen:
        """``target``: a network of the attacker's own to change (weights), or else a ``Query``.

        A list of them where the attack's config says ``merges: true``. ``data``: the attacker's.
        """
        raise NotImplementedError

    def serve(self, answer: Answer) -> Answer:
        """What the attacker puts before the model that is accused; nothing, unless overridden."""
        return answer


class Keep(Attack):
    """No attack: the suspect is the model as it was stolen."""

    access = "weights"

    def apply(self, target: nn.Module, data: Samples, fit: Fit) -> Stolen:
        return Stolen(target)
