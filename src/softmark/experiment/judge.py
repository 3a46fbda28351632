"""The verdict on one cell: the suspect, and the innocents judged with the same key and probes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.experiment.plan import Plan
from softmark.experiment.stages import Making
from softmark.methods.key import Key
from softmark.methods.key_verifier import KeyVerifier
from softmark.methods.watermark import Watermark
from softmark.models.access import Suspect
from softmark.models.files import read_tensors
from softmark.store.address import Stage
from softmark.training import utility
from softmark.verification.evidence import Evidence
from softmark.verification.judge import Innocent
from softmark.verification.nulls import Measured

CURVE = (1, 10, 100, 1000, 10_000)  # numbers of probes at which a record shows the p-value
EVIDENCE = "evidence.safetensors"


def gather(now: Making) -> dict[str, Any]:
    """Makes the stage of the innocents' evidence; the first parent is the committed key."""
    method, verifier = now.make("method"), now.make("verifier")
    key = now.key(now.parents[0], method)
    named = now.own["innocents"]
    if key is None:
        _save(now.folder / EVIDENCE, [], [])
        return {"innocents": 0}
    pool = expected(now, method, now.parents[0], now.pool(verifier, now.parents[0]))
    key_verifier = KeyVerifier(method, verifier, key, pool)
    suspects = [now.suspect(stage) for stage in now.parents[1:]]
    found = [key_verifier.evidence(suspect) for suspect in suspects]
    messages = [
        {name: test.p_value() for name, test in key_verifier.messages(suspect).items()}
        for suspect in suspects
    ]
    noted = [
        {"pool": name, "kind": kind, "messages": p_values}
        for (name, kind), p_values in zip(named, messages, strict=True)
    ]
    _save(now.folder / EVIDENCE, found, noted)
    return {"innocents": len(found), "skipped": sum(not each.tests for each in found)}


def expected(now: Making, method: Watermark, key: Stage, pool: Samples) -> Samples:
    """The probes as ``method`` reads them: with true labels, or with the unmarked victim's answers.

    ``key``: the stage of the committed key, whose model was made of the victim. No key decides
    about these answers.
    """
    if not method.uses_victim_labels:
        return pool
    (victim,) = key.parents[0].parents
    return Samples(pool.inputs, now.suspect(victim).answers(pool).argmax(1))


def _save(path: Path, found: list[Evidence], noted: list[dict]) -> None:
    tensors = {f"scores.{number}": each.scores.contiguous() for number, each in enumerate(found)}
    about = [
        {
            **facts,
            "why": each.why,
            "tests": {
                name: {"kind": test.kind, "score": test.score, "p": _known(test)}
                for name, test in each.tests.items()
            },
        }
        for each, facts in zip(found, noted, strict=True)
    ]
    save_file(tensors, path, {"innocents": json.dumps(about)})


def _known(test: Any) -> float:
    # What rests on innocents is computed by the judge, from the scores.
    return 1.0 if test.kind == "innocents" else test.p_value()


def _load(path: Path) -> tuple[dict[str, list[Innocent]], list[dict]]:
    """The innocents of each pool, and what was noted of each."""
    tensors, metadata = read_tensors(path)
    about = json.loads(metadata["innocents"])
    pools: dict[str, list[Innocent]] = {"calibration": [], "evaluation": []}
    for number, facts in enumerate(about):
        tests = {name: Measured(**test) for name, test in facts["tests"].items()}
        evidence = Evidence(tensors[f"scores.{number}"], tests, facts["why"])
        pools[facts["pool"]].append(Innocent(facts["kind"], evidence))
    return pools, about


def judge(cell: Plan, now: Making) -> dict[str, Any]:
    """The figures of a record: the verdict, the accuracies, the cost."""
    method, verifier = now.make("method"), now.make("verifier")
    facts = {**_accuracies(cell, now), **_cost(cell, now)}
    key = now.key(cell.key, method)
    if key is None:
        return {**facts, "reason": "no mark to judge", "probes": verifier.probes}
    pool = now.pool(verifier, cell.key)
    _check_committed(cell, now, key, verifier.terms, pool)
    pools, about = _load(now.store.folder(cell.evidence) / EVIDENCE)
    key_verifier = KeyVerifier(method, verifier, key, expected(now, method, cell.key, pool))
    suspect = now.suspect(cell.suspect)
    found = key_verifier.evidence(suspect)
    verdict = asdict(verifier.judge(found, pools["calibration"], pools["evaluation"]))
    verdict["reason"] = verdict.pop("why") or None
    del verdict[
        "grounds"
    ]  # the judge draws the key: what an owner says of it is no part of a record
    before = verifier.p_values(
        key_verifier.evidence(now.suspect(cell.watermarked)), pools["calibration"]
    )
    return {
        **facts,
        **verdict,
        **_identification(key_verifier, suspect, about),
        **_forgery(cell, now, key_verifier),
        "p_before_attack": max(before.values(), default=None),
        "probes": len(pool),
        "p_by_probes": _curve(key_verifier, suspect, verdict["p_value"]),
        "commitment": key.commitment,
    }


