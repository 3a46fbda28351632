"""Configs of cells, and records of cells that were never run."""

import functools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from helpers import ROOT
from softmark.experiment.record import Record
from softmark.experiment.run import describe
from softmark.sweep.compose import CellComposer

# Hydra takes .2 s for each config of a sketch; for all others, what it composed before is used.
SKETCHES = ROOT / "tests/sketches/conf"
SKETCHED = {path.stem for path in SKETCHES.rglob("*.yaml")}
COMPOSER = CellComposer()
STAGES = ("victim", "control", "watermarked", "suspect")
MADE_WITH = {
    "precision": "32-true",
    "threads": 1,
    "versions": {"softmark": "0.1.0", "torch": "2.13.0"},
    "commit": "abc1234",
    "machine": "2 cores of a test",
    "date": "2026-01-02T03:04:05+00:00",
}


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Return the config of ``overrides``, whose parts other configs share: don't change it."""
    lines = ["scale=smoke", "logger=none", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        if SKETCHED.isdisjoint(word for line in overrides for word in line.split("=")):
            return COMPOSER.compose(lines)
        searched = f"hydra.searchpath=[file://{SKETCHES}]"
        config = compose("config", [searched, *lines])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def described(made, overrides: list[str], **changes) -> dict:
    """The record of a cell that has run, without training it; ``changes``: other fields of it."""
    seed = made.config["seed"]
    record = {**describe(made, overrides), **MADE_WITH, **judged(seed), **changes}
    # A field that no record has would be a mistake here.
    return asdict(Record(**record))


def judged(seed: int) -> dict:
    """A verdict; the numbers depend on the seed, so that there is something to sort."""
    p_value = 1e-7 * (1 + seed)
    return {
        "victim_accuracy": 0.97,
        "control_accuracy": 0.965,
        "victim_disagreement": 0.02,
        "control_disagreement": 0.015,
        "watermarked_accuracy": 0.96,
        "suspect_accuracy": 0.95 - seed / 100,
        "classes": 10,
        "judged_samples": 1000,
        "watermark_accuracy": 0.9 + seed / 1000,
        "watermark_accuracy_of_10": 0.99,
        "score": 1.0,
        "p_value": p_value,
        "p_before_attack": 1e-12,
        "null": "signs",
        "claimed": True,
        "tests": {"signs": p_value},
        "levels": {"signs": 1e-6},
        "innocents": 2,
        "false_claims_upper": 0.776,
        "probes": 50,
        "p_by_probes": {"1": 0.4, "10": 1e-3, "50": p_value},
        "queries": 599,
        "commitment": "c0ffee",
        "stage_seconds": {"victim": 1.0, "watermarked": 2.0, "suspect": 3.0},
        "seconds": 7.5,
        "status": "done",
    }


def write_record(output: Path, record: dict) -> None:
    path = output / "records" / f"{record['address']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
