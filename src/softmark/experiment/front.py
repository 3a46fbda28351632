"""What stands between a model and whoever asks it, and the files of a stage that say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.models.access import Answer, Query, answers_of, log_of_queries
from softmark.models.files import read_tensors
from softmark.nodes import make
from softmark.store.address import Stage
from softmark.store.store import Store

MODEL = "model.safetensors"
KEY = "key.safetensors"
LOG = "log.safetensors"
FRONT = "front.safetensors"


@dataclass(frozen=True)
class Front:
    """What stands before a model: the owner's interface, or what each step of an attack adds.

    ``method``, ``key``: of a watermarked model. ``steps``: the attacks a model went through.
    """

    method: Any = None
    key: Key | None = None
    steps: tuple[Any, ...] = ()

    @classmethod
    def of(cls, stage: Stage, store: Store) -> Front:
        if stage.role == "watermarked":
            method = make(stage.config["method"], "method")
            return cls(method, load_key(store.folder(stage) / KEY, method))
        steps: list[Any] = []
        while "attack" in stage.config:
            steps.insert(0, make(stage.config["attack"], "attack"))
            if steps[0].front is not None:
                tensors, _ = read_tensors(store.folder(stage) / FRONT)
                steps[0].front.load_state_dict(tensors)
            stage = stage.parents[0]
        return cls(steps=tuple(steps))

    @property
    def logs(self) -> bool:
        """Whether the owner keeps what the model was asked."""
        return self.key is not None and self.method.uses_query_log

    def answer(self, network: nn.Module) -> Answer:
        return served(answers_of(network), self.method, self.key, self.steps)


def served(answer: Answer, method: Any, key: Key | None, steps: Iterable[Any]) -> Answer:
    """``answer`` behind the owner's interface, or behind what each step of an attack adds."""
    if key is not None:
        answer = method.serve(answer, key)
    for step in steps:
        answer = step.serve(answer)
    return answer


def load_key(path: Path, method: Any) -> Key | None:
    """The key in ``path``; None where there is none."""
    return method.load_key(path) if path.exists() else None


def save_log(targets: list[Any], path: Path) -> None:
    """Keeps what the owner's interface was asked, where the method wants it."""
    logs = [log_of_queries(target) for target in targets if isinstance(target, Query)]
    if logs and logs[0] is not None:
        save_file({"images": logs[0].inputs, "labels": logs[0].labels}, path)


def load_log(path: Path) -> Samples | None:
    if not path.exists():
        return None
    tensors, _ = read_tensors(path)
    return Samples(tensors["images"], tensors["labels"])
