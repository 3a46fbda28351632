"""Bring the published tables into the documentation's site: a hook of MkDocs.

The pages in docs/ link to outputs/tables, as a reader of the repository needs it. In the site these
files lie in tables/: pictures and CSV as they are, Markdown as pages. The leaderboard is made of
them.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from softmark.report.page import leaderboard_page
from softmark.report.published import published_tables

TABLES = Path(__file__).parents[1] / "outputs" / "tables"
LARGE = (
    200_000  # bytes; a longer table of Markdown would take seconds to build, and its CSV is there
)
FORMS = (".md", ".csv", ".svg")
# What the leaderboard is made of; where two have the same cell, the first one counts.
RANKED = (
    *("digits-rivals", "cifar10-seeds", "cifar10-hybrid", "cifar10-comparison"),
    *("full-resnet18", "full-resnet18-hybrid", "letters"),
)


def on_files(files: Files, config: Any) -> Files:
    """Add the tables, and the leaderboard of them, to the site's files."""
    ranked = published_tables([TABLES / f"{name}.csv" for name in RANKED])
    leaderboard = leaderboard_page(ranked, [], TABLES)
    files.append(File.generated(config, "leaderboard.html", content=leaderboard))
    for path in sorted(TABLES.iterdir()):
        if path.suffix in FORMS and (path.suffix != ".md" or path.stat().st_size < LARGE):
            files.append(File.generated(config, f"tables/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at the tables inside the site, and give a table's own page a title."""
    if page.file.src_uri.startswith("tables/"):
        page.meta["search"] = {"exclude": True}
        page.meta["hide"] = ["toc"]
        return f"# {Path(page.file.src_uri).stem}\n\n{markdown}"
    markdown = re.sub(r"\.\./((?:\.\./)*)outputs/tables/", r"\1tables/", markdown)
    # A plot opens at its own size.
    return re.sub(r"(?m)^(!\[[^]]*\]\(([^)]*tables/[^)]*)\))$", r"[\1](\2)", markdown)
