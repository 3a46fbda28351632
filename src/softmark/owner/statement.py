"""What an owner commits to: all that a pattern must follow from, and nothing secret.

docs/FORMAT.md describes every byte. A statement may come from an enemy: it is data, of which each
value is checked by type and range.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from softmark.errors import InputError
from softmark.methods.parts.loss import Marking
from softmark.nodes import fits

FORMAT = "softmark statement 2"
METHODS = ("csp", "usp", "csp_margin", "usp_margin")
# The numbers of the marking that a loss of one's own needs.
NUMBERS = ("eps", "gamma", "beta", "margin", "feature_weight", "feature_cosine")
TYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32")
# What p must reach for a claim. LEVEL: where nobody but the owner drew the secret, since 10^12
# tries cost 10^11 seconds of one core. LEVEL_WITH_BEACON: where a beacon drew after the
# commitment; it is that of an experiment.
LEVEL, LEVEL_WITH_BEACON = 1e-12, 1e-6
MAX_CUSTOMERS = 10_000
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Probes:
    """Which inputs a suspect will be asked, triggers left out.

    Args:
        count: how many, N.
        sha256: hash of their type, their shape and all their bytes.
        shape: of one input.
        type: numpy's name of their type, one of ``TYPES``.

    Example:
        >>> probes = Probes.of(torch.zeros(3, 4))
        >>> probes.count, probes.shape, probes.type
        (3, (4,), 'float32')
    """

    count: int
    sha256: str
    shape: tuple[int, ...]
    type: str

    @classmethod
    def of(cls, inputs: Tensor) -> Probes:
        """Describe ``inputs`` (N, ...). Raise ``InputError`` for a type without fixed bytes."""
        array = inputs.cpu().numpy()
        if array.dtype.name not in TYPES:
            raise InputError(
                f"probes of type {array.dtype}: {', '.join(TYPES)} can be committed to"
            )
        header = canonical([array.dtype.name, list(array.shape)])
        content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        return cls(
            len(array),
            hashlib.sha256(header + content).hexdigest(),
            array.shape[1:],
            array.dtype.name,
        )


@dataclass(frozen=True)
class Round:
    """A round of a drand chain.

    Args:
        chain: the hash of the chain, 64 hex digits.
        genesis: when round 1 came, in seconds since 1970.
        period: seconds between two rounds.
        round: its number, from 1 on.

    Example:
        >>> Round("0" * 64, genesis=1000, period=3, round=2).time
        1003
    """

    chain: str
    genesis: int
    period: int
    round: int

    @property
    def time(self) -> int:
        """When the round comes, in seconds since 1970."""
        return self.genesis + (self.round - 1) * self.period


@dataclass(frozen=True)
class Statement:
    """All that an owner may choose, fixed before the pattern follows from it.

    Args:
        method: one of ``METHODS``.
        numbers: the numbers of the marking loss, by the names in ``NUMBERS``.
        classes: K of the marked model, at least 5.
        probes: what a suspect will be asked.
        labels: hash of the label of each probe, or None.
        victim: hash of what the unmarked model shows, or None.
        triggers: how many pictures the key draws; 0 without triggers.
        owner: the hash of the seed that all customers' patterns have in common.
        seals: the hash of each customer's seed, in their order.
        level: a p that a claim must reach, stricter than softmark's own; None for softmark's own.
        beacon: the round whose randomness goes into the pattern, or None.

    Raises:
        InputError: for a value of another type or outside of its range.

    Example:
        >>> statement = marked.key.statement
        >>> Statement.read(statement.as_dict()) == statement
        True
        >>> statement.commitment == marked.key.commitment
        True
    """

    method: str
    numbers: Mapping[str, float]
    classes: int
    probes: Probes
    labels: str | None
    victim: str | None
    triggers: int
    owner: str
    seals: tuple[str, ...]
    level: float | None
    beacon: Round | None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method={short(self.method)}: {', '.join(METHODS)} are known")
        least, most = (1, 100_000) if self.has_triggers else (0, 0)
        _check_integer("triggers", self.triggers, least, most)
        _check_integer("classes", self.classes, 5, 100_000)
        numbers = self.numbers
        if not isinstance(numbers, Mapping) or sorted(numbers) != sorted(NUMBERS):
            raise InputError(f"numbers={short(numbers)}: {', '.join(NUMBERS)} are needed")
        for name, value in numbers.items():
            if type(value) is not float or not fits(value, float):
                raise InputError(f"numbers.{name}={short(value)}: a finite number is needed")
        Marking(**numbers)  # raises InputError for a number outside of its range
        probes = self.probes
        _check_integer("probes.count", probes.count, 1, 10**9)
        for size in probes.shape:
            _check_integer("probes.shape", size, 1, 10**6)
        if len(probes.shape) > 8 or probes.type not in TYPES:
            raise InputError(f"probes of type {short(probes.type)} and {len(probes.shape)} axes")
        hashes = [probes.sha256, self.owner, *self.seals, *filter(None, (self.labels, self.victim))]
        if wrong := [
            value for value in hashes if not isinstance(value, str) or not SHA256.fullmatch(value)
        ]:
            raise InputError(f"{short(wrong[0])}: a SHA-256 of 64 hex digits is needed")
        most = 1 if self.has_triggers else MAX_CUSTOMERS
        if not 1 <= len(self.seals) <= most or len(set(self.seals)) < len(self.seals):
            raise InputError(
                f"{len(self.seals)} seals of {len(set(self.seals))} customers: 1 to {most} are "
                "possible, each once"
            )
        if self.beacon is not None:
            if not isinstance(self.beacon.chain, str) or not SHA256.fullmatch(self.beacon.chain):
                raise InputError(f"beacon.chain={short(self.beacon.chain)}: 64 hex digits")
            for name, most in (("genesis", 10**11), ("period", 10**7), ("round", 10**12)):
                _check_integer(f"beacon.{name}", getattr(self.beacon, name), 1, most)
        check_level(self.level, LEVEL_WITH_BEACON if self.beacon else LEVEL)

    @property
    def has_triggers(self) -> bool:
        """Whether the method has triggers besides the probes."""
        return self.method.endswith("_margin")

    @property
    def kind(self) -> str:
        """The method that marks the answers to the probes: ``csp`` or ``usp``."""
        return self.method.removesuffix("_margin")

    @property
    def input_bytes(self) -> int:
        """What probes and triggers take in memory."""
        shape, count = self.probes.shape, self.probes.count + self.triggers
        return count * math.prod(shape) * np.dtype(self.probes.type).itemsize

    @functools.cached_property
    def commitment(self) -> str:
        """The SHA-256 that is published before any dispute: 64 hex digits."""
        return hashlib.sha256(canonical(self.as_dict())).hexdigest()

    def as_dict(self) -> dict[str, Any]:
        """Return the statement as JSON has it: what is hashed."""
        return json.loads(json.dumps({"format": FORMAT, **asdict(self)}))

    @classmethod
    def read(cls, content: Any) -> Statement:
        """Return the statement in a parsed JSON. Raise ``InputError`` for anything else."""
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise InputError(f"a statement of the format {FORMAT!r} is needed")
        fields = {name: value for name, value in content.items() if name != "format"}
        probes = _dataclass_of(fields.get("probes"), Probes, "probes")
        if not isinstance(probes.shape, list) or not isinstance(fields.get("seals"), list):
            raise InputError("probes.shape and seals must be lists")
        beacon = fields.get("beacon")
        parsed = {
            "probes": Probes(probes.count, probes.sha256, tuple(probes.shape), probes.type),
            "seals": tuple(fields["seals"]),
            "beacon": None if beacon is None else _dataclass_of(beacon, Round, "beacon"),
        }
        return _dataclass_of({**fields, **parsed}, cls, "statement")


def check_level(level: Any, weakest: float) -> None:
    """Raise ``InputError`` for a level that isn't None and is weaker than ``weakest``."""
    if level is None:
        return
    if type(level) is not float or not 0 < level <= weakest:
        raise InputError(
            f"level={short(level)}: softmark's own is {weakest:g}, and a key can only be stricter"
        )


def canonical(content: Any) -> bytes:
    """Return JSON in its one form: sorted keys, no spaces, ASCII."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def hash_of(numbers: Tensor | None, dtype: str) -> str | None:
    """Return the SHA-256 of ``numbers`` as numpy's ``dtype``, little-endian; None for None."""
    if numbers is None:
        return None
    return hashlib.sha256(numbers.cpu().numpy().astype(dtype).tobytes()).hexdigest()


def short(value: Any) -> str:
    """Return ``value`` on one line of a message."""
    return " ".join(repr(value)[:80].split())


def _dataclass_of(values: Any, kind: type, name: str) -> Any:
    """Return the dataclass ``kind`` of ``values``, which must have just its fields."""
    fields: Sequence[str] = list(kind.__dataclass_fields__)
    if not isinstance(values, dict) or sorted(map(str, values)) != sorted(fields):
        raise InputError(f"{name}: {', '.join(fields)} are needed, and nothing else")
    return kind(**values)


def _check_integer(name: str, value: Any, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise InputError(f"{name}={short(value)}: a whole number from {least} to {most} is needed")
