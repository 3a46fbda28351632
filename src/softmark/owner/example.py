"""A small marked model with its key, its probes and a stolen student: to try things at once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from softmark.data.roles import Shares, share
from softmark.data.sources import Digits
from softmark.errors import InputError
from softmark.models.files import load_network
from softmark.nodes import short
from softmark.owner.folder import check_new, load
from softmark.owner.key import Key

EXAMPLES = Path(__file__).parents[1] / "examples"
METHODS = ("csp", "usp")
STUDENT, UNMARKED = "student.safetensors", "unmarked.safetensors"


@dataclass(frozen=True)
class Example:
    """What ``softmark.example`` returns. The key is public: it proves nothing about other models.

    Args:
        model: marked; of handwritten digits, uint8 pictures (N, 1, 8, 8) as floats from 0 to 1.
        unmarked: the same before it was marked.
        student: stolen: another network that learnt the answers of ``model``.
        key: of the mark.
        probes: what a suspect is asked, uint8 (N, 1, 8, 8).
        folder: the owner's folder, as ``softmark.save`` writes it.
    """

    model: nn.Module
    unmarked: nn.Module
    student: nn.Module
    key: Key = field(repr=False)
    probes: Tensor = field(repr=False)
    folder: Path

    @property
    def data(self) -> tuple[Tensor, Tensor]:
        """What a thief has: pictures, uint8 (N, 1, 8, 8), and their labels, int64 (N,)."""
        return roles("attacker")


def example(method: str = "csp") -> Example:
    """Return a small marked model with its key, its probes and a stolen student.

    Args:
        method: csp or usp.

    Raises:
        InputError: there is no such example.

    Example:
        >>> example = softmark.example("csp")
        >>> softmark.verify(example.student, example.key, example.probes).claimed
        True
        >>> softmark.verify(example.unmarked, example.key, example.probes).claimed
        False
    """
    folder = _folder_of(method)
    key, probes = load(folder)
    model = load_network(folder / "model.safetensors")
    student = load_network(folder / STUDENT)
    return Example(model, load_network(EXAMPLES / UNMARKED), student, key, probes, folder)


def write_example(method: str, to: Path) -> list[Path]:
    """Copy the files of ``example(method)`` into the new folder ``to``; return their paths."""
    source = _folder_of(method)
    check_new(to)
    try:
        to.mkdir(parents=True, exist_ok=True)
        for path in (*sorted(source.iterdir()), EXAMPLES / UNMARKED):
            shutil.copyfile(path, to / path.name)
    except OSError as error:
        raise InputError(f"--to={to}: it can't be written ({error.strerror})") from error
    return sorted(to.iterdir())


def _folder_of(method: str) -> Path:
    if method not in METHODS:
        raise InputError(f"{short(method)}: there is an example of {' and of '.join(METHODS)}")
    return EXAMPLES / method


def roles(name: Literal["owner", "attacker", "judge"]) -> tuple[Tensor, Tensor]:
    """Return the pictures and labels of one party of the example."""
    shares = Shares(0.5, 0.3333, split_seed=0, limit=None, judge_limit=None, tuning=False)
    samples = getattr(share(Digits().read(), shares), name)
    return samples.inputs, samples.labels
