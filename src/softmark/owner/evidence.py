"""Evidence for a sceptic to check: a JSON file of all that p follows from, and an HTML page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image
from scipy import stats
from torch import Tensor

from softmark.errors import InputError
from softmark.owner.commitment import check_published
from softmark.owner.key import Key
from softmark.owner.probe_files import is_picture
from softmark.owner.suspects.endpoint import Endpoint
from softmark.owner.verify import Examination
from softmark.tails import is_clear
from softmark.verification.evidence import usable

TEMPLATE = Path(__file__).with_name("evidence.html")
FORMAT = "softmark evidence 4"
MAX_SHOWN = 60  # pictures on the page
# What each part of a method assumes of an innocent model, for somebody who never heard of it.
ASSUMPTIONS = {
    "csp": (
        "For each pair of classes the secret holds two random signs, + or -: one for what they "
        "show of each other together, one for the difference. A model that knows nothing of the "
        "secret agrees with them only by luck. The chance that random signs agree with these "
        "answers as well as the committed ones do is computed over all possible signs, and bounded "
        "from above where they are more than a thousand."
    ),
    "usp": (
        "For each class and each other class the secret holds a random number, all drawn together: "
        "a direction in space. A model that knows nothing of the secret points the same way only "
        "by luck. The chance that a random direction points as near to these answers as the "
        "committed one does is computed exactly."
    ),
    "margin": (
        "The last of the probes are pictures that the secret drew, and for each of them it drew a "
        "class. A model that knows nothing of the secret answers that class only by luck. The "
        "chance that it would answer as many of them so is computed exactly."
    ),
}


def evidence_of(
    examination: Examination,
    suspect: str,
    published: Mapping[str, Any] | None = None,
    disclose: bool = False,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all that p follows from, as plain containers; nothing secret unless ``disclose``.

    Args:
        examination: what ``examine`` returned.
        suspect: who is accused, in words.
        published: what was published of the key (``commitment.publication``).
        disclose: add the seed of the pattern and what the unmarked model shows, from which
            ``scripts/recheck.py`` computes p again. Whoever has read them can remove the mark, or
            put it into another model.
        source: where the answers come from (``source_of_file``, ``source_of_endpoint``).

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
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "softmark": version("softmark"),
        "commitment": key.commitment,
        "statement": key.statement.as_dict(),
        "randomness": key.randomness.hex() or None,
        "published": published["date"] if published else None,
        "claimed": verdict.claimed,
        "customer": verdict.identified,
        "p": verdict.p_value,
        "level": verdict.levels.get(name),
        "grounds": verdict.grounds,
        "test": name,
        "tests": len(getattr(test, "tests", (test,))),
        "score": verdict.score,
        "tried": key_verifier.terms.keys_tried,
        "remarks": [part for part in verdict.why.split("; ") if part],
        "curve": {str(n): p for n, p in examination.curve().items()} if name else {},
        "ranks": stats.rankdata(probs.numpy(), axis=1).tolist(),
        "labels": None if key.labels is None else key.labels.tolist(),
        "checked": None if checked is None else checked.tolist(),
        "agreement": _agreement(examination, probs[: key_verifier.num_probes]),
        "disclosed": _disclosed(key, verdict.identified) if disclose else None,
    }


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
        return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error


def source_of_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Return which server the answers come from, and what it was sent, retries included."""
    return {"url": endpoint.url, "inputs": endpoint.inputs_sent, "requests": endpoint.requests_sent}


def _disclosed(key: Key, customer: str | None) -> dict[str, Any] | None:
    """Return what the pattern follows from; None for a key of customers if none is named."""
    if len(key.messages) > 1 and customer is None:
        return None
    victim = None if key.victim is None else key.victim.tolist()
    return {"seed": key.seed(customer or key.messages[0]).hex(), "victim": victim}


def check_folder(folder: Path) -> None:
    """Raise ``InputError`` where evidence can't be written, or lies there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to={folder}: it can't be written ({error.strerror})") from error
    if (folder / "evidence.json").exists():
        raise InputError(f"--to={folder}: evidence lies there already; another folder is needed")


def write_evidence(
    evidence: Mapping[str, Any], folder: Path, inputs: Tensor | None = None
) -> list[Path]:
    """Write ``evidence.json`` and ``evidence.html``, each whole or not at all.

    Args:
        evidence: what ``evidence_of`` returned.
        folder: where to; created if need be.
        inputs: the probes (N, ...): the page shows those on which a label and the suspect disagree.

    Returns:
        The paths of both files.

    Raises:
        InputError: where they can't be written.
    """
    data = json.dumps(evidence, separators=(",", ":")) + "\n"
    html = evidence_page(evidence, inputs)
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("evidence.json", data), ("evidence.html", html)):
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            paths.append(partial.replace(folder / name))
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
    return paths


def evidence_page(evidence: Mapping[str, Any], inputs: Tensor | None = None) -> str:
    """Return one self-contained HTML page of the ``evidence``: it loads nothing, and holds it."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["p"] = lambda p: "none" if p is None else f"{p:.2g}"
    environment.filters["percent"] = lambda part: f"{100 * part:.1f}\N{NO-BREAK SPACE}%"
    method = evidence["statement"]["method"]
    assumptions = [ASSUMPTIONS[part] for part in method.split("_")] if evidence["test"] else []
    data = json.dumps(evidence, separators=(",", ":")).replace("<", "\\u003c")
    contradicted = evidence["agreement"]["contradicted"] if evidence["agreement"] else []
    contradicted = sorted(contradicted, key=lambda row: row[1:])
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        evidence=evidence,
        statement=evidence["statement"],
        assumptions=assumptions,
        curve=Markup(_curve_image(evidence)),
        data=Markup(data),
        contradicted=[(*row, _picture_url(inputs, row[0])) for row in contradicted[:MAX_SHOWN]],
        left_out=max(0, len(contradicted) - MAX_SHOWN),
    )


def _picture_url(inputs: Tensor | None, index: int) -> str | None:
    """Return probe number ``index`` as a data: URL; None if it is no picture."""
    if inputs is None or not is_picture(inputs):
        return None
    png = io.BytesIO()
    Image.fromarray(inputs[index].permute(1, 2, 0).squeeze().numpy()).save(png, "png")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _curve_image(evidence: Mapping[str, Any]) -> str:
    """Return p over the number of probes, as an image that needs no file."""
    from matplotlib import pyplot as plt

    from softmark.report.style import COLOURS

    figure, panel = plt.subplots(figsize=(6.4, 2.6))
    counts = [int(count) for count in evidence["curve"]]
    panel.loglog(counts, list(evidence["curve"].values()), marker="o", color=COLOURS[0])
    if evidence["level"]:
        panel.axhline(evidence["level"], color="0.4", linestyle="--", linewidth=1)
        style = {"textcoords": "offset points", "color": "0.35", "fontsize": 8, "ha": "left"}
        panel.annotate("a claim needs this", (counts[0], evidence["level"]), (0, 3), **style)
    panel.set(xlabel="probes", ylabel="p")
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)
    encoded = base64.b64encode(svg.getvalue()).decode()
    return f'<img alt="p over the number of probes" src="data:image/svg+xml;base64,{encoded}">'