def _check_committed(
    cell: Plan, now: Making, key: Key, terms: dict[str, Any], pool: Samples
) -> None:
    """Raises ``InputError`` where ``key`` isn't the one whose commitment was published."""
    published = now.notes(cell.key)["notes"]["commitment"]
    if key.check(cell.key.config["method"], terms, pool) != published:
        raise InputError(
            f"the key's commitment {key.commitment[:16]}... isn't the published one, "
            f"{str(published)[:16]}...: no verdict can stand on it"
        )


def _accuracies(cell: Plan, now: Making) -> dict[str, Any]:
    """Accuracy, log-likelihood and calibration error of each model, on the judge's samples."""
    models = {
        "victim": cell.victim,
        "control": cell.control,
        "watermarked": cell.watermarked,
        "suspect": cell.suspect,
    }
    samples = now.roles.judge
    answers = {name: now.suspect(stage).answers(samples) for name, stage in models.items() if stage}
    right = {name: each.argmax(1) == samples.labels for name, each in answers.items()}
    worth = {
        f"{name}_{what}": value
        for name, each in answers.items()
        for what, value in utility(each, samples.labels).items()
    }
    apart = {
        f"{name}_disagreement": float((right[name] != right["watermarked"]).float().mean())
        for name in ("victim", "control")
        if name in right
    }
    sizes = {"classes": len(now.roles.classes), "judged_samples": len(samples)}
    return {**worth, **apart, **sizes}


def _cost(cell: Plan, now: Making) -> dict[str, Any]:
    """What the attack's steps took together, and what the attacker needed."""
    links = [now.notes(link)["notes"] for link in cell.links]
    seconds: dict[str, float] = {}
    for stage in cell.verdict.parents:
        taken = now.notes(stage)["seconds"]
        seconds[stage.role] = round(seconds.get(stage.role, 0.0) + taken, 3)
    return {
        # Whoever has extracted a model holds the weights of the student.
        "access": links[0]["access"],
        "knows": "method" if any(link["knows"] == "method" for link in links) else "nothing",
        "queries": sum(link["queries"] for link in links),
        "epochs": round(sum(link["epochs"] for link in links), 2),
        "attack_note": "; ".join(filter(None, (link["note"] for link in links))) or None,
        "innocent_suspect": any(link["innocent"] for link in links),
        "stage_seconds": seconds,
    }


def _curve(
    key_verifier: KeyVerifier, suspect: Suspect, last: float | None
) -> dict[str, float | None]:
    """p by the number of probes, where all tests stand without innocents."""
    asked = len(key_verifier.probes)
    if last is None:
        return {}
    curve: dict[str, float | None] = {}
    for count in CURVE:
        if count < asked:
            found = key_verifier.evidence(suspect, count)
            known = all(test.kind != "innocents" for test in found.tests.values())
            p_values = key_verifier.verifier.p_values(found, ()) if known else {}
            curve[str(count)] = max(p_values.values(), default=None)
    return {**curve, str(asked): last}


def _identification(
    key_verifier: KeyVerifier, suspect: Suspect, about: list[dict]
) -> dict[str, Any]:
    """Which registered message the suspect carries, and how many innocents are named as well."""
    tests = key_verifier.messages(suspect)
    named = key_verifier.verifier.identify(tests)
    wrong = 0
    for facts in about:
        if facts["pool"] == "evaluation" and set(facts["messages"]) == set(tests):
            kept = {
                name: Measured(tests[name].kind, 0.0, p) for name, p in facts["messages"].items()
            }
            found = key_verifier.verifier.identify(kept)
            wrong += bool(found and found.name)
    return {
        "identified": named.name if named else None,
        "identification": named and named.p_values,
        "innocents_identified": wrong,
    }


def _forgery(cell: Plan, now: Making, key_verifier: KeyVerifier) -> dict[str, Any]:
    """What an attacker's own key, left by the attack, proves of the suspect.

    It is held to what the owner's key is: the attacker commits to it before the judge asks.
    """
    key = now.key(cell.suspect, key_verifier.method)
    if key is None:
        return {}
    key.commit(cell.key.config["method"], key_verifier.verifier.terms, key_verifier.pool)
    forger = KeyVerifier(key_verifier.method, key_verifier.verifier, key, key_verifier.pool)
    found = forger.evidence(now.suspect(cell.suspect))
    # Most nulls stand without innocents.
    needed = any(test.kind == "innocents" for test in found.tests.values())
    calibration = [
        Innocent(each.kind, forger.evidence(now.suspect(each.stage)))
        for each in cell.innocents
        if needed and each.pool == "calibration"
    ]
    claim = key_verifier.verifier.judge(found, calibration, ())
    return {"forged_p_value": claim.p_value, "forged_claimed": claim.claimed}
