"""The page of evidence: what a judge reads, an expert checks, and a printer puts on two sheets."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from PIL import Image
from torch import Tensor

from softmark.owner.explanations import ASSUMPTIONS, EFFECTS, GLOSSARY, TESTS
from softmark.owner.pages import render
from softmark.owner.probe_files import is_picture
from softmark.settings import RECHECK

MAX_SHOWN = 60  # probes on which the suspect contradicts the labels
NUM_SHOWN = 10  # probes that are shown with both answers


def as_json(evidence: Mapping[str, Any]) -> str:
    """Return the content of evidence.json."""
    return json.dumps(evidence, separators=(",", ":")) + "\n"


def evidence_page(evidence: Mapping[str, Any], inputs: Tensor | None = None) -> str:
    """Return one self-contained HTML page of the ``evidence``: it loads nothing, and holds it.

    Args:
        evidence: what ``evidence_of`` returned.
        inputs: the probes (N + T, ...), of which pictures are shown; None to show numbers alone.
    """
    method, data = evidence["statement"]["method"], as_json(evidence)
    contradicted = evidence["agreement"]["contradicted"] if evidence["agreement"] else []
    contradicted = sorted(contradicted, key=lambda row: row[1:])
    return render(
        "evidence.html",
        evidence=evidence,
        statement=evidence["statement"],
        assumptions=[ASSUMPTIONS[part] for part in method.split("_")] if evidence["test"] else [],
        explained=TESTS,
        effects=EFFECTS,
        strongest=min(evidence["parts"], key=lambda part: part["p"], default=None),
        glossary=GLOSSARY,
        curve=_curve_image(evidence) if evidence["curve"] else "",
        shown=_shown_probes(evidence, inputs),
        contradicted=[(*row, _picture_url(inputs, row[0])) for row in contradicted[:MAX_SHOWN]],
        left_out=max(0, len(contradicted) - MAX_SHOWN),
        sha256_of_data=hashlib.sha256(data.encode()).hexdigest(),
        sha256_of_recheck=_sha256_of_recheck(),
        data=Markup(data.replace("<", "\\u003c")),
    )


@functools.cache
def _sha256_of_recheck() -> str:
    return hashlib.sha256(RECHECK.read_bytes()).hexdigest()


def _shown_probes(
    evidence: Mapping[str, Any], inputs: Tensor | None
) -> list[tuple[int, int | None, int | None, str | None]]:
    """Return ten probes, evenly spread: number, expected and given class, and the picture.

    No class is expected where no label was committed to, and none is given where classes tie.
    """
    count, labels = evidence["statement"]["probes"]["count"], evidence["labels"]
    num_shown, classes = min(NUM_SHOWN, count), evidence["statement"]["classes"]
    rows = []
    for index in (place * count // num_shown for place in range(num_shown)):
        ranks = evidence["ranks"][index]
        given = ranks.index(max(ranks)) if max(ranks) == classes else None
        expected = None if labels is None else labels[index]
        rows.append((index, expected, given, _picture_url(inputs, index)))
    return rows


def _picture_url(inputs: Tensor | None, index: int) -> str | None:
    """Return probe number ``index`` as a data: URL; None if it is no picture."""
    if inputs is None or not is_picture(inputs):
        return None
    png = io.BytesIO()
    picture = Image.fromarray(inputs[index].permute(1, 2, 0).squeeze().numpy())
    # Printers and PDF viewers blur few pixels that a page enlarges.
    factor = max(1, 72 // max(picture.size))
    picture.resize([factor * side for side in picture.size], Image.Resampling.NEAREST).save(
        png, "png"
    )
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def _curve_image(evidence: Mapping[str, Any]) -> Markup:
    """Return p over the number of probes, as an image that needs no file."""
    from matplotlib import pyplot as plt

    from softmark.report.style import COLOURS

    figure, panel = plt.subplots(figsize=(6.4, 2.6))
    counts = [int(count) for count in evidence["curve"]]
    chances = list(evidence["curve"].values())
    panel.loglog(counts, chances, marker="o", color=COLOURS[0], clip_on=False, zorder=3)
    lowest = min([*chances, evidence["level"] or 1.0, 0.1])
    # No chance is above 1: the axis ends there.
    panel.set_ylim(max(1e-307, 10 ** (1.08 * math.log10(lowest))), 1)
    if evidence["level"]:
        panel.axhline(evidence["level"], color="0.4", linestyle="--", linewidth=1)
        style = {"textcoords": "offset points", "color": "0.35", "fontsize": 8, "ha": "left"}
        panel.annotate("a claim needs this", (counts[0], evidence["level"]), (0, 3), **style)
    panel.set(xlabel="probes", ylabel="p")
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    plt.close(figure)
    encoded = base64.b64encode(svg.getvalue()).decode()
    return Markup(
        '<img class="curve" alt="p over the number of probes" '
        f'src="data:image/svg+xml;base64,{encoded}">'
    )
