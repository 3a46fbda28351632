"""The record of a cell: its one schema, and how it is read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softmark.data.roles import name_of
from softmark.errors import InputError
from softmark.experiment.cell import Config, Plan

# Of a mark that the owner's interface adds to its answers: tables show a dash, and no missed claim.
NEVER_ASKED = "no evidence: the owner's interface was never asked, and the model carries no mark"


def _figure(default: Any = None) -> Any:
    """Return a field that the CSV of a table shows as well."""
    return field(default=default, metadata={"csv": True})


@dataclass
class Record:
    """One cell. Accuracies are fractions of 1; what a method doesn't have is None.

    Fields made by ``_figure`` stand in the CSV of a table.
    """

    # What it is.
    method: str = ""
    attack: str = ""
    data: str = _figure("")
    model: str = _figure("")
    seed: int = 0
    scale: str = _figure("")
    status: str = _figure("failed")
    # What the models are worth, on the judge's samples.
    victim_accuracy: float | None = _figure()
    control_accuracy: float | None = _figure()
    watermarked_accuracy: float | None = _figure()
    suspect_accuracy: float | None = _figure()
    # The part of the samples on which exactly one of this model and the watermarked one is right.
    victim_disagreement: float | None = None
    control_disagreement: float | None = _figure()  # a cost's interval needs it
    victim_nll: float | None = None
    control_nll: float | None = None
    watermarked_nll: float | None = None
    suspect_nll: float | None = None
    victim_calibration_error: float | None = None
    control_calibration_error: float | None = None
    watermarked_calibration_error: float | None = None
    suspect_calibration_error: float | None = None
    classes: int | None = _figure()
    judged_samples: int | None = None
    copies_left_out: int = 0  # pictures, since a party before holds the same
    # The verdict.
    p_value: float | None = _figure()
    null: str | None = _figure()
    claimed: bool = _figure(False)
    reason: str | None = _figure()
    score: float | None = None
    tests: dict[str, float] = field(default_factory=dict)
    levels: dict[str, float] = field(default_factory=dict)
    p_before_attack: float | None = _figure()
    p_by_probes: dict[str, float | None] = field(default_factory=dict)
    watermark_accuracy: float | None = _figure()
    watermark_accuracy_of_10: float | None = _figure()
    mark_recall: float | None = _figure()
    # The l2 distance of weights within which a claim by triggers is certain, and what shows it.
    certified_radius: float | None = _figure()
    certificate: dict[str, Any] = field(default_factory=dict)
    probes: int | None = None
    answers_read: str | None = None  # logits, where nothing stands before the network; or served
    unusable: int = _figure(0)
    warnings: list[str] = field(default_factory=list)
    # The innocents, judged with the same key.
    false_claims: int = _figure(0)
    innocents: int = _figure(0)
    innocent_recall: float | None = _figure()  # mean of the evaluation innocents' mark_recall
    skipped: int = 0
    false_claims_upper: float | None = None
    by_kind: dict[str, dict[str, float]] = field(default_factory=dict)
    innocent_suspect: bool = _figure(False)
    # Messages, and keys of the attacker's own.
    identified: str | None = _figure()
    identification: dict[str, float] | None = None
    innocents_identified: int = 0
    # Where customers collude: p of what all copies share, and of each one's own part alone.
    owner_p_value: float | None = _figure()
    colluders: dict[str, float] | None = None
    forged_p_value: float | None = _figure()
    forged_claimed: bool | None = _figure()
    commitment: str | None = _figure()
    secrets: str = "repeatable"
    # What it took, and with what it was made.
    access: str | None = _figure()
    knows: str | None = _figure()
    attack_note: str | None = _figure()
    queries: int = _figure(0)
    epochs: float | None = _figure()
    seconds: float = _figure(0.0)
    stage_seconds: dict[str, float] = field(default_factory=dict)
    address: str = _figure("")
    commit: str | None = _figure()
    machine: str | None = _figure()
    path: str = ""
    stages: dict[str, Any] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    precision: str = ""
    threads: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""


CSV = tuple(f.name for f in dataclasses.fields(Record) if f.metadata.get("csv"))


def names_of(config: Config) -> dict[str, str]:
    """Return what tables call the parts of a cell: names for people, which decide no result."""
    return {
        "method": config["method"]["name"],
        "attack": config["attack"]["name"],
        "data": name_of(config["data"]),
        "model": config["model"]["name"],
        "scale": config["scale"]["name"],
    }


def record_of(cell: Plan) -> dict[str, Any] | None:
    """Return the record of ``cell`` under the names of today; None where there is none yet.

    Two cells that differ by names alone have one record, since they have one verdict.
    """
    record = read_record(cell.record)
    return record and {**record, **names_of(cell.config)}


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record, or None where there is none yet.

    Raises:
        InputError: it is broken.
    """
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a whole record ({error}); remove it") from error
    if not isinstance(record, dict) or record.get("status") not in ("done", "failed"):
        raise InputError(f"{path}: not a record of softmark; remove it")
    return record
