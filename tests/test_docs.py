"""README and docs: every block and command is run or says why not, every figure is recomputed."""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import re
import runpy
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from sklearn.datasets import load_digits
from torch import nn

import softmark
from helpers import ROOT
from softmark import renamed
from softmark.commands.main import SUMMARIES, main
from softmark.experiment.run import run_cell
from softmark.report.compare import rivals_of
from softmark.report.outcomes import outcomes
from softmark.report.published import published_tables
from softmark.report.significance import (
    Setting,
    compare_pairs,
    intervals,
    mean_ranks,
    scores_of,
)
from softmark.report.summary import families_table, summary_table
from softmark.sweep.command_line import check_arguments

README = ROOT / "README.md"
TABLES = ROOT / "outputs" / "tables"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (not run|checked only): ([^>]+) -->\n\Z")
# Seconds instead of minutes; later overrides win.
SMALL = ("scale=smoke", "model.width=8", "logger=none")


@dataclass(frozen=True)
class Block:
    """A block of code of a page. ``marker``: not run, checked only, or "" for one that is run."""

    language: str
    code: str
    marker: str
    reason: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        marker = MARKER.search(text[: found.start()])
        yield Block(found[1], found[2], *(marker.groups() if marker else ("", "")))


def file_of(block: Block) -> str:
    """Return the file that a block says to write, named in its first line; "" for none."""
    first = block.code.partition("\n")[0].removeprefix("# ")
    return first if first.startswith(("src/", "conf/")) or re.fullmatch(r"\w+\.py", first) else ""


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def pages(language: str) -> list[Path]:
    """The pages with a block of ``language`` that is run or checked."""
    return [
        page
        for page in PAGES
        if any(b.language == language and b.marker != "not run" for b in blocks(page))
    ]


def test_every_block_is_run_or_says_why_not():
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "bash", "yaml", "text"), f"{page}: {block.code}"
            assert not block.marker or len(block.reason.split()) > 3, f"{page}: {block.reason}"


# --- Python.


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """The digits as rows of 64 floats, shuffled, and their labels."""
    inputs, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return torch.tensor(inputs / 16, dtype=torch.float32)[order], torch.tensor(labels)[order]


@functools.cache
def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs, labels = digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for index in torch.randperm(1000).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[index]), labels[index]).backward()
            optimizer.step()
    return model.eval()


@pytest.mark.parametrize("page", pages("python"), ids=name_of)
def test_python(page, tmp_path, monkeypatch):
    """The blocks of a page are run one after the other, in one namespace."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another page
    inputs, labels = digits()
    names = {"model": trained(), "data": (inputs[:800], labels[:800]), "probes": inputs[1000:1500]}
    names["probe_labels"] = labels[1000:1500]
    for block in blocks(page):
        if block.language == "python" and not block.marker and not file_of(block):
            exec(compile(block.code, name_of(page), "exec"), names)
            if "marked" in names:
                names.setdefault("suspect", names["marked"].model)
    if "verdict" in names:
        assert names["marked"].verdict.claimed
        assert names["verdict"].claimed
        assert not softmark.verify(trained(), names["marked"].key, names["marked"].probes).claimed
    if "evidence" in names:
        assert min(test.p_value() for test in names["evidence"].tests.values()) < 1e-6
    if "loss" in names:
        logits = trained()(inputs[:8]).detach().requires_grad_()
        names["loss"](logits, labels[:8]).backward()
        assert logits.grad.any()


# --- Commands.


def commands(block: Block) -> Iterator[list[str]]:
    """The commands of a block of bash, as words; a file that it writes is written here."""
    code = block.code
    for path, content in re.findall(r"^cat > (\S+) <<'END'\n(.*?)^END\n", code, re.M | re.S):
        Path(path).write_text(content, encoding="utf-8")
    code = re.sub(r"^cat > .*?^END\n", "", code, flags=re.MULTILINE | re.DOTALL)
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def call(script: Path, words: Sequence[str], monkeypatch) -> int | str:
    monkeypatch.setattr(sys, "argv", [script.name, *words])
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """One store for the commands of all pages."""
    return tmp_path_factory.mktemp("docs")


@pytest.fixture
def run(store, monkeypatch, tmp_path) -> Callable[[Path], None]:
    """``run(page)``: the commands of a page, in an empty folder and in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another page
    # Hydra's main sets it for the whole process.
    monkeypatch.setitem(os.environ, "HYDRA_FULL_ERROR", "1")

    def run_page(page: Path) -> None:
        for block in filter(file_of, blocks(page)):
            if "/" not in file_of(block):
                Path(file_of(block)).write_text(block.code, encoding="utf-8")
        for block in blocks(page):
            if block.language != "bash" or block.marker == "not run":
                continue
            for python, script, *words in commands(block):
                if python == "softmark":
                    with pytest.raises(SystemExit) as stopped:
                        main([script, *words])
                    assert stopped.value.code == 0, (script, words)
                    continue
                assert python == "python"
                if {"--help", "--cfg"} & set(words) or block.marker:
                    check_arguments(words, writes=False)
                    continue
                if script in ("run.py", "scripts/report.py"):
                    words += [f"output_dir={store}", *SMALL]
                assert call(ROOT / script, words, monkeypatch) == 0, (script, words)

    return run_page


