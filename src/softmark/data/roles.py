"""Who holds what: the samples of a source, split into owner, attacker and judge.

Torch is imported where the roles are made and not before: config tools stay quick.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
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
    """Labelled samples, held in memory.

    Args:
        inputs: (N, ...); pictures are uint8 (N, C, H, W), where C is 1 or 3.
        labels: int64 (N,).

    Example:
        >>> samples = Samples(torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2]))
        >>> len(samples[:2]), samples[1:].labels
        (2, tensor([1, 2]))
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: torch.Tensor | slice) -> Samples:
        return Samples(self.inputs[index], self.labels[index])

    def draw(self, index: torch.Tensor) -> torch.Tensor:
        """Return the inputs of the samples ``index`` (n,), (n, ...), for a step of a training."""
        return self.inputs[index]

    def to(self, device: torch.device | str) -> Samples:
        """Return the samples on ``device``."""
        return Samples(self.inputs.to(device), self.labels.to(device))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the hex SHA-256 of shapes and bytes; the same on every device."""
        return digest(self.inputs.cpu().numpy(), self.labels.cpu().numpy())


def concatenate(sets: Sequence[Samples]) -> Samples:
    """Return the samples of all ``sets``, in their order."""
    import torch

    return Samples(torch.cat([s.inputs for s in sets]), torch.cat([s.labels for s in sets]))


@dataclass(frozen=True)
class Shares:
    """How the samples are shared out: the numbers of ``data.roles``. No experiment's seed counts.

    Args:
        owner: the fraction of the training samples that the owner holds; the attacker has the
            others.
        judge: the fraction of all samples that the judge holds, read only where there is no test
            split.
        split_seed: decides who gets which sample.
        limit: at most so many training samples, owner's and attacker's together; None: all.
        judge_limit: at most so many samples of the judge; None: all.
        tuning: share out the owner's part alone, of which the judge gets a fifth: settings are then
            chosen on samples that neither attacker nor judge of a reported figure holds.

    Raises:
        InputError: a number can't be used.

    Example:
        >>> shares = Shares(0.5, 0.2, split_seed=0, limit=None, judge_limit=None, tuning=False)
    """

    owner: float
    judge: float
    split_seed: int
    limit: int | None
    judge_limit: int | None
    tuning: bool

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("owner", "judge"):
                good, needed = type(value) is float and 0 < value < 1, "a fraction between 0 and 1"
            elif name == "tuning":
                good, needed = type(value) is bool, "true or false"
            elif name == "split_seed":
                good, needed = type(value) is int and value >= 0, "an integer from 0 on"
            else:
                good = value is None or (type(value) is int and value > 0)
                needed = "null or an integer from 1 on"
            if not good:
                raise InputError(f"data.roles.{name}={value}: {needed} is needed")


@dataclass(frozen=True, eq=False)
class Roles:
    """Who holds what: three disjoint sets of samples.

    Args:
        owner: trains the victim and the watermarked model.
        attacker: what the attacker holds.
        judge: accuracies are measured, and suspects asked, on these.
        classes: the names of the classes.
        content: the fingerprint of all that the source holds.
        num_copies: pictures that are left out, since another party holds the same.
    """

    owner: Samples
    attacker: Samples
    judge: Samples
    classes: tuple[str, ...]
    content: str
    num_copies: int

    @property
    def training(self) -> Samples:
        """Return the owner's and the attacker's together: all that isn't the judge's."""
        return concatenate([self.owner, self.attacker])

    def probes(self, kind: str, count: int, chosen: torch.Tensor | None = None) -> Samples:
        """Return inputs on which a suspect is asked; no key decides about them.

        Args:
            kind: ``samples``, the judge's first; ``sure``, the judge's at the places ``chosen``,
                where the unmarked victim is most confident; ``blends``, each the mean of one of the
                first and its neighbour; ``noise``, independent uniform pixels.
            count: how many.
            chosen: places among the judge's samples, int64 (count,), for ``sure``.

        Raises:
            InputError: there is no such kind, or there are too few samples.
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
    """Share ``decoded`` out to owner, attacker and judge, each class in the same proportion.

    Of a picture that several would hold, the judge keeps its copies, else the owner.

    Args:
        decoded: what a source holds.
        shares: who gets which part.

    Raises:
        InputError: a role would hold fewer than two samples of a class.

    Example:
        >>> labels = np.arange(40) % 2
        >>> images = np.random.default_rng(0).integers(256, size=(40, 1, 8, 8), dtype=np.uint8)
        >>> decoded = Decoded(images, labels, ("a", "b"), train=40)
        >>> roles = share(decoded, Shares(0.5, 0.2, 0, None, None, False))
        >>> len(roles.owner), len(roles.attacker), len(roles.judge)
        (16, 16, 8)
    """
    all_places = np.arange(len(decoded.labels))
    train, judge = all_places[: decoded.train], all_places[decoded.train :]

    def shuffled(index: np.ndarray, salt: int) -> np.ndarray:
        """Return ``index`` in an order that the split's seed and ``salt`` decide."""
        return index[_stratified(decoded.labels[index], shares.split_seed, salt)]

    if len(judge) == 0:
        mixed, count = shuffled(all_places, 0), round(shares.judge * len(all_places))
        judge, train = mixed[:count], mixed[count:]
    judge = shuffled(judge, 1)[: shares.judge_limit]
    train = shuffled(train, 2)
    total = min(shares.limit or len(train), len(train))
    count = round(shares.owner * total)
    # From both ends: a limit moves nothing from the owner's part to the attacker's.
    train = np.concatenate([train[:count], train[len(train) - (total - count) :]])
    if shares.tuning:
        judge, train = np.split(shuffled(train[:count], 4), [count // 5])
        count = round(shares.owner * len(train))
    # The judge first: a test split stays as it was published.
    held = {"judge": judge, "owner": train[:count], "attacker": train[count:]}
    num_shared = sum(map(len, held.values()))
    held = dict(zip(held, without_copies(decoded.images, *held.values()), strict=True))
    num_copies = num_shared - sum(map(len, held.values()))
    for role in ("owner", "attacker", "judge"):
        counts = np.bincount(decoded.labels[held[role]], minlength=len(decoded.classes))
        if counts.min() < 2:
            copies = f" ({num_copies} copies of others' pictures aside)" if num_copies else ""
            raise InputError(
                f"the {role} would hold {counts.min()} samples of class "
                f"{decoded.classes[counts.argmin()]!r} and needs 2 at least{copies}\n"
                "other fractions and limits in data.roles, or more data, would help"
            )
    import torch

    samples = {
        role: Samples(
            torch.from_numpy(decoded.images[index]), torch.from_numpy(decoded.labels[index])
        )
        for role, index in held.items()
    }
    return Roles(
        **samples, classes=decoded.classes, content=decoded.fingerprint, num_copies=num_copies
    )


def without_copies(images: np.ndarray, *parties: np.ndarray) -> list[np.ndarray]:
    """Return the places of each party without those whose picture a party before holds as well.

    Args:
        images: (N, ...).
        parties: places among ``images``, int64 (n,) each.

    Example:
        >>> images = np.array([[5], [6], [5], [5]])
        >>> without_copies(images, np.array([0, 2]), np.array([1, 3]))
        [array([0, 2]), array([1])]
    """
    seen: set[bytes] = set()
    kept = []
    for places in parties:
        pictures = [hashlib.sha256(images[place].tobytes()).digest() for place in places]
        kept.append(places[[picture not in seen for picture in pictures]])
        seen.update(pictures)
    return kept


def halves(samples: Samples, seed: int) -> tuple[Samples, Samples]:
    """Return two disjoint halves of ``samples``, drawn at random, each class in proportion.

    The second goes without what the first has a copy of.
    """
    import torch

    order = _stratified(samples.labels.cpu().numpy(), seed, 3)
    middle = len(samples) // 2
    parts = without_copies(samples.inputs.cpu().numpy(), order[:middle], order[middle:])
    first, second = (torch.from_numpy(part).to(samples.labels.device) for part in parts)
    return samples[first], samples[second]


def name_of(data: Mapping[str, Any]) -> str:
    """Return what records call the data of the config node ``data``: its name, else its folder's.

    Raises:
        InputError: it has neither.
    """
    if not (data["name"] or data.get("path")):
        raise InputError(
            "data.name and data.path are both null: set data.path=DIR or data.name=NAME"
        )
    return str(data["name"] or Path(data["path"]).expanduser().resolve().name)


def _stratified(labels: np.ndarray, seed: int, salt: int) -> np.ndarray:
    """Return an order of ``labels`` (N,), every beginning of which has each class in proportion.

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
