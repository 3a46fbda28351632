"""What one cell consists of: one method, one attack, one seed, as stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from softmark.errors import InputError
from softmark.nodes import short
from softmark.store.address import Stage

Config = dict[str, Any]
MAX_COPIES = 64  # that attackers hold together


def colluders_of(step: Config) -> list[str]:
    """Return the messages of the other customers whose models the attackers hold.

    Args:
        step: of an attack; its ``colluders`` are messages, or the number of copies that are held in
            all: that of the marked model, and those of accomplice, accomplice 2, ...

    Raises:
        InputError: for a number that can't be.
    """
    named = step.get("colluders")
    if named is None or isinstance(named, list):
        return named or []
    if type(named) is not int or not 2 <= named <= MAX_COPIES:
        raise InputError(
            f"attack.colluders={short(named)}: 2 to {MAX_COPIES} copies, or a list of messages"
        )
    return ["accomplice", *(f"accomplice {number}" for number in range(2, named))]


@dataclass(frozen=True)
class InnocentStage:
    """An independent model: its pool (calibration or evaluation), its kind, its stage."""

    pool: str
    kind: str
    stage: Stage


@dataclass(frozen=True)
class Plan:
    """The stages of one cell; ``verdict`` descends from all others.

    Args:
        config: the cell's, plain containers.
        victim: the unmarked model.
        control: the victim trained on without a mark; None where the method names none.
        watermarked: the victim with the mark.
        key: the committed key.
        certificate: how far weights may move before a claim can be lost; None where the method
            names none.
        links: the attack's steps in order, the last of which makes the suspect.
        innocents: the independent models of both pools.
        evidence: what the innocents show of the key.
        verdict: the judge's figures.
    """

    config: Config
    victim: Stage
    control: Stage | None
    watermarked: Stage
    key: Stage
    certificate: Stage | None
    links: tuple[Stage, ...]
    innocents: tuple[InnocentStage, ...]
    evidence: Stage
    verdict: Stage

    @property
    def suspect(self) -> Stage:
        """Return the stage of the model that is judged."""
        return self.links[-1]

    @property
    def record(self) -> Path:
        """Return where the record of this cell lies."""
        return Path(self.config["output_dir"]) / "records" / f"{self.verdict.address}.json"


def marking(method: Config) -> Config:
    """Return the node of a method without what decides nothing about its mark, at any depth."""
    return {
        name: marking(value) if isinstance(value, dict) else value
        for name, value in without(method, "control", "certificate").items()
    }


def without(node: Config, *names: str) -> Config:
    """Return ``node`` without what it has under ``names``."""
    return {name: value for name, value in node.items() if name not in names}


def steps_of(attack: Config) -> Iterator[Config]:
    """Yield the steps of an attack, each with its own name; a step may consist of steps."""
    if not attack.get("steps"):
        yield attack
        return
    for step in attack["steps"].values():
        yield from steps_of(step)
