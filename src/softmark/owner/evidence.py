"""Evidence that a sceptic can check: one JSON of all that p follows from, and one HTML page."""

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
from softmark.owner.pictures import is_picture
from softmark.owner.suspects.endpoint import Endpoint
from softmark.owner.verify import Examination
from softmark.tails import is_clear
from softmark.verification.evidence import usable

TEMPLATE = Path(__file__).with_name("evidence.html")
FORMAT = "softmark evidence 4"
MOST_SHOWN = 60  # pictures on the page
# What the test of each part of a method assumes, for somebody who has never heard of it.
NULLS = {
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


def statement(
    found: Examination,
    suspect: str,
    published: Mapping[str, Any] | None = None,
    disclose: bool = False,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All that p follows from, as plain containers; nothing secret unless ``disclose``.

    ``suspect``: who is accused, in words. ``published``: what was published of the key
    (``commitment.publication``). ``disclose``: adds the seed of the pattern and what the unmarked
    model shows, from which ``scripts/recheck.py`` computes p again. Whoever has read them can
    remove the mark, or put it into another model. ``source``: where the answers come from
    (``of_file``, ``of_endpoint``). Raises ``InputError`` where ``published`` is of another key.
    """
    court, verdict = found.court, found.verdict
    key = court.key
    if published:
        check_published(published, key)
    test = next(iter(verdict.tests), None)
    exact = found.evidence.tests.get(test)
    answers = usable(found.answers)[0]
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
        "level": verdict.levels.get(test),
        "grounds": verdict.grounds,
        "test": test,
        "tests": len(getattr(exact, "tests", (exact,))),
        "score": verdict.score,
        "tried": court.verifier.keys_tried,
        "remarks": [part for part in verdict.why.split("; ") if part],
        "curve": {str(n): p for n, p in found.curve().items()} if test else {},
        "ranks": stats.rankdata(answers.numpy(), axis=1).tolist(),
        "labels": None if key.labels is None else key.labels.tolist(),
        "checked": None if court.checked is None else court.checked.tolist(),
        "agreement": _agreement(found, answers[: court.count]),
        "disclosed": _disclosed(key, verdict.identified) if disclose else None,
    }


def _agreement(found: Examination, answers: Tensor) -> dict[str, Any] | None:
    """How far the committed labels are the suspect's answers (N, K), and those of whoever verifies.

    ``contradicted``: the probes, their labels and the answers where a suspect says otherwise.
    ``sure``: its mean confidence, which an honest labelling lets expect; None of labels alone.
    """
    labels, checked = found.court.key.labels, found.court.checked
    if labels is None:
        return None
    told = answers.argmax(1)
    clear = is_clear(answers)
    other = (clear & (told != labels)).nonzero().flatten()
    sure = float(answers[clear].amax(1).mean()) if clear.any() else None
    return {
        "labels": len(labels),
        "agrees": int((clear & (told == labels)).sum()),
        "sure": sure if sure is not None and sure < 1 else None,
        "checked": None if checked is None else int((checked >= 0).sum()),
        "right": None if checked is None else int((checked == labels).sum()),
        "contradicted": torch.stack([other, labels[other], told[other]], 1).tolist(),
    }


def of_file(path: Path) -> dict[str, Any]:
    """Answers from a file, of predictions or of weights: which content it had."""
    try:
        return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror})") from error


def of_endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """Answers of a server: where it is, and what it was sent, second tries included."""
    return {"url": endpoint.url, "inputs": endpoint.inputs_sent, "requests": endpoint.requests_sent}


def _disclosed(key: Key, customer: str | None) -> dict[str, Any] | None:
    """What the pattern follows from; None of a key of customers of whom none is named."""
    if len(key.messages) > 1 and customer is None:
        return None
    victim = None if key.victim is None else key.victim.tolist()
    return {"seed": key.seed(customer or key.messages[0]).hex(), "victim": victim}


def check_folder(folder: Path) -> None:
    """Raises ``InputError`` where evidence can't be written, or lies there already."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--to={folder}: it can't be written ({error.strerror})") from error
    if (folder / "evidence.json").exists():
        raise InputError(f"--to={folder}: evidence lies there already; another folder is needed")


def write(made: Mapping[str, Any], folder: Path, inputs: Tensor | None = None) -> list[Path]:
    """Writes ``evidence.json`` and ``evidence.html`` of a ``statement``, each whole or not.

    ``inputs`` (N, ...): the probes; the page shows those that a label and the suspect disagree on.
    """
    data = json.dumps(made, separators=(",", ":"))
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("evidence.json", data + "\n"), ("evidence.html", page(made, inputs))):
            partial = folder / f".{name}.partial"
            partial.write_text(text, encoding="utf-8")
            paths.append(partial.replace(folder / name))
    except OSError as error:
        raise InputError(f"{folder}: it can't be written ({error.strerror})") from error
    return paths


def page(made: Mapping[str, Any], inputs: Tensor | None = None) -> str:
    """One self-contained HTML page of a ``statement``: it loads nothing and holds the JSON."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["p"] = lambda p: "none" if p is None else f"{p:.2g}"
    environment.filters["percent"] = lambda part: f"{100 * part:.1f}\N{NO-BREAK SPACE}%"
    method = made["statement"]["method"]
    nulls = [NULLS[part] for part in method.split("_")] if made["test"] else []
    data = json.dumps(made, separators=(",", ":")).replace("<", "\\u003c")
    agreement = made["agreement"]
    other = sorted(agreement["contradicted"], key=lambda row: row[1:]) if agreement else []
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        made=made,
        bound=made["statement"],
        nulls=nulls,
        curve=Markup(_curve(made)),
        data=Markup(data),
        other=[(*row, _picture(inputs, row[0])) for row in other[:MOST_SHOWN]],
        left_out=max(0, len(other) - MOST_SHOWN),
    )


def _picture(inputs: Tensor | None, place: int) -> str | None:
    """Probe number ``place`` as the address of an image that needs no file; None of no picture."""
    if inputs is None or not is_picture(inputs):
        return None
    made = io.BytesIO()
    Image.fromarray(inputs[place].permute(1, 2, 0).squeeze().numpy()).save(made, "png")
    return f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"


def _curve(made: Mapping[str, Any]) -> str:
    """p over the number of probes, as an image that needs no file."""
    from matplotlib import pyplot as plt

    from softmark.report.style import COLOURS

    figure, panel = plt.subplots(figsize=(6.4, 2.6))
    counts = [int(count) for count in made["curve"]]
    panel.loglog(counts, list(made["curve"].values()), marker="o", color=COLOURS[0])
    if made["level"]:
        panel.axhline(made["level"], color="0.4", linestyle="--", linewidth=1)
        below = {"textcoords": "offset points", "color": "0.35", "fontsize": 8, "ha": "left"}
        panel.annotate("a claim needs this", (counts[0], made["level"]), (0, 3), **below)
    panel.set(xlabel="probes", ylabel="p")
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    plt.close(figure)
    encoded = base64.b64encode(picture.getvalue()).decode()
    return f'<img alt="p over the number of probes" src="data:image/svg+xml;base64,{encoded}">'
