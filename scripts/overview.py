"""Draw the README's first picture: eight methods by eight attacks, from a published table.

    python scripts/overview.py

Reads outputs/tables/digits-rivals.csv, whose attacks keep the names of its commit, and writes
outputs/tables/overview.svg: text and rectangles alone, light or dark as the reader's system is.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

TABLES = Path(__file__).parents[1] / "outputs" / "tables"
METHODS = (
    "csp", "usp", "csp_margin", "usp_margin", "adi", "margin", "uchida", "mea_defender",
)  # fmt: skip
ATTACKS = {
    "finetune_full": ("fine-tuned,", "whole rate"),
    "retrain": ("new last", "layer"),
    "prune_finetune": ("pruned,", "fine-tuned"),
    "distill": ("distilled", ""),
    "distill_finetune": ("distilled,", "fine-tuned"),
    "distill_hard": ("distilled from", "labels alone"),
    "serve_flat": ("answers", "flattened"),
    "overwrite": ("marked again", "by the thief"),
}
LEFT, TOP, WIDTH, HEIGHT, GAP = 112, 50, 84, 28, 3
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #1f2328; text-anchor: middle }
  .name { font-family: ui-monospace, monospace; text-anchor: end }
  .note { text-anchor: start; fill: #59636e }
  .paper { fill: #ffffff }
  .all { fill: #0b5cad } .some { fill: #8fc1ee } .none { fill: #e7eaee }
  .on-all { fill: #ffffff } .on-some { fill: #10304f } .on-none { fill: #59636e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .note { fill: #9aa4af } .paper { fill: #0d1117 }
    .all { fill: #58a6ff } .some { fill: #1f4f82 } .none { fill: #21262d }
    .on-all { fill: #06182b } .on-some { fill: #dcebfa } .on-none { fill: #9aa4af }
  }"""


def claims(rows: Sequence[Mapping[str, str]], method: str, attack: str) -> tuple[int, int]:
    """Return how many keys of ``method`` are claimed after ``attack``, and of how many."""
    found = [row["claimed"] == "True" for row in rows if row["method"] == method
             and row["attack"] == attack]  # fmt: skip
    return sum(found), len(found)


def text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(content)}</text>'


def draw(rows: Sequence[Mapping[str, str]]) -> str:
    """Return the picture as SVG."""
    width = LEFT + len(ATTACKS) * WIDTH + 8
    height = TOP + len(METHODS) * HEIGHT + 30
    parts = [f'<rect class="paper" width="{width}" height="{height}" rx="6"/>']
    for column, lines in enumerate(ATTACKS.values()):
        centre = LEFT + (column + 0.5) * WIDTH
        parts += [text(centre, 20 + 15 * place, line) for place, line in enumerate(lines)]
    for line, method in enumerate(METHODS):
        y = TOP + line * HEIGHT
        parts.append(text(LEFT - 10, y + 18, method, "name"))
        for column, attack in enumerate(ATTACKS):
            claimed, keys = claims(rows, method, attack)
            kind = {0: "none", keys: "all"}.get(claimed, "some")
            x = LEFT + column * WIDTH
            size = f'width="{WIDTH - GAP}" height="{HEIGHT - GAP}" rx="3"'
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" {size}/>')
            parts.append(text(x + WIDTH / 2, y + 17, f"{claimed} of {keys}", f"on-{kind}"))
    note = "Handwritten digits: keys claimed of three, after each attack. Grey: the mark is lost."
    parts.append(text(LEFT, height - 11, note, "note"))
    title = "Claims of eight watermarking methods after eight attacks"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    body = "\n".join(parts)
    return f"{head}\n<title>{title}</title>\n<style>{STYLE}\n</style>\n{body}\n</svg>\n"


def main() -> None:
    with (TABLES / "digits-rivals.csv").open(newline="", encoding="utf-8") as file:
        picture = draw(list(csv.DictReader(file)))
    (TABLES / "overview.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
