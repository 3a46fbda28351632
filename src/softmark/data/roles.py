"""Who holds what: the samples of a source, split into owner, attacker and judge.

Torch is imported where the roles are made and not before: config tools stay quick.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from softmark.data.pictures import digest
from softmark.data.sources import Decoded
from softmark.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Samples:
    """``inputs`` (N, ...): pictures are uint8 (N, C, H, W), C is 1 or 3; ``labels``: int64 (N,)."""

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor | slice) -> Samples:
        return Samples(self.inputs[index], self.labels[index])

    def to(self, device: torch.device | str) -> Samples:
        return Samples(self.inputs.to(device), self.labels.to(device))

    @functools.cached_property
    def fingerprint(self) -> str:
        """The hex SHA-256 of shapes and bytes; the same on every device."""
        return digest(self.inputs.cpu().numpy(), self.labels.cpu().numpy())


@dataclass(frozen=True)
class Shares:
    """How the samples are shared out; ``Shares(**cfg.data.roles)``. No experiment seed comes in.

    ``owner``: the part of the training samples that the owner holds, the attacker has the rest.
    ``judge``: the part of everything that is the judge's; only read where there is no test split.
    ``split_seed``: says who gets which sample. ``limit``, ``judge_limit``: at most so many training
    samples (owner and attacker together) and judge's samples; None for all of them. ``tuning``: all
    three roles are found inside the owner's part, so that settings are chosen on samples that
    neither the attacker nor the judge of a reported figure holds; a fifth of it goes to the judge.
    """

    owner: float
    judge: float
    split_seed: int
    limit: int | None
    judge_limit: int | None
    tuning: bool

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if key in ("owner", "judge"):
                good, wanted = type(value) is float and 0 < value < 1, "a fraction between 0 and 1"
            elif key == "tuning":
                good, wanted = type(value) is bool, "true or false"
            elif key == "split_seed":
                good, wanted = type(value) is int and value >= 0, "an integer from 0 on"
            else:
                good = value is None or (type(value) is int and value > 0)
                wanted = "null or an integer from 1 on"
            if not good:
                raise InputError(f"data.roles.{key}={value}: {wanted} is needed")


@dataclass(frozen=True, eq=False)
class Roles:
    """Who holds what: three disjoint sets."""

    owner: Samples
    attacker: Samples
    judge: Samples
    classes: tuple[str, ...]

    @property
    def training(self) -> Samples:
        """The owner's and the attacker's together: all that isn't the judge's."""
        import torch

        held = (self.owner, self.attacker)
        return Samples(
            torch.cat([each.inputs for each in held]), torch.cat([each.labels for each in held])
        )

    def probes(self, kind: str, count: int, chosen: torch.Tensor | None = None) -> Samples:
        """``count`` inputs on which a suspect is asked; no key decides about them.

        ``samples``: the judge's first. ``sure``: the judge's at the places ``chosen``, of which
        the unmarked victim is surest. ``blends``: each the mean of one of the first and its
        neighbour. ``noise``: independent uniform pixels.

        Raises ``InputError`` for another kind, or too many.
        """
        if kind not in ("samples", "sure", "blends", "noise"):
            raise InputError(f"verifier.inputs={kind}: samples, sure, blends or noise")
        if count > len(self.judge):
            raise InputError(f"verifier.probes={count}: the judge has {len(self.judge)} samples")
        if kind == "sure":
            return self.judge[chosen]
        first = self.judge[:count]
        if kind == "samples":
            return first
        import torch

        if kind == "blends":
            mean = (first.inputs.int() + first.inputs.roll(1, 0).int()) // 2
            return Samples(mean.to(torch.uint8), first.labels)
        raw = np.random.PCG64(0).random_raw(-(-first.inputs.numel() // 8)).tobytes()
        noise = np.frombuffer(raw, np.uint8)[: first.inputs.numel()].reshape(first.inputs.shape)
        return Samples(torch.from_numpy(noise.copy()), first.labels)


def share(decoded: Decoded, shares: Shares) -> Roles:
    """Owner, attacker and judge out of ``decoded``; each class in the same proportion everywhere.

    Raises ``InputError`` where a role would hold fewer than two samples of a class.
    """
    everything = np.arange(len(decoded.labels))
    train, judge = everything[: decoded.train], everything[decoded.train :]

    def shuffled(index: np.ndarray, salt: int) -> np.ndarray:
        return index[_stratified(decoded.labels[index], shares.split_seed, salt)]

    if len(judge) == 0:
        mixed, count = shuffled(everything, 0), round(shares.judge * len(everything))
        judge, train = mixed[:count], mixed[count:]
    judge = shuffled(judge, 1)[: shares.judge_limit]
    train = shuffled(train, 2)
    kept = min(shares.limit or len(train), len(train))
    count = round(shares.owner * kept)
    # From both ends: a limit moves nothing from the owner's part to the attacker's.
    train = np.concatenate([train[:count], train[len(train) - (kept - count) :]])
    if shares.tuning:
        judge, train = np.split(shuffled(train[:count], 4), [count // 5])
        count = round(shares.owner * len(train))
    held = {"owner": train[:count], "attacker": train[count:], "judge": judge}
    for role, index in held.items():
        counts = np.bincount(decoded.labels[index], minlength=len(decoded.classes))
        if counts.min() < 2:
            raise InputError(
                f"the {role} would hold {counts.min()} samples of class "
                f"{decoded.classes[counts.argmin()]!r} and needs 2 at least\n"
                "other fractions and limits in data.roles, or more data, would help"
            )
    import torch

    samples = {
        role: Samples(
            torch.from_numpy(decoded.images[index]), torch.from_numpy(decoded.labels[index])
        )
        for role, index in held.items()
    }
    return Roles(**samples, classes=decoded.classes)


def halves(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Two disjoint halves of ``samples``, drawn at random, each class in proportion."""
    import torch

    order = _stratified(samples.labels.cpu().numpy(), seed, 3)
    index = torch.from_numpy(order).to(samples.labels.device)
    middle = len(samples) // 2
    return samples[index[:middle]], samples[index[middle:]]


def name_of(data: Mapping[str, Any]) -> str:
    """What records call the data of this ``cfg.data``: its name, else the folder's."""
    if not (data["name"] or data.get("path")):
        raise InputError(
            "data.name and data.path are both null: set data.path=DIR or data.name=NAME"
        )
    return str(data["name"] or Path(data["path"]).expanduser().resolve().name)


def _stratified(labels: np.ndarray, seed: int, salt: int) -> np.ndarray:
    """A random order of ``labels`` (N,) of which every beginning holds each class in proportion.

    The r-th of the n samples of a class lies anywhere in [r/n, (r+1)/n): up to any point q the
    class has q*n samples, rounded up or down.
    """
    # The raw stream never changes (NEP 19); numpy may change what Generator makes of it.
    stream = np.random.PCG64([seed, salt])
    order = np.argsort(stream.random_raw(len(labels)), kind="stable")
    place = stream.random_raw(len(labels)) / 2.0**64
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (place[members] + np.arange(len(members))) / len(members)
    return np.argsort(place, kind="stable")
