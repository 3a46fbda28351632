"""Evidence for a sceptic to check: a JSON file of all that p follows from, and an HTML page."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from softmark.errors import InputError
from softmark.owner.beacon import Beacon
from softmark.owner.commitment import check_published, read_publication, remarks_on_file
from softmark.owner.evidence_page import as_json, evidence_page
from softmark.owner.folder import sha256_of
from softmark.owner.key import Key
from softmark.owner.samples import as_inputs
from softmark.owner.suspects.endpoint import Endpoint
from softmark.owner.verify import Examination, examine
from softmark.tails import is_clear
from softmark.verification.evidence import usable
from softmark.verification.nulls import Binomial, Both, Either, Null
from softmark.verification.signs import Signs
from softmark.verification.verdict import Verdict

FORMAT = "softmark evidence 5"
MAX_RANKS = 2**25  # in JSON about 2**28 bytes, which is what recheck reads


def evidence(
    suspect: Any,
    key: Key,
    probes: Any,
    folder: str | Path,
    name: str = "the suspect",
    commitment: str | Path | None = None,
    disclose: bool = False,
    keys_tried: int = 1,
    logits: bool = False,
    labels: Any = None,
    beacon: Beacon | None = None,
    published: str | datetime | None = None,
    raw: bool = False,
    class_names: Sequence[str] | None = None,
) -> Verdict:
    """Judge ``suspect`` as ``verify`` does, and write evidence.json and evidence.html for others.

    Args:
        suspect: as for ``verify``, as ``key``, ``probes``, ``keys_tried``, ``logits``, ``labels``,
            ``beacon``, ``published``, ``raw`` and ``class_names`` are.
        folder: where to; it holds no evidence yet.
        name: what the evidence calls the suspect.
        commitment: the file as it was published, softmark.commitment.json; None where none is to
            be shown.
        disclose: add the seed of the pattern, from which ``softmark recheck`` computes p again.
            Whoever has read it can remove the mark.

    Returns:
        The verdict.

    Raises:
        InputError: as ``verify``, and where the files can't be written: the suspect isn't asked.

    Example:
        >>> verdict = softmark.evidence(marked.model, marked.key, marked.probes, folder / "e")
        >>> verdict.claimed, sorted(path.name for path in (folder / "e").iterdir())
        (True, ['evidence.html', 'evidence.json'])
    """
    check_folder(Path(folder), key)
    shown = None if commitment is None else read_publication(Path(commitment))
    if shown:
        check_published(shown, key)
    examination = examine(
        suspect, key, probes, keys_tried, logits, labels, beacon, published, raw, class_names
    )
    source = source_of_endpoint(suspect) if isinstance(suspect, Endpoint) else None
    made = evidence_of(examination, name, shown, disclose, source)
    write_evidence(made, Path(folder), as_inputs(probes))
    return examination.verdict


def evidence_of(
    examination: Examination,
    suspect: str,
    published: Mapping[str, Any] | None = None,
    disclose: bool = False,
    source: Mapping[str, Any] | None = None,
    ranks: bool = True,
) -> dict[str, Any]:
    """Return all that p follows from, as plain containers; nothing secret unless ``disclose``.

    Args:
        examination: what ``examine`` returned.
        suspect: who is accused, in words.
        published: what was published of the key (``commitment.publication``).
        disclose: add the seed of the pattern, the message and what the unmarked model shows, from
            which ``softmark recheck`` computes p again. Whoever has read them can remove the mark,
            or put it into another model.
        source: where the answers come from (``source_of_file``, ``source_of_endpoint``).
        ranks: with those of all answers, which recheck needs.

    Raises:
        InputError: where ``published`` is of another key.

    Example:
        >>> examination = softmark.owner.verify.examine(marked.model, marked.key, marked.probes)
        >>> evidence = evidence_of(examination, "the model of a competitor")
        >>> evidence["claimed"], evidence["disclosed"]
        (True, None)
        >>> [path.name for path in write_evidence(evidence, folder)]
        ['evidence.json', 'evidence.html']
    """
    key_verifier, verdict = examination.key_verifier, examination.verdict
    key = key_verifier.key
    if published:
        check_published(published, key)
    name = next(iter(verdict.tests), None)
    test = examination.evidence.tests.get(name)
    probs = usable(examination.answers)[0]  # (N + T, K)
    checked = key_verifier.checked_labels
    return {
        "format": FORMAT,
        "suspect": suspect,
        "source": dict(source) if source else None,
        "asked": _asked(examination),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "softmark": version("softmark"),
        "commitment": key.commitment,
        "statement": key.statement.as_dict(),
        "randomness": key.randomness.hex() or None,
        **_published(published or {}),
        "claimed": verdict.claimed,
        "customer": verdict.identified,
        "p": verdict.p_value,
        "level": verdict.levels.get(name),
        "grounds": verdict.grounds,
        "test": name,
        "tests": len(getattr(test, "tests", (test,))),
        "parts": [described(*part) for part in parts_of(examination)],
        "score": verdict.score,
        "tried": key_verifier.terms.keys_tried,
        "remarks": [*filter(None, verdict.why.split("; ")), *remarks_on_file(published or {}, key)],
        "curve": {str(n): p for n, p in examination.curve().items()} if name else {},
        "ranks": stats.rankdata(probs.numpy(), axis=1).tolist() if ranks else [],
        "labels": None if key.labels is None else key.labels.tolist(),
        "checked": None if checked is None else checked.tolist(),
        "agreement": _agreement(examination, probs[: key_verifier.num_probes]),
        "disclosed": _disclosed(key, verdict.identified) if disclose else None,
    }


def _published(published: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the commitment file says of its date, its owner and the marked models."""
    names = {name: published.get(name) for name in ("owner", "name")}
    return {"published": published.get("date"), **names, "models": published.get("models") or {}}


