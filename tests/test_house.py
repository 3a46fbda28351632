"""The shape of the code: imports run one way, files and functions stay short."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import ROOT

PACKAGE = ROOT / "src" / "softmark"
TESTS = ROOT / "tests"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}


def room(path: Path) -> str:
    """The package of a file, or the file itself where it lies at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def runs(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of ``tree`` but for what type checkers alone read; imports in functions as well."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from runs(node)


def needed_files(path: Path) -> Iterator[str]:
    """The modules of softmark that ``path`` imports, wherever in the file."""
    for node in runs(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in inner if name in MODULES)
            # A package that is asked for a name, not for a module, runs as a whole.
            if node.module in MODULES and not set(inner) <= MODULES.keys():
                yield node.module


def test_no_two_files_need_each_other():
    needs = {name: set(needed_files(path)) - {name} for name, path in MODULES.items()}
    assert sum(map(len, needs.values())) > 100
    list(graphlib.TopologicalSorter(needs).static_order())


def test_no_room_needs_one_above_it():
    needs: dict[str, set[str]] = {}
    for path in FILES:
        names = {name.split(".")[1] for name in imported(path) if name.startswith("softmark.")}
        there = {
            name for name in names if (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists()
        }
        needs.setdefault(room(path), set()).update(there - {room(path)})
    order = list(graphlib.TopologicalSorter(needs).static_order())
    assert order.index("data") < order.index("models") < order.index("methods")
    assert order.index("methods") < order.index("experiment") < order.index("report")


def test_no_test_file_imports_from_another_one():
    paths = sorted(TESTS.rglob("*.py"))
    files = {"conftest", *(path.stem for path in paths if path.stem.startswith("test_"))}
    assert len(files) > 50
    for path in paths:
        parts = {part for name in imported(path) for part in name.split(".")}
        assert not parts & files, f"{path} imports from {parts & files}: helpers/ is for both"


def test_the_folders_of_the_tests_are_those_of_the_code():
    others = {"cluster", "commands", "contract", "files", "forger", "helpers", "sketches"}
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    own = {folder for folder in folders if folder.parts and folder.parts[0] not in others}
    assert {"attacks", "methods", "owner/suspects"} <= {folder.as_posix() for folder in own}
    for folder in own:
        assert (PACKAGE / folder).is_dir(), f"tests/{folder}: softmark has no such folder"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_and_functions_are_short(path):
    text = path.read_text()
    assert len(text.splitlines()) < 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert length(node) < 50, f"{node.name} is too long"


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring, which is as long as its arguments need."""
    first = function.body[0]
    docstring = ast.get_docstring(function, clean=False)
    described = first.end_lineno - first.lineno + 1 if docstring is not None else 0
    return function.end_lineno - function.lineno - described
