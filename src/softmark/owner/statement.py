"""What an owner commits to: all that a pattern must follow from, and nothing secret.

docs/FORMAT.md says every byte. A statement may come from an enemy: it is data, of which each value
is checked by type and range.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from softmark.errors import InputError
from softmark.methods.soft_labels import check_marking
from softmark.nodes import fits

FORMAT = "softmark statement 1"
METHODS = ("csp", "usp", "csp_margin", "usp_margin")
# The numbers of the marking that a loss of one's own needs.
NUMBERS = ("eps", "gamma", "beta", "margin", "feature_weight", "feature_cosine")
TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32")
# What a claim must reach where nobody but the owner drew the secret: 10^12 tries cost 10^11
# seconds of one core. Where a beacon drew after the commitment, as in an experiment.
LEVEL, LEVEL_WITH_BEACON = 1e-12, 1e-6
MOST_CUSTOMERS = 10_000  # each costs whoever verifies a tenth of a second or two
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Probes:
    """``count`` inputs of ``shape`` and of numpy's ``type``; ``sha256``: of all their bytes."""

    count: int
    sha256: str
    shape: tuple[int, ...]
    type: str

    @classmethod
    def of(cls, inputs: Tensor) -> Probes:
        """Describe ``inputs`` (N, ...). Raises ``InputError`` for a type without fixed bytes."""
        array = inputs.cpu().numpy()
        if array.dtype.name not in TYPES:
            raise InputError(f"probes of type {array.dtype}: {', '.join(TYPES)} can be bound")
        head = canonical([array.dtype.name, list(array.shape)])
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        return cls(
            len(array),
            hashlib.sha256(head + content).hexdigest(),
            array.shape[1:],
            array.dtype.name,
        )


@dataclass(frozen=True)
class Round:
    """A round of a drand chain: it comes at ``genesis + (round - 1) * period``, in s since 1970."""

    chain: str
    genesis: int
    period: int
    round: int

    @property
    def time(self) -> int:
        return self.genesis + (self.round - 1) * self.period


@dataclass(frozen=True)
class Statement:
    """``labels``, ``victim``: hashes of what the key holds, or None. ``triggers``: how many.

    ``seals``: the hash of each customer's seed, in their order. ``level``: a stricter one than
    softmark's own, or None. ``beacon``: the round that draws along, or None.
    """

    method: str
    numbers: Mapping[str, float]
    classes: int
    probes: Probes
    labels: str | None
    victim: str | None
    triggers: int
    seals: tuple[str, ...]
    level: float | None
    beacon: Round | None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method={short(self.method)}: {', '.join(METHODS)} are known")
        least, most = (1, 100_000) if self.has_triggers else (0, 0)
        _whole("triggers", self.triggers, least, most)
        _whole("classes", self.classes, 5, 100_000)
        numbers = self.numbers
        if not isinstance(numbers, Mapping) or sorted(numbers) != sorted(NUMBERS):
            raise InputError(f"numbers={short(numbers)}: {', '.join(NUMBERS)} are needed")
        for name, value in numbers.items():
            if type(value) is not float or not fits(value, float):
                raise InputError(f"numbers.{name}={short(value)}: a finite number is needed")
        check_marking(numbers)
        probes = self.probes
        _whole("probes.count", probes.count, 1, 10**9)
        for size in probes.shape:
            _whole("probes.shape", size, 1, 10**6)
        if len(probes.shape) > 8 or probes.type not in TYPES:
            raise InputError(f"probes of type {short(probes.type)} and {len(probes.shape)} axes")
        hashes = [probes.sha256, *self.seals, *filter(None, (self.labels, self.victim))]
        if wrong := [
            each for each in hashes if not isinstance(each, str) or not HEX.fullmatch(each)
        ]:
            raise InputError(f"{short(wrong[0])}: a SHA-256 of 64 hex digits is needed")
        customers = 1 if self.has_triggers else MOST_CUSTOMERS
        if not 1 <= len(self.seals) <= customers or len(set(self.seals)) < len(self.seals):
            raise InputError(
                f"{len(self.seals)} seals of {len(set(self.seals))} customers: 1 to {customers}, "
                "each once"
            )
        if self.beacon is not None:
            if not isinstance(self.beacon.chain, str) or not HEX.fullmatch(self.beacon.chain):
                raise InputError(f"beacon.chain={short(self.beacon.chain)}: 64 hex digits")
            for name, most in (("genesis", 10**11), ("period", 10**7), ("round", 10**12)):
                _whole(f"beacon.{name}", getattr(self.beacon, name), 1, most)
        check_level(self.level, LEVEL_WITH_BEACON if self.beacon else LEVEL)

    @property
    def has_triggers(self) -> bool:
        return self.method.endswith("_margin")

    @property
    def kind(self) -> str:
        """``csp`` or ``usp``: what marks the answers to the probes."""
        return self.method.removesuffix("_margin")

    @functools.cached_property
    def commitment(self) -> str:
        """The SHA-256 that is published before any dispute: 64 hex digits."""
        return hashlib.sha256(canonical(self.as_dict())).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: what is hashed."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def read(cls, made: Any) -> Statement:
        """The statement of a parsed JSON. Raises ``InputError`` for anything else."""
        if not isinstance(made, dict) or made.get("format") != FORMAT:
            raise InputError(f"a statement of the format {FORMAT!r} is needed")
        rest = {name: value for name, value in made.items() if name != "format"}
        probes = _part(rest.get("probes"), Probes, "probes")
        if not isinstance(probes.shape, list) or not isinstance(rest.get("seals"), list):
            raise InputError("probes.shape and seals must be lists")
        beacon = rest.get("beacon")
        parts = {
            "probes": Probes(probes.count, probes.sha256, tuple(probes.shape), probes.type),
            "seals": tuple(rest["seals"]),
            "beacon": None if beacon is None else _part(beacon, Round, "beacon"),
        }
        return _part({**rest, **parts}, cls, "statement")


def check_level(level: Any, own: float) -> None:
    """Raises ``InputError`` for a level that is weaker than softmark's ``own``, or none at all."""
    if level is None:
        return
    if type(level) is not float or not 0 < level <= own:
        raise InputError(
            f"level={short(level)}: softmark's own is {own:g}, and a key can only be stricter"
        )


def canonical(made: Any) -> bytes:
    """``made`` as JSON in its one form: sorted keys, no spaces, ASCII."""
    return json.dumps(made, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(numbers: Tensor | None, kind: str) -> str | None:
    """SHA-256 of ``numbers`` as numpy's ``kind``, little-endian; None for None."""
    if numbers is None:
        return None
    return hashlib.sha256(numbers.cpu().numpy().astype(kind).tobytes()).hexdigest()


def short(value: Any) -> str:
    """``value`` on one line of a message."""
    return " ".join(repr(value)[:80].split())


def _part(made: Any, kind: type, name: str) -> Any:
    """The dataclass ``kind`` of just the keys of ``made``."""
    wanted: Sequence[str] = list(kind.__dataclass_fields__)
    if not isinstance(made, dict) or sorted(map(str, made)) != sorted(wanted):
        raise InputError(f"{name}: just {', '.join(wanted)} are needed")
    return kind(**made)


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name}={short(value)}: a whole number from {least} to {most} is needed")
