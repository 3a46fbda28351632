"""The addresses of softmark's stages: names at random change none, what decides changes some."""

import ast
import importlib
import itertools
import json
import re
import shutil
import symtable
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import hypothesis
import pytest
from hypothesis import strategies as st

from helpers import ROOT
from softmark.experiment.plan import decode_data, plan
from softmark.store.address import Stage, _trace

SOURCES = ROOT / "src" / "softmark"
CELLS = [
    ("method=csp", "attack=adaptive_search"),
    ("method=usp_margin", "attack=distill_finetune"),
    ("method=content", "attack=adaptive_forge"),
]
FRESH = map("copied{}".format, itertools.count())


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Callable[..., list[Stage]]:
    """The stages of three cells without their parents, with other names for what they name."""
    from helpers.cells import composed

    output = f"output_dir={tmp_path_factory.mktemp('output')}"
    configs = [composed((*cell, "innocents.calibration=12", output)) for cell in CELLS]
    decode_data(configs[0])
    plans = list(map(plan, configs))
    todo = [stage for cell in plans for stage in (cell.verdict, *cell.verdict.parents)]

    def make(rename: Callable[[str], str]) -> list[Stage]:
        def renamed(value):
            if isinstance(value, dict):
                return {
                    name: rename(inner) if name == "_target_" else renamed(inner)
                    for name, inner in value.items()
                }
            return [renamed(inner) for inner in value] if isinstance(value, list) else value

        return [
            Stage(
                stage.role,
                renamed(stage.config),
                tuple(map(rename, stage.code)),
                (),
                stage.judges,
            )
            for stage in todo
        ]

    return make


@pytest.fixture(scope="module")
def copied(tmp_path_factory, stages):
    """``copied(change, rename)``: the addresses of the stages in a changed copy of softmark.

    ``change(folder, top)`` edits the files of the copy, a package called ``top``.
    """
    root = tmp_path_factory.mktemp("copies")
    sys.path.insert(0, str(root))

    def make(change=lambda folder, top: None, rename=lambda name: name) -> list[str]:
        top = next(FRESH)
        folder = root / top
        shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("__pycache__"))
        for path in folder.rglob("*.py"):
            text = path.read_text()
            path.write_text(re.sub(r"\b(from|import) softmark\b", rf"\1 {top}", text))
        change(folder, top)
        importlib.invalidate_caches()
        made = stages(lambda name: rename(name).replace("softmark", top, 1))
        addresses = [stage.address for stage in made]
        shutil.rmtree(folder)
        return addresses

    yield make
    sys.path.remove(str(root))


@pytest.fixture(scope="module")
def plain(copied) -> list[str]:
    return copied()


def scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    yield table
    for child in table.get_children():
        yield from scopes(child)


def local_names(path: Path, given: set[str]) -> list[str]:
    """The names of ``path`` that are local wherever they stand; ``given``: by calls, by strings."""
    local, other = set(), set()
    for scope in scopes(symtable.symtable(path.read_text(), str(path), "exec")):
        for symbol in scope.get_symbols():
            name = symbol.get_name()
            inside = scope.get_type() == "function" and (symbol.is_local() or symbol.is_free())
            plain = not symbol.is_imported() and not symbol.is_declared_global()
            spoken = symbol.is_parameter() and name in given
            (local if inside and plain and not spoken else other).add(name)
    return sorted(local - other - {"self", "cls"})


class Renamer(ast.NodeTransformer):
    """Gives names other ones, wherever a name can stand; attributes and keywords stay."""

    def __init__(self, names: dict[str, str]):
        self.names = names

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("id", "name", "rest", "arg"):
            value = getattr(node, field, None)
            if isinstance(value, str) and not isinstance(node, ast.keyword):
                setattr(node, field, self.names.get(value, value))
        if isinstance(node, ast.Nonlocal):
            node.names = [self.names.get(name, name) for name in node.names]
        return super().generic_visit(node)


def rewrite(path: Path, transformer: ast.NodeTransformer) -> None:
    path.write_text(ast.unparse(transformer.visit(ast.parse(path.read_text()))))


