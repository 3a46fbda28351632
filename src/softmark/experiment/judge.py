"""The verdict on one cell: what it needs is loaded first, then judged without reading anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from softmark.accuracy import utility
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.experiment.cell import InnocentStage, Plan, colluders_of, steps_of
from softmark.experiment.context import StageContext
from softmark.experiment.evidence import (
    innocent_recall,
    labelled,
    load_evidence,
    suspect_evidence,
)
from softmark.methods.key import Key
from softmark.methods.key_verifier import KeyVerifier
from softmark.models.access import Suspect
from softmark.verification.judge import Verifier
from softmark.verification.nulls import Measured
from softmark.verification.verdict import Innocent

CURVE = (1, 10, 100, 1000, 10_000)  # numbers of probes at which a record shows the p-value


@dataclass(frozen=True)
class Loaded:
    """All that a verdict stands on.

    Args:
        models: the victim, the control if there is one, the watermarked model, the suspect.
        samples: the judge's, on which their accuracy is measured.
        classes: how many there are.
        num_copies: pictures that nobody holds, since another party has the same.
        links: what the making of each step of the attack noted.
        seconds: what the stages of each role took.
        verifier: the terms of a claim.
        certificate: what its stage noted; None where the method names none.
        key_verifier: looks for the committed key; None for a method without keys.
        forger: looks for the attacker's own key; None where the attack left none.
        pools: what the innocents of each pool show of the committed key.
        notes: what was noted of each innocent.
        calibration: the calibration innocents themselves, where there is a forger.
        customers: the messages of all customers who collude; none where nobody does.
    """

    models: dict[str, Suspect]
    samples: Samples
    classes: int
    num_copies: int
    links: list[dict[str, Any]]
    seconds: dict[str, float]
    verifier: Verifier
    certificate: dict[str, Any] | None = None
    key_verifier: KeyVerifier | None = None
    forger: KeyVerifier | None = None
    pools: dict[str, list[Innocent]] | None = None
    notes: Sequence[dict[str, Any]] = ()
    calibration: Sequence[tuple[str, Suspect]] = ()
    customers: Sequence[str] = ()


def load(cell: Plan, context: StageContext) -> Loaded:
    """Return all that the verdict on ``cell`` stands on.

    Raises:
        InputError: the key isn't the one whose commitment was published, or the data have changed.
    """
    context.check_data()
    method, verifier = context.make("method"), context.make("verifier")
    stages = {
        "victim": cell.victim,
        "control": cell.control,
        "watermarked": cell.watermarked,
        "suspect": cell.suspect,
    }
    measured = Loaded(
        models={name: context.suspect(stage) for name, stage in stages.items() if stage},
        samples=context.roles.judge,
        classes=len(context.roles.classes),
        num_copies=context.roles.num_copies,
        links=[context.manifest(link)["notes"] for link in cell.links],
        seconds=_seconds(context),
        verifier=verifier,
        certificate=context.manifest(cell.certificate)["notes"] if cell.certificate else None,
    )
    key = context.key(cell.key, method)
    if key is None:
        return measured
    pool = context.pool(verifier)
    published = context.manifest(cell.key)["notes"]["commitment"]
    _check_committed(key, context.config["method"], verifier, pool, published)
    probes = labelled(context, method, pool)
    pools, notes = load_evidence(context.store.folder(cell.evidence))
    forger, calibration = None, []
    forged = context.key(cell.suspect, method)
    if forged is not None:
        # It is held to what the owner's key is: committed to before the judge asks.
        forged.commit(context.config["method"], verifier.terms, probes)
        forger = KeyVerifier(method, verifier, forged, probes)
        calibration = list(_calibration(cell.innocents, context))
    return replace(
        measured,
        key_verifier=KeyVerifier(method, verifier, key, probes),
        forger=forger,
        pools=pools,
        notes=notes,
        calibration=calibration,
        customers=_customers(context.config["method"], cell.config["attack"]),
    )


def _customers(method: dict[str, Any], attack: dict[str, Any]) -> list[str]:
    """Return the messages of the customers who collude, the marked model's own first."""
    others = dict.fromkeys(name for step in steps_of(attack) for name in colluders_of(step))
    return [method["message"], *others] if others and "message" in method else []


def _seconds(context: StageContext) -> dict[str, float]:
    """Return what the stages of each role took, but for the innocents, which all cells share."""
    seconds: dict[str, float] = {}
    for stage in context.stage.parents:
        if not stage.role.startswith("innocent"):
            taken = context.manifest(stage)["seconds"]
            seconds[stage.role] = round(seconds.get(stage.role, 0.0) + taken, 3)
    return seconds


def _calibration(
    innocents: Sequence[InnocentStage], context: StageContext
) -> Iterator[tuple[str, Suspect]]:
    """Yield the kind and the model of each calibration innocent."""
    for innocent in innocents:
        if innocent.pool == "calibration":
            yield innocent.kind, context.suspect(innocent.stage)


def _check_committed(
    key: Key, method: dict[str, Any], verifier: Verifier, pool: Samples, published: str | None
) -> None:
    """Raise ``InputError`` where ``key`` isn't the one whose commitment was published."""
    if key.check(method, verifier.terms, pool) != published:
        raise InputError(
            f"the key's commitment {key.commitment[:16]}... isn't the published one, "
            f"{str(published)[:16]}...: no verdict can stand on it"
        )


