"""Pages for people: templates, and what all of them need."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent


def render(template: str, **values: Any) -> str:
    """Return the page of ``template``: one file that loads nothing."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["p"] = lambda p: "none" if p is None else f"{p:.2g}"
    environment.filters["one_in"] = one_in
    environment.filters["percent"] = lambda part: f"{100 * part:.1f}\N{NO-BREAK SPACE}%"
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    css = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=css, **values)


def one_in(p: float) -> Markup:
    """Return a chance in words, never smaller than it is.

    Example:
        >>> str(one_in(1e-110)), str(one_in(0.0034)), str(one_in(0.7))
        ('1 in 10<sup>110</sup>', '1 in 294', '1 in 1.4')
    """
    if p < 1e-3:
        return Markup("1 in 10<sup>{}</sup>").format(math.floor(-math.log10(p) + 1e-9))
    return Markup("1 in {}").format(f"{1 / p:.2g}" if p > 0.1 else math.floor(1 / p))