def given_names() -> set[str]:
    """What calls, strings and attributes name anywhere in softmark."""
    names: set[str] = set()
    for path in SOURCES.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.keyword(arg=str(name)) | ast.Attribute(attr=name):
                    names.add(name)
                case ast.Constant(value=str(text)):
                    names.add(text)
    return names


def definitions() -> list[str]:
    """The classes and functions whose names mean nothing else anywhere in softmark."""
    tops, others = [], given_names()
    for path in SOURCES.rglob("*.py"):
        tree = ast.parse(path.read_text())
        kinds = ast.FunctionDef | ast.ClassDef
        tops += [node.name for node in tree.body if isinstance(node, kinds)]
        for scope in scopes(symtable.symtable(path.read_text(), str(path), "exec")):
            if scope.get_type() != "module":
                bound = [symbol for symbol in scope.get_symbols() if symbol.is_local()]
                others.update(s.get_name() for s in bound if not s.is_imported())
    return sorted(name for name in set(tops) - others if tops.count(name) == 1)


SLOW = hypothesis.settings(
    max_examples=3,
    phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)


@SLOW
@hypothesis.given(seed=st.integers(0, 10**6))
def test_names_of_locals_and_parameters_change_no_address(seed, copied, plain, stages):
    config = json.dumps([stage.config for stage in stages(lambda name: name)])
    given, random = given_names() | set(re.findall(r'"(\w+)":', config)), Random(seed)

    def change(folder, top):
        for path in sorted(folder.rglob("*.py")):
            names = local_names(path, given)
            some = [name for name in names if random.random() < 0.5]
            rewrite(path, Renamer({name: f"new_{number}_" for number, name in enumerate(some)}))

    assert copied(change) == plain


@SLOW
@hypothesis.given(data=st.data())
def test_names_of_classes_and_functions_change_no_address(data, copied, plain):
    some = data.draw(st.lists(st.sampled_from(definitions()), min_size=40, unique=True))
    names = {name: f"New{number}" for number, name in enumerate(some)}

    def change(folder, top):
        for path in folder.rglob("*.py"):
            rewrite(path, Renamer(names))

    def rename(target):
        head, mark, last = re.fullmatch(r"(.*)([.:])(\w+)", target).groups()
        return f"{head}{mark}{names.get(last, last)}"

    assert copied(change, rename) == plain


@SLOW
@hypothesis.given(data=st.data())
def test_where_a_file_lies_changes_no_address(data, copied, plain):
    files = [path for path in SOURCES.rglob("*.py") if path.stem != "__init__"]
    modules = sorted(str(path.relative_to(SOURCES).with_suffix("")) for path in files)
    some = data.draw(st.lists(st.sampled_from(modules), min_size=5, max_size=20, unique=True))
    moves = {name.replace("/", "."): f"moved.place{number}" for number, name in enumerate(some)}

    def moved(text: str, top: str) -> str:
        for old, new in moves.items():
            text = re.sub(rf"\b{top}\.{re.escape(old)}(?=[\s:.,]|$)", f"{top}.{new}", text)
            room, _, module = f"{top}.{old}".rpartition(".")
            text = re.sub(
                rf"^( *)from {re.escape(room)} import {module}$",
                rf"\1from {top}.moved import {new.partition('.')[2]} as {module}",
                text,
                flags=re.MULTILINE,
            )
        return text

    def change(folder, top):
        (folder / "moved").mkdir()
        for old, new in moves.items():
            source = folder / f"{old.replace('.', '/')}.py"
            source.rename(folder / f"{new.replace('.', '/')}.py")
        for path in folder.rglob("*.py"):
            path.write_text(moved(path.read_text(), top))

    assert copied(change, lambda name: moved(name, "softmark")) == plain


class Changer(ast.NodeTransformer):
    """Changes the ``wanted``-th number, operator or comparison of a definition, but no types."""

    def __init__(self, wanted: int):
        self.wanted, self.place = wanted, -1

    def _hit(self) -> bool:
        self.place += 1
        return self.place == self.wanted

    def visit_Constant(self, node):
        number = isinstance(node.value, int | float) and not isinstance(node.value, bool)
        if number and self._hit():
            node.value += 1
        return node

    def visit_BinOp(self, node):
        self.generic_visit(node)
        if self._hit():
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        return node

    def visit_Compare(self, node):
        self.generic_visit(node)
        if self._hit():
            node.ops[0] = ast.Lt() if isinstance(node.ops[0], ast.GtE) else ast.GtE()
        return node

    def visit_arg(self, node):
        return node

    def visit_AnnAssign(self, node):
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_FunctionDef(self, node):
        node.args = self.visit(node.args)
        node.body = [self.visit(part) for part in node.body]
        return node