def verdict(loaded: Loaded) -> dict[str, Any]:
    """Return the figures of a record: the accuracies, the cost, the verdict.

    Nothing is read: ``loaded`` alone decides.
    """
    figures = {**_accuracies(loaded), **_cost(loaded)}
    if loaded.certificate:
        figures["certified_radius"] = loaded.certificate["radius"]
        figures["certificate"] = loaded.certificate
    verifier, key_verifier = loaded.verifier, loaded.key_verifier
    if key_verifier is None:
        return {**figures, "reason": "no mark to judge", "probes": verifier.probes}
    pools, suspect = loaded.pools, loaded.models["suspect"]
    evidence = suspect_evidence(key_verifier, suspect)
    judged = asdict(verifier.judge(evidence, pools["calibration"], pools["evaluation"]))
    judged["reason"] = judged.pop("why") or None
    # The judge draws the key: what an owner says of it and of the probes is no part of a record.
    del judged["grounds"], judged["agreement"], judged["customer_p_value"]
    before = suspect_evidence(key_verifier, loaded.models["watermarked"])
    p_before = verifier.p_values(before, pools["calibration"])
    return {
        **figures,
        **judged,
        **_identification(loaded),
        **_collusion(loaded),
        **_forgery(loaded),
        "p_before_attack": max(p_before.values(), default=None),
        "innocent_recall": innocent_recall(pools["evaluation"]),
        "probes": len(key_verifier.pool),
        "answers_read": "logits" if suspect.reads_logits else "served",
        "p_by_probes": _curve(key_verifier, suspect, judged["p_value"]),
        "commitment": key_verifier.key.commitment,
    }


def _accuracies(loaded: Loaded) -> dict[str, Any]:
    """Return each model's accuracy, log-likelihood and calibration error."""
    samples = loaded.samples
    answers = {name: model.answers(samples) for name, model in loaded.models.items()}  # (N, K) each
    correct = {
        name: probabilities.argmax(1) == samples.labels for name, probabilities in answers.items()
    }  # (N,)
    measures = {
        f"{name}_{measure}": value
        for name, probabilities in answers.items()
        for measure, value in utility(probabilities, samples.labels).items()
    }
    disagreements = {
        f"{name}_disagreement": float((correct[name] != correct["watermarked"]).float().mean())
        for name in ("victim", "control")
        if name in correct
    }
    sizes = {"classes": loaded.classes, "judged_samples": len(samples)}
    return {**measures, **disagreements, **sizes, "copies_left_out": loaded.num_copies}


def _cost(loaded: Loaded) -> dict[str, Any]:
    """Return what the attack's steps took together, and what the attacker needed."""
    links = loaded.links
    return {
        # Whoever has extracted a model holds the weights of the student.
        "access": links[0]["access"],
        "knows": "method" if any(link["knows"] == "method" for link in links) else "nothing",
        "queries": sum(link["queries"] for link in links),
        "epochs": round(sum(link["epochs"] for link in links), 2),
        "attack_note": "; ".join(filter(None, (link["note"] for link in links))) or None,
        "innocent_suspect": any(link["innocent"] for link in links),
        "stage_seconds": loaded.seconds,
    }


def _curve(
    key_verifier: KeyVerifier, suspect: Suspect, p_value: float | None
) -> dict[str, float | None]:
    """Return p by the number of probes, where all tests stand without innocents.

    Args:
        p_value: of all probes; None where nothing could be tested.
    """
    probes = len(key_verifier.probes)
    if p_value is None:
        return {}
    curve: dict[str, float | None] = {}
    for count in CURVE:
        if count < probes:
            evidence = key_verifier.evidence(suspect, count)
            alone = all(test.kind != "innocents" for test in evidence.tests.values())
            p_values = key_verifier.verifier.p_values(evidence, ()) if alone else {}
            curve[str(count)] = max(p_values.values(), default=None)
    return {**curve, str(probes): p_value}


def _identification(loaded: Loaded) -> dict[str, Any]:
    """Return which registered message the suspect carries, and how many innocents are named."""
    tests = loaded.key_verifier.messages(loaded.models["suspect"])
    identified = loaded.verifier.identify(tests)
    named = 0
    for note in loaded.notes:
        if note["pool"] == "evaluation" and set(note["messages"]) == set(tests):
            measured = {
                name: Measured(tests[name].kind, 0.0, p) for name, p in note["messages"].items()
            }
            innocent = loaded.verifier.identify(measured)
            named += bool(innocent and innocent.name)
    return {
        "identified": identified.name if identified else None,
        "identification": identified and identified.p_values,
        "innocents_identified": named,
    }


def _collusion(loaded: Loaded) -> dict[str, Any]:
    """Return what is left of the owner's claim, and of each customer's, where customers collude."""
    if not loaded.customers:
        return {}
    key_verifier, suspect = loaded.key_verifier, loaded.models["suspect"]
    owner = key_verifier.owner_test(suspect)
    customers = key_verifier.messages(suspect, loaded.customers)
    return {
        "owner_p_value": owner and owner.p_value(),
        "colluders": {name: test.p_value() for name, test in customers.items()} or None,
    }


def _forgery(loaded: Loaded) -> dict[str, Any]:
    """Return what an attacker's own key, left by the attack, proves of the suspect."""
    if (forger := loaded.forger) is None:
        return {}
    evidence = forger.evidence(loaded.models["suspect"])
    # Most nulls stand without innocents.
    needed = any(test.kind == "innocents" for test in evidence.tests.values())
    calibration = [
        Innocent(kind, forger.evidence(model))
        for kind, model in (loaded.calibration if needed else ())
    ]
    claim = loaded.verifier.judge(evidence, calibration, ())
    return {"forged_p_value": claim.p_value, "forged_claimed": claim.claimed}
