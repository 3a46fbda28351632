"""What stands between a model and whoever asks it, and the files of a stage that say so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.methods.key import Key
from softmark.models.access import Answer, Query, Suspect, answers_of, log_of_queries
from softmark.models.files import below, read_tensors
from softmark.nodes import make
from softmark.store.address import Stage

MODEL = "model.safetensors"
KEY = "key.safetensors"
LOG = "log.safetensors"
TRANSFORMS = "transforms.safetensors"


@dataclass(frozen=True)
class ServingChain:
    """What stands before a model: the owner's interface, or what each step of an attack adds.

    Args:
        method: the watermark of a watermarked model; None for any other.
        key: its key.
        steps: the attacks that a stolen model went through, the first one first.
    """

    method: Any = None
    key: Key | None = None
    steps: tuple[Any, ...] = ()

    @staticmethod
    def nodes(stage: Stage) -> dict[str, Any]:
        """Return the config nodes that ``open`` needs for the model of ``stage``."""
        if stage.role == "watermarked":
            return {"method": stage.config["method"]}
        return {"attacks": stage.config.get("attacks", [])}

    @classmethod
    def open(cls, folder: Path, nodes: dict[str, Any]) -> ServingChain:
        """Return what stands before the model in ``folder``, whose stage has ``nodes``."""
        if "method" in nodes:
            method = make(nodes["method"], "method")
            return cls(method, load_key(folder / KEY, method))
        steps = tuple(make(node, "attack") for node in nodes["attacks"])
        transforms = _transforms(folder)
        for number, step in enumerate(steps):
            if step.transform is not None:
                step.transform.load_state_dict(below(f"{number}.", transforms))
        return cls(steps=steps)

    @property
    def keeps_log(self) -> bool:
        """Return whether the owner keeps what the model was asked."""
        return self.key is not None and self.method.uses_query_log

    def answer(self, network: nn.Module) -> Answer:
        """Return how ``network`` answers behind it."""
        return served(network, answers_of(network), self.method, self.key, self.steps)

    def suspect(self, network: nn.Module, log: Samples | None) -> Suspect:
        """Return ``network`` as the judge meets it: its logits where nothing stands before it."""
        plain = answers_of(network)
        answer = served(network, plain, self.method, self.key, self.steps)
        if answer is plain:
            return replace(Suspect.of(network), log=log)
        return Suspect(answer, network, log)


def served(
    network: nn.Module, answer: Answer, method: Any, key: Key | None, steps: Iterable[Any]
) -> Answer:
    """Return ``answer``, which asks ``network``, behind the owner's interface or attack steps."""
    if key is not None:
        answer = method.serve_network(network, answer, key)
    for step in steps:
        answer = step.serve(answer)
    return answer


def save_transforms(transform: nn.Module | None, before: Path, folder: Path, number: int) -> None:
    """Keep what an attack step has learnt to put before a model, and what those before it had.

    Args:
        transform: the module of this step; None for none.
        before: the folder of the model that the step was made on.
        folder: where the file goes.
        number: of the step, from 0 on.
    """
    tensors = _transforms(before)
    state = {} if transform is None else transform.state_dict()
    tensors |= {f"{number}.{name}": value.contiguous() for name, value in state.items()}
    if tensors:
        save_file(tensors, folder / TRANSFORMS)


def _transforms(folder: Path) -> dict[str, Tensor]:
    """Return what ``save_transforms`` wrote into ``folder``; nothing where it wrote nothing."""
    path = folder / TRANSFORMS
    return read_tensors(path)[0] if path.exists() else {}


def load_key(path: Path, method: Any) -> Key | None:
    """Return the key in ``path``; None where there is none."""
    return method.load_key(path) if path.exists() else None


def save_log(targets: list[Any], folder: Path) -> None:
    """Keep what the owner's interface was asked, where the method wants it."""
    logs = [log_of_queries(target) for target in targets if isinstance(target, Query)]
    if logs and logs[0] is not None:
        save_file({"images": logs[0].inputs, "labels": logs[0].labels}, folder / LOG)


def load_log(folder: Path) -> Samples | None:
    """Return what the model of ``folder`` was asked; None where nothing was kept."""
    if not (folder / LOG).exists():
        return None
    tensors, _ = read_tensors(folder / LOG)
    return Samples(tensors["images"], tensors["labels"])