def counted_definitions(stages) -> list[tuple[str, str]]:
    """The modules and names of all definitions that count for some stage."""
    roots = {root for stage in stages(lambda name: name) for root in stage.code}
    roots |= {root for stage in stages(lambda name: name) for root in stage.targets}
    definitions = set()
    for root in roots:
        for text, _ in _trace(root, True).definitions:
            place = text.places[0]
            if place.module.startswith("softmark.") and place.names:
                definitions.add((place.module, place.names[0]))
    return sorted(definitions)


@hypothesis.settings(SLOW, max_examples=6)
@hypothesis.given(data=st.data())
def test_a_number_an_operator_or_a_comparison_changes_some_address(data, copied, plain, stages):
    module, name = data.draw(st.sampled_from(counted_definitions(stages)))
    file = f"{module.removeprefix('softmark.').replace('.', '/')}.py"
    changed = []

    def change(folder, top):
        path = folder / file
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        tree = ast.parse(path.read_text())
        (node, *_) = [
            n
            for n in tree.body
            if name in (getattr(n, "name", ""), *(t.id for t in ast.walk(n) if is_target(t)))
        ]
        counter = Changer(-2)
        counter.visit(node)
        if counter.place >= 0:
            changer = Changer(data.draw(st.integers(0, counter.place)))
            changer.visit(node)
            changed.append(ast.unparse(node))
        path.write_text(ast.unparse(tree))

    addresses = copied(change)
    assert (addresses != plain) == bool(changed)


def is_target(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


@pytest.mark.parametrize(
    ("file", "before", "after", "roles"),
    [
        ("recipe.py", "0.95", "0.94", {"victim", "innocent", "suspect"}),
        ("models/networks.py", "8 * width", "9 * width", {"victim", "innocent", "suspect"}),
        ("attacks/forge.py", "range(self.keys)", "range(self.keys + 1)", {"suspect"}),
        ("verification/nulls.py", "0.5", "0.6", {"evidence", "verdict"}),
    ],
)
def test_an_edit_changes_the_addresses_of_what_it_decides(
    file, before, after, roles, copied, plain, stages
):
    def change(folder, top):
        text = (folder / file).read_text()
        assert before in text
        (folder / file).write_text(text.replace(before, after))

    pairs = zip(plain, copied(change), stages(lambda name: name), strict=True)
    changed = {stage.role.split("/")[0] for old, new, stage in pairs if old != new}
    assert roles <= changed


def test_what_judges_inside_an_attack_counts_judging_code(copied, plain, stages):
    """A change of ``CSP.exact_of`` makes ``adaptive_search`` on csp anew, and no training."""

    def change(folder, top):
        path = folder / "methods" / "csp.py"
        tree = ast.parse(path.read_text())
        (csp,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "CSP"]
        (exact,) = [n for n in csp.body if isinstance(n, ast.FunctionDef) and n.name == "exact_of"]
        exact.body.insert(0, ast.parse("print(1)").body[0])
        path.write_text(ast.unparse(tree))

    pairs = list(zip(plain, copied(change), stages(lambda name: name), strict=True))
    changed = [stage for old, new, stage in pairs if old != new]
    assert {stage.role for stage in changed} == {"key", "evidence", "suspect", "verdict"}
    attacks = [stage.config["attacks"][-1]["name"] for stage in changed if stage.role == "suspect"]
    assert attacks == ["adaptive_search"]


def test_display_names_change_no_address(stages):
    def unnamed(value):
        if isinstance(value, dict):
            shown = "_target_" in value
            return {k: "x" if shown and k == "name" else unnamed(v) for k, v in value.items()}
        return [unnamed(inner) for inner in value] if isinstance(value, list) else value

    for stage in stages(lambda name: name):
        other = Stage(stage.role, unnamed(stage.config), stage.code, (), stage.judges)
        assert other.address == stage.address