OWNERS = ROOT / "docs" / "owners.md"


@pytest.mark.parametrize("page", [page for page in pages("bash") if page != OWNERS], ids=name_of)
def test_commands(page, run):
    run(page)


def test_marking_at_a_terminal(run, tmp_path, capsys):
    run(OWNERS)
    lines = capsys.readouterr().out.splitlines()
    told = next(line for line in lines if line.startswith("'licence 7': p "))
    # Key and network are drawn anew each time: 95.8 to 96.7 % in three runs.
    assert ", claimed; " in told
    assert float(told.split()[-2]) > 85
    assert lines[-2:] == ["evidence/evidence.json", "evidence/evidence.html"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 599


def spans(page: Path) -> list[str]:
    """The code within the sentences of a page."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


GROUPS = ("attack", "method", "data", "model", "table", "scale", "verifier", "trainer", "logger")


def written_on(page: Path) -> set[str]:
    """Return the names of the configs that a page says to write."""
    return {Path(path).stem for path in new_files(page) if path.startswith("conf/")}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_of_configs_exist(page):
    for span in spans(page):
        for group, value in re.findall(r"(?<![\w.@/])(\w+)=([a-z][\w,]*)(?!\()", span):
            if group in GROUPS and "..." not in span:
                for name in set(value.split(",")) - written_on(page):
                    assert (ROOT / "conf" / group / f"{name}.yaml").exists(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_within_sentences_are_understood(page):
    for span in spans(page):
        words = shlex.split(span) if span.startswith("python ") else []
        if not words or re.search(r"\.\.\.|\b[A-Z]{2,}\b", span):
            continue
        if words[1] == "run.py":
            if not any(word.endswith(f"={name}") for word in words for name in written_on(page)):
                check_arguments(words[2:], writes=False)
        elif words[1] != "-m":
            assert (ROOT / words[1]).exists(), span


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_words_of_the_command_within_sentences_exist(page):
    for span in spans(page):
        if span.startswith("softmark ") and "=" not in span.split()[1]:
            assert span.split()[1] in (*SUMMARIES, "COMMAND", "--help"), span


def test_every_method_and_attack_is_told_of():
    for folder, page in (("method", "methods.md"), ("attack", "attacks.md")):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for path in (ROOT / "conf" / folder).glob("*.yaml"):
            ending = path.stem.rpartition("_")[2]
            known = f"`{path.stem}`" in text or f"`..._{ending}`" in text
            assert known or path.stem in ("none", "serve"), path.stem


# --- What the README adds to the code.


def new_files(page: Path) -> dict[str, str]:
    """Return the files that a page says to write: path and content."""
    return {path: block.code for block in blocks(page) if (path := file_of(block))}


@pytest.mark.parametrize("page", [p for p in PAGES if new_files(p)], ids=name_of)
def test_new_methods_and_attacks_run(page, store, tmp_path, monkeypatch):
    """What a page says to write is written, and a cell of it is run."""
    monkeypatch.syspath_prepend(tmp_path)
    written = new_files(page)
    modules = {path: f"written_{Path(path).stem}" for path in written if path.startswith("src/")}
    for path, content in written.items():
        for source, module in modules.items():
            name = source.removeprefix("src/").removesuffix(".py").replace("/", ".")
            content = content.replace(name, module)
        place = tmp_path / (f"{modules[path]}.py" if path in modules else path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content, encoding="utf-8")
    search = [f"hydra.searchpath=[file://{tmp_path}/conf]", f"output_dir={store}", *SMALL]
    for path in map(Path, written):
        if path.parts[0] == "conf":
            line = f"{path.parent.name}={path.stem}"
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                config = compose("config", ["method=csp", "attack=none", line, *search])
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            assert run_cell(plain, [line], lambda text: None)["status"] == "done"


def test_the_readme_is_one_page():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) < 200
    assert all(len(line) <= 100 for line in lines if line.startswith("|"))
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("![")) < 12
    text = "\n".join(line for line in prose(README).splitlines() if not line.startswith(("|", "#")))
    text = re.sub(r"\]\([^)]*\)|[*`>\[]", "", text)
    parts = re.split(r"\n\s*\n|\n- ", text)
    sentences = [s for part in parts for s in re.split(r"(?<=[.!?])\s+", part) if " " in s]
    assert statistics.mean(len(sentence.split()) for sentence in sentences) < 16


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_tables(page):
    text = prose(page)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.count(" |") <= 8, f"{name_of(page)}: {line[:60]}"


# --- Figures.


@functools.cache
def records(table: str) -> list[dict[str, str]]:
    with (TABLES / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def picked(table: str, method: str, attack: str) -> list[dict[str, str]]:
    return [r for r in records(table) if (r["method"], r["attack"]) == (method, attack)]


def claimed(rows: Sequence[dict[str, str]]) -> int:
    return sum(row["claimed"] == "True" for row in rows)


def resisted(table: str, method: str) -> int:
    """After how many attacks all keys of ``method`` are claimed."""
    rows = [row for row in records(table) if row["method"] == method and row["attack"] != "none"]
    attacks = {row["attack"] for row in rows}
    return sum(all(r["claimed"] == "True" for r in picked(table, method, a)) for a in attacks)


def keys_claimed(table: str, method: str) -> int:
    rows = [row for row in records(table) if row["method"] == method and row["attack"] != "none"]
    return claimed(rows)


def points(rows: Sequence[dict[str, str]], higher: str, lower: str) -> float:
    """The mean difference of two accuracies, in points."""
    return 100 * statistics.mean(float(row[higher]) - float(row[lower]) for row in rows)


# What the pages call an attack, and its name in the published tables.
ATTACKS = {
    "before": "none",
    "nothing": "none",
    "fine-tuned": "finetune",
    "at the whole rate": "finetune_full",
    "new last layer": "retrain",
    "a new last layer": "retrain",
    "pruned, repaired": "prune_finetune",
    "distilled": "distill",
    "into another network": "distill_other",
    "labels alone": "distill_hard",
    "from labels alone": "distill_hard",
    "distilled, tuned": "distill_finetune",
}
EARLIER = dict.fromkeys(
    ("adi", "ewe", "margin", "coswm", "uchida", "mea_defender"), "cifar10-comparison"
)
SOFT = ("usp", "csp")
BOTH = ("usp_margin", "csp_margin")
HALF = {**dict.fromkeys(SOFT, "cifar10-seeds"), **dict.fromkeys(BOTH, "cifar10-hybrid"), **EARLIER}
FULL = dict.fromkeys(SOFT, "full-robustness")
RESNET = {
    **dict.fromkeys(SOFT, "full-resnet18"),
    **dict.fromkeys(BOTH, "full-resnet18-hybrid"),
}
LETTERS = dict.fromkeys((*SOFT, *BOTH), "letters")


def tables_of(page: Path) -> list[list[list[str]]]:
    """The tables of a page as rows of cells, their names without marks of code."""
    found = re.findall(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        [[c.strip().strip("`") for c in line.strip("|").split(" |")] for line in t.splitlines()]
        for t in found
    ]


def cells(page: Path, sources: dict[str, str], ways: int = 0) -> Iterator[tuple[str, str, str]]:
    """(method, attack, text) of the p-values of a page's table number ``ways`` of ``sources``.

    Methods are its rows, or its columns.
    """
    fitting = []
    for head, _, *rows in tables_of(page):
        names, firsts = head[1:], [row[0] for row in rows]
        if set(names) & set(ATTACKS) and set(firsts) <= set(sources):
            fitting.append(
                [(row[0], n, c) for row in rows for n, c in zip(names, row[1:], strict=True)]
            )
        elif names and set(names) == set(sources) and set(firsts) & set(ATTACKS):
            fitting.append(
                [(n, row[0], c) for row in rows for n, c in zip(names, row[1:], strict=True)]
            )
    for method, words, text in fitting[ways]:
        if words in ATTACKS:
            yield method, ATTACKS[words], text


def as_shown(value: float, text: str) -> str:
    """Return ``value`` in the way of ``text``: 6e-25, .88, -.17 or 1; halves are rounded up."""
    exact = Decimal(repr(value))
    if "e" in text:
        last = Decimal(1).scaleb(exact.adjusted())
        digit = exact.quantize(last, ROUND_HALF_UP).normalize()
        return f"{digit.as_tuple().digits[0]}e{digit.adjusted()}"
    last = Decimal(1).scaleb(-len(text.rpartition(".")[2]) if "." in text else 0)
    return str(exact.quantize(last, ROUND_HALF_UP)).replace("0.", ".", 1)


@pytest.mark.parametrize(
    ("page", "sources", "place"),
    [
        ("README.md", HALF, 0),
        ("docs/results/cifar10.md", HALF, 0),
        ("docs/results/full-scale.md", FULL, 0),
        ("docs/results/full-scale.md", RESNET, 0),
        ("docs/results/data.md", LETTERS, 0),
    ],
)
def test_p_values_are_those_of_the_tables(page, sources, place):
    seen = 0
    for method, attack, text in cells(ROOT / page, sources, place):
        rows = picked(sources[method], method, attack)
        p, bare = statistics.median(float(row["p_value"]) for row in rows), text.strip("*")
        assert as_shown(p, bare) == bare, (method, attack, p)
        assert text.startswith("**") == all(row["claimed"] == "True" for row in rows), (
            method,
            text,
        )
        seen += 1
    assert seen >= 18


def test_costs_and_keys_of_the_readme():
    for head, _, *rows in tables_of(README):
        if head[:3] != ["method", "keys", "cost"]:
            continue
        for method, keys, cost, *_ in rows:
            found = picked(HALF[method], method, "none")
            assert int(keys) == len(found)
            shown = points(found, "control_accuracy", "watermarked_accuracy")
            assert as_shown(shown, cost) == cost
        assert len(rows) == 6


KNOWING = (
    "distill_flat", "distill_shuffled", "distill_subtracted", "distill_swapped", "retrain_flat",
    "retrain_swapped", "evade", "retrain_evade", "overwrite", "search",
)  # fmt: skip


def test_findings_of_the_readme():
    text = " ".join(README.read_text(encoding="utf-8").split())
    rivals = "digits-rivals"
    methods = {row["method"] for row in records(rivals)}
    earlier = methods - {*SOFT, *BOTH}
    for method in SOFT:
        assert claimed(picked(rivals, method, "distill")) == 3
        assert claimed(picked(rivals, method, "distill_hard")) == 0
    assert all(claimed(picked(rivals, method, "distill")) < 3 for method in earlier)
    # A fingerprint embeds nothing, and is judged by innocents at a level of .05.
    best = max(resisted(rivals, method) for method in earlier - {"ipguard"})
    margin, plain = resisted(rivals, "csp_margin"), resisted(rivals, "csp")
    attacks = len({row["attack"] for row in records(rivals)} - {"none"})
    assert f"`csp_margin` keeps every key after {margin} of {attacks} attacks" in text
    assert f"`csp` after {plain}, the best earlier watermark after {best}" in text
    most = max(
        points(picked("digits-robustness", method, attack), "watermarked_accuracy",
               "suspect_accuracy")
        for method in SOFT for attack in KNOWING
    )  # fmt: skip
    assert f"at most {most:.1f} points" in text
    (row,) = picked("full-resnet18", "csp", "distill")
    assert f"p {as_shown(float(row['p_value']), '1e-1')} for `csp`" in text
    for attack in ("finetune", "finetune_full", "retrain", "prune_finetune"):
        assert not any(claimed(picked("full-resnet18", method, attack)) for method in SOFT)
        assert claimed(picked("full-resnet18-hybrid", "csp_margin", attack)) == 1


def test_the_nineteen_methods_of_the_page():
    page = ROOT / "docs" / "results" / "digits.md"
    (table,) = [t for t in tables_of(page) if t[0][:3] == ["method", "of 84", "cells"]]
    for names, attacks, keys, *_ in table[2:]:
        for method in re.findall(r"\w+", names):
            assert resisted("digits-rivals", method) == int(attacks.strip("*")), method
            assert keys_claimed("digits-rivals", method) == int(keys), method
    words = f"usp resists {resisted('digits-robustness', 'usp')} of 84 attacks, csp "
    assert words + str(resisted("digits-robustness", "csp")) in page.read_text(encoding="utf-8")


def test_the_comparison_is_what_the_tests_say_of_the_table():
    page = ROOT / "docs" / "results" / "comparison.md"
    ((rows, _),) = published_tables([TABLES / "digits-rivals.csv"]).values()
    ranked, first, second, *_ = tables_of(page)
    settings = [Setting("attack"), Setting("family")]
    scores = [scores_of(outcomes(rows), setting) for setting in settings]
    pairs = [compare_pairs(s, setting.unit) for s, setting in zip(scores, settings, strict=True)]
    ranks = [mean_ranks(s.votes(setting.unit)) for s, setting in zip(scores, settings, strict=True)]
    ends = intervals(scores[0], scores[0].kept.T)
    for method, kept, interval, *shown in ranked[2:]:
        place = scores[0].methods.index(method)
        assert kept == f"{100 * scores[0].kept[:, place].mean():.0f}"
        assert interval == " to ".join(f"{100 * end[place]:.0f}" for end in ends)
        counts = [[len(some) for some in rivals_of(of_unit, method)] for of_unit in pairs]
        assert shown == [
            *(f"{of_unit[place]:.2f}" for of_unit in ranks),
            *(f"{better}:{worse}" for better, worse, _ in counts),
        ]
    summary, families = (
        {line[0]: dict(zip(table[0], line, strict=True)) for line in table[1:]}
        for table in (summary_table(rows), families_table(rows))
    )
    for method, every, counted, *shown in first[2:]:
        of_family = families[method]
        assert int(every) == resisted("digits-rivals", method)
        assert counted == summary[method]["survived"]
        both = [of_family[name].split(" of ") for name in ("prune", "repair")]
        pruned = " of ".join(str(sum(map(int, numbers))) for numbers in zip(*both, strict=True))
        tuned, drawn, weights, students = (
            of_family[name] for name in ("finetune", "retrain", "weights", "distill")
        )
        assert shown == [tuned, drawn, pruned, weights, students]
    for method, *shown in second[2:]:
        names = ("serve", "input", "collude", "adaptive")
        assert shown == [*(families[method][n] for n in names), summary[method]["families"]]
    of_students = compare_pairs(scores[0].within("distill"), "attack")
    for method in (*SOFT, *BOTH):
        assert len(rivals_of(of_students, method)[0]) == 15


def test_the_sweep_of_the_readme_is_seed_0_of_the_table():
    text = README.read_text(encoding="utf-8")
    for line in re.findall(r"^│ .*│$", text, flags=re.MULTILINE):
        method, attack, verdict, p, *shown = (cell.strip() for cell in line.strip("│").split("│"))
        row = picked("digits-robustness", method, attack)[0]
        assert row["seed"] == "0"
        assert (verdict == "yes") == (row["claimed"] == "True")
        assert f"{float(row['p_value']):.1e}" == p
        accuracy, marked, control, victim, mark = (
            100 * float(row[name])
            for name in ("suspect_accuracy", "watermarked_accuracy", "control_accuracy",
                         "victim_accuracy", "watermark_accuracy")
        )  # fmt: skip
        expected = (accuracy, control - marked, victim - marked, mark)
        assert shown == [f"{value:.2f}" for value in expected]
    assert text.count("│ usp") == text.count("│ csp") == 3


def test_claims_by_level_are_those_of_the_tables():
    page = ROOT / "docs" / "results" / "innocents.md"
    (table,) = [t for t in tables_of(page) if t[0][1] == "claims at 1e-6"]
    levels, kinds = (1e-6, 1e-9, 1e-12), {"digits": 0, "half": 1, "all": 3, "letters": 4}
    counts = {kind: [0, 0, 0] for kind in kinds}
    for path in TABLES.glob("*.csv"):
        kind = path.stem.partition("-")[0]
        kind = {"digits": "digits", "cifar10": "half", "full": "all"}.get(kind, "letters")
        for row in records(path.stem):
            if row["method"] in (*SOFT, *BOTH) and row["claimed"] == "True":
                for place, level in enumerate(levels):
                    counts[kind][place] += float(row["p_value"]) <= level
    for kind, line in kinds.items():
        assert [int(c.replace(",", "")) for c in table[2 + line][1:]] == counts[kind]
    whole = [int(c.strip("*").replace(",", "")) for c in table[-1][1:]]
    assert whole == [sum(column) for column in zip(*counts.values(), strict=True)]


def test_the_first_picture_is_that_of_the_table():
    spec = importlib.util.spec_from_file_location("overview", ROOT / "scripts" / "overview.py")
    overview = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overview)
    drawn = overview.draw(records("digits-rivals"))
    assert drawn == (TABLES / "overview.svg").read_text(encoding="utf-8")
    assert len(overview.METHODS) == len(overview.ATTACKS) == 8


def test_the_api_has_every_public_name():
    text = (ROOT / "docs" / "api" / "owners.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, flags=re.MULTILINE))
    assert listed == set(softmark.__all__)


def test_old_and_new_names_are_those_of_the_code():
    page = ROOT / "docs" / "configuration.md"
    (attacks,) = [t for t in tables_of(page) if t[0][:2] == ["old", "new"]]
    rows = [[cell.strip("`") for cell in row] for row in attacks[2:]]
    pairs = {old: new for row in rows for old, new in (row[:2], row[2:]) if old}
    assert pairs == renamed.ATTACKS
    text = page.read_text(encoding="utf-8")
    for _, old, new in renamed.KEYS:
        assert re.search(rf"^\| `[\w.]+\.{old}`.*\.{new}`", text, flags=re.MULTILINE), old


def test_the_glossary_has_the_words():
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    for word in (
        "victim", "watermarked model", "suspect", "innocent model", "control", "key", "message",
        "probe", "tail", "pattern", "evidence", "null", "level", "claim", "detector", "integrity",
        "unambiguity", "stage", "address", "cell",
    ):  # fmt: skip
        assert f"**{word}**" in text
