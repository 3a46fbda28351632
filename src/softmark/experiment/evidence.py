"""Gather what the innocents show of a key: once for all attacks on one watermarked model."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from softmark.data.roles import Samples
from softmark.experiment.context import StageContext
from softmark.experiment.record import NEVER_ASKED
from softmark.methods.key_verifier import KeyVerifier
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.models.files import read_tensors
from softmark.verification.evidence import Evidence
from softmark.verification.nulls import Measured, Null
from softmark.verification.verdict import Innocent

EVIDENCE = "evidence.safetensors"


def gather_evidence(context: StageContext) -> dict[str, Any]:
    """Ask every innocent for evidence of the committed key, and keep what they show."""
    method, verifier = context.make("method"), context.make("verifier")
    key = context.key(context.parent("key"), method)
    if key is None:
        save_evidence(context.folder, [], [])
        return {"innocents": 0}
    probes = labelled(context, method, context.pool(verifier))
    key_verifier = KeyVerifier(method, verifier, key, probes)
    suspects = [context.suspect(innocent) for innocent in context.parents("innocent")]
    collected = [key_verifier.evidence(suspect) for suspect in suspects]
    messages = [
        {name: test.p_value() for name, test in key_verifier.messages(suspect).items()}
        for suspect in suspects
    ]
    notes = [
        {"pool": pool, "kind": kind, "messages": p_values}
        for (pool, kind), p_values in zip(context.config["innocents"], messages, strict=True)
    ]
    save_evidence(context.folder, collected, notes)
    return {
        "innocents": len(collected),
        "skipped": sum(not evidence.tests for evidence in collected),
    }


def labelled(context: StageContext, method: Watermark, probes: Samples) -> Samples:
    """Return ``probes`` with the labels that ``method`` reads.

    The true ones, or what the unmarked victim answers; no key decides about these answers.
    """
    if not method.uses_victim_labels:
        return probes
    answers = context.suspect(context.parent("victim")).answers(probes)  # (N, K)
    return Samples(probes.inputs, answers.argmax(1))


def save_evidence(folder: Path, collected: list[Evidence], notes: list[dict[str, Any]]) -> None:
    """Write the evidence of each innocent, with what ``notes`` says of it."""
    tensors = {
        f"scores.{number}": evidence.scores.contiguous()
        for number, evidence in enumerate(collected)
    }
    about = [
        {
            **note,
            "why": evidence.why,
            "recall": evidence.mark_recall,
            "tests": {
                name: {"kind": test.kind, "score": test.score, "p": _p_value(test)}
                for name, test in evidence.tests.items()
            },
        }
        for evidence, note in zip(collected, notes, strict=True)
    ]
    save_file(tensors, folder / EVIDENCE, {"innocents": json.dumps(about)})


def _p_value(test: Null) -> float:
    """Return the p-value of ``test``; 1 where the judge has yet to compute it."""
    # What rests on innocents is computed by the judge, from the scores.
    return 1.0 if test.kind == "innocents" else test.p_value()


def load_evidence(folder: Path) -> tuple[dict[str, list[Innocent]], list[dict[str, Any]]]:
    """Return the innocents of each pool, and what was noted of each."""
    tensors, metadata = read_tensors(folder / EVIDENCE)
    notes = json.loads(metadata["innocents"])
    pools: dict[str, list[Innocent]] = {"calibration": [], "evaluation": []}
    for number, note in enumerate(notes):
        tests = {name: Measured(**test) for name, test in note["tests"].items()}
        evidence = Evidence(tensors[f"scores.{number}"], tests, note["why"], note["recall"])
        pools[note["pool"]].append(Innocent(note["kind"], evidence))
    return pools, notes


def suspect_evidence(key_verifier: KeyVerifier, suspect: Suspect) -> Evidence:
    """Return what ``suspect`` shows, but for a mark of answers that it was never trained on."""
    if key_verifier.method.uses_query_log and suspect.log is None:
        return Evidence.none(NEVER_ASKED)
    return key_verifier.evidence(suspect)


def innocent_recall(innocents: Sequence[Innocent]) -> float | None:
    """Return the mean part of the mark that ``innocents`` show; None where nothing is counted."""
    recalls = [other.evidence.mark_recall for other in innocents]
    counted = [recall for recall in recalls if recall is not None]
    return statistics.fmean(counted) if counted else None
