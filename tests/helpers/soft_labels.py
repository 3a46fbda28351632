"""Methods that mark soft labels, of small numbers; their keys, and answers for them."""

import functools
from random import Random

import torch

from helpers.training import recipe
from softmark.data.roles import Samples
from softmark.methods.csp import CSP, paired, sign_matrix
from softmark.methods.key import Key
from softmark.methods.parts.detector import Detector
from softmark.methods.parts.loss import Marking
from softmark.methods.parts.soft_labels import pairs
from softmark.methods.usp import USP, USPMarking
from softmark.tails import compute_victim_stats


def key_of(secret: bytes, message: bytes, salt: bytes, classes: int) -> Key:
    parts = (torch.tensor(list(part), dtype=torch.uint8) for part in (secret, salt, message))
    return Key(*parts, classes)


def signs_of(classes: int, secret: bytes = b"s", message: bytes = b"m", salt: bytes = b"t"):
    key = key_of(secret, message, salt, classes)
    return sign_matrix(key.owner_part().stream(classes**2), key.stream(classes**2), classes)


def believe(monkeypatch, method: type, pattern_of) -> None:
    """Make ``method`` read (method, key) -> pattern (K, K) in place of what follows from a key."""
    monkeypatch.setattr(method, "pattern", pattern_of)
    if issubclass(method, CSP):
        monkeypatch.setattr(
            method,
            "signs",
            lambda self, key: paired(pattern_of(self, key), pairs(key.classes)).sign(),
        )


def answers(count: int, classes: int, seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(count, classes, generator=torch.manual_seed(seed))).softmax(1)


def soft(kind, message="customer", hidden=(8,), **changed):
    """A method of small numbers."""
    detector = functools.partial(
        Detector,
        hidden=hidden,
        epochs=1,
        batch_size=32,
        lr=1e-3,
        weight_decay=0.0,
        temperature_jitter=0.3,
        noise=0.2,
    )
    settings = {
        "epochs_factor": 1.0,
        "batch_size_factor": 1.0,
        "marking": (USPMarking if kind is USP else Marking)(eps=0.1, gamma=1.0),
        "detector": detector,
        "simulated_attacks": {},
    }
    return kind(message=message, recipe=recipe(), **{**settings, **changed})


def drawn(kind, classes: int = 10, seed: int = 0, message: str = "customer") -> Key:
    return soft(kind, message).draw(None, classes, Random(seed).randbytes)


def told(kind, key: Key, usual: torch.Tensor | None) -> Key:
    """``key`` where the unmarked model gives the answers ``usual``; None where nobody has one."""
    shown = None if usual is None else compute_victim_stats(usual)
    other = Key(key.secret, key.salt, key.message, key.classes, shown)
    soft(kind).build_modules(other)
    return other


def exact(kind, p: torch.Tensor, key, labels: torch.Tensor | None = None, part="all"):
    """The exact test of a ``soft`` method; ``labels``: None where nobody knows them."""
    unknown = torch.full((len(p),), -1)
    return soft(kind).exact(p, unknown if labels is None else labels, key, part)


def skewed(count: int, classes: int, seed: int) -> torch.Tensor:
    """Unmarked answers: some classes far likelier, each with habits of its own in its tail."""
    alike = 2 * torch.randn(classes, classes, generator=torch.manual_seed(classes))
    random = torch.manual_seed(seed)
    often = 0.5 ** torch.arange(classes) + 0.03
    top = torch.multinomial(often, count, replacement=True, generator=random)
    logits = alike[top] + torch.randn(count, classes, generator=random)
    return logits.scatter(1, top[:, None], 7.0).softmax(1)


def marked_for(kind, message: str, classes: int = 10, noise: float = 1.0, usual=None):
    """A key, probes, and answers whose tails lean towards the pattern of ``message``."""
    key = told(kind, drawn(kind, classes), usual)
    torch.manual_seed(0)
    pattern = soft(kind).pattern(key.for_message(message))
    top = torch.randint(classes, (300,))
    logits = pattern[top] + noise * torch.randn(300, classes)
    p = logits.scatter(1, top[:, None], 8.0).softmax(1)
    probes = Samples(torch.zeros(300, 1, 8, 8, dtype=torch.uint8), top)
    return key, probes, p