def _asked(examination: Examination) -> dict[str, str]:
    times = {"begun": examination.begun, "ended": examination.ended}
    said = {name: time.isoformat(timespec="seconds") for name, time in times.items()}
    return {"how": examination.how, **said}


def parts_of(examination: Examination) -> list[tuple[str, Null]]:
    """Return the single tests that p is combined of, each with its name; none without a verdict.

    Of several customers they are those of the owner's part and of the named customer's pattern.
    """
    verdict, key_verifier = examination.verdict, examination.key_verifier
    tests = list(examination.evidence.tests.values()) if verdict.tests else []
    if len(key_verifier.key.messages) > 1 and tests:
        tests = key_verifier.tests_of_customers(examination.answers, verdict.identified)
    return [part for test in tests for part in _single_tests(test)]


def _single_tests(test: Null) -> Iterator[tuple[str, Null]]:
    if isinstance(test, Either):
        for part in test.tests:
            yield from _single_tests(part)
    else:
        names = {Binomial: "triggers", Both: "both"}
        yield names.get(type(test)) or getattr(test, "about", "") or type(test).__name__, test


def described(name: str, test: Null) -> dict[str, Any]:
    """Return name, kind, p and effect of a single test; of signs also how many agree."""
    about = {"name": name, "kind": type(test).__name__, "p": test.p_value(), "effect": test.score}
    if isinstance(test, Signs):
        seen = test.weights != 0
        agreeing = test.weights * test.signs > 0
        about |= {"agree": int(agreeing.sum()), "of": int(seen.sum())}
    if isinstance(test, Binomial):
        about |= {"agree": test.hits, "of": test.trials}
    return about


def _agreement(examination: Examination, probs: Tensor) -> dict[str, Any] | None:
    """Return how far the committed labels agree with the suspect, and with whoever verifies.

    ``probs`` (N, K): the suspect's answers to the probes. ``contradicted``: the probes, their
    labels and the answers where a suspect answers otherwise. ``sure``: its mean confidence, which
    honest labels are expected to agree with; None of labels alone.
    """
    labels, checked = examination.key_verifier.key.labels, examination.key_verifier.checked_labels
    if labels is None:
        return None
    top, clear = probs.argmax(1), is_clear(probs)  # (N,)
    contradicted = (clear & (top != labels)).nonzero().flatten()
    confidence = float(probs[clear].amax(1).mean()) if clear.any() else None
    return {
        "labels": len(labels),
        "agrees": int((clear & (top == labels)).sum()),
        "sure": confidence if confidence is not None and confidence < 1 else None,
        "checked": None if checked is None else int((checked >= 0).sum()),
        "right": None if checked is None else int((checked == labels).sum()),
        "contradicted": torch.stack(
            [contradicted, labels[contradicted], top[contradicted]], 1
        ).tolist(),
    }


def source_of_file(path: Path) -> dict[str, Any]:
    """Return which file of predictions or of weights the answers come from, and its hash."""
    try:
        return {"file": path.name, "sha256": sha256_of(path)}
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error


def source_of_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Return which server the answers come from, and what it was sent, retries included."""
    return {"url": endpoint.url, "inputs": endpoint.inputs_sent, "requests": endpoint.requests_sent}


def _disclosed(key: Key, customer: str | None) -> dict[str, Any]:
    """Return what the pattern follows from; no customer's seed where none of several is named."""
    victim = None if key.victim is None else key.victim.tolist()
    message = customer or (key.messages[0] if len(key.messages) == 1 else None)
    seed = None if message is None else key.seed(message).hex()
    return {"owner": key.seed("").hex(), "seed": seed, "victim": victim, "message": message}


def check_folder(folder: Path, key: Key) -> None:
    """Raise ``InputError`` where evidence can't be written, lies there already, or is too large."""
    inputs = key.statement.probes.count + key.statement.triggers
    if inputs * key.classes > MAX_RANKS:
        raise InputError(
            f"evidence holds a rank for each answer and class, {MAX_RANKS:,} at most; {inputs} "
            f"inputs and {key.classes} classes have {inputs * key.classes:,}: verify without it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"--to={folder}: it can't be written ({error.strerror})") from error
    if free < (needed := 16 * inputs * key.classes + (1 << 20)):  # each rank twice, and pictures
        raise InputError(f"--to={folder}: the disk has {free:,} bytes, and {needed:,} are needed")
    if (folder / "evidence.json").exists():
        raise InputError(f"--to={folder}: evidence lies there already; another folder is needed")


def write_evidence(
    evidence: Mapping[str, Any], folder: Path, inputs: Tensor | None = None
) -> list[Path]:
    """Write ``evidence.json`` and ``evidence.html``, each whole or not at all.

    Args:
        evidence: what ``evidence_of`` returned.
        folder: where to; created if need be.
        inputs: the probes (N, ...): the page shows some, and those where a label and the suspect
            disagree.

    Returns:
        The paths of both files.

    Raises:
        InputError: where they can't be written.
    """
    data, html = as_json(evidence), evidence_page(evidence, inputs)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("evidence.json", data), ("evidence.html", html)):
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            paths.append(partial.replace(folder / name))
    except OSError as error:
        for left in folder.glob(".evidence.*.partial"):
            left.unlink()
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
    return paths
