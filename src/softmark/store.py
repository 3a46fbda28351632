"""Where artefacts lie: the address of a stage, and a store that makes each stage exactly once.

An address is a hash of everything that decides a result: the stage's own config, the code that it
names, the versions of torch and Lightning, the data, and the addresses of its parents. Nothing here
imports torch, so that addresses can be computed, and records found, in a fraction of a second.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError

from softmark.errors import InputError

# What judges a model must not decide where the model lies: these are left out of the address of a
# stage that trains, by module and by the name of a method.
JUDGING_MODULES = frozenset({"softmark.verification"})
JUDGING_FUNCTIONS = frozenset({"evidence", "nulls", "exact", "accuse"})


@dataclass(frozen=True)
class Stage:
    """One thing to make: a victim, an innocent, a watermarked model, a suspect or a verdict.

    ``config``: plain containers, hashed. ``code``: ``module`` or ``module:function``, hashed with
    what it imports from softmark. ``make(folder)`` writes the artefact; what it returns goes into
    ``stage.json``.
    """

    role: str
    config: dict[str, Any]
    code: tuple[str, ...]
    parents: tuple[Stage, ...] = ()
    make: Callable[[Path], dict[str, Any]] = field(default=lambda folder: {}, compare=False)
    judges: bool = False

    @functools.cached_property
    def address(self) -> str:
        """16 hex digits: 64 bits, so that a collision among a million stages has odds of 3e-8."""
        identity = {
            "role": self.role,
            "config": self.config,
            "code": code_hash(self.code, judges=self.judges),
            "versions": {name: _version(name) for name in _VERSIONED},
            "parents": [parent.address for parent in self.parents],
        }
        text = json.dumps(identity, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


# What a folder that can't be written, or a disk that is full, raises.
_UNWRITABLE = {
    errno.EACCES,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOTDIR,
    errno.EEXIST,
}
_VERSIONED = ("torch", "pytorch-lightning")


@functools.cache
def _version(package: str) -> str:
    """Read from disk once: asked anew for each stage, it is nine tenths of a cell's addresses."""
    return importlib.metadata.version(package)


def code_hash(roots: Iterable[str], *, judges: bool) -> str:
    """The SHA-256 of the syntax of ``roots`` and of every softmark module that they import.

    Comments, docstrings and layout don't count. With ``judges`` false, the code that only judges
    (``JUDGING_MODULES``, ``JUDGING_FUNCTIONS``) doesn't either.
    """
    texts: dict[str, str] = {}
    todo = list(roots)
    while todo:
        root = todo.pop()
        module = root.partition(":")[0]
        if root in texts or (not judges and module in JUDGING_MODULES):
            continue
        texts[root], imported = _code(root, judges)
        todo.extend(imported)
    whole = "\n".join(f"{root}\n{texts[root]}" for root in sorted(texts))
    return hashlib.sha256(whole.encode()).hexdigest()


@functools.cache
def _code(root: str, judges: bool) -> tuple[str, tuple[str, ...]]:
    """The normalised source of ``module`` or ``module:function`` and the softmark modules in it."""
    module, _, function = root.partition(":")
    path = _file(module)
    if path is None:
        raise InputError(f"_target_ names {module}: there is no such module")
    tree: ast.AST = ast.parse(path.read_text(encoding="utf-8"))
    if function:
        tree = next(n for n in ast.walk(tree) if getattr(n, "name", None) == function)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            node.body = [n for n in node.body if judges or not _judges(n)] or [ast.Pass()]
    return ast.unparse(tree), tuple(_imports(tree))


def _judges(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name in JUDGING_FUNCTIONS


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name for name in inside if _file(name)] or [node.module or ""]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] == "softmark")


def _file(module: str) -> Path | None:
    """The file of a module of softmark. importlib would import the packages above it, and torch."""
    stem = Path(__file__).parents[1].joinpath(*module.split("."))
    found = [path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()]
    return found[0] if found else None


def targets(config: Any) -> set[str]:
    """The modules of every ``_target_`` in ``config`` that are softmark's own."""
    if isinstance(config, dict):
        own = str(config.get("_target_", "")).rpartition(".")[0]
        found = {own} if own.split(".")[0] == "softmark" else set()
        return found.union(*(targets(value) for value in config.values()))
    if isinstance(config, list):
        return set().union(*(targets(value) for value in config))
    return set()


class Store:
    """Folders ``root/ROLE/ADDRESS``, each complete or absent.

    A stage is made under a lock, in a folder of its own, and renamed when it is whole: two
    processes never make it twice, and one that is killed leaves nothing that a later run trusts.
    """

    def __init__(self, root: Path, report: Callable[[str], None]):
        self.root = root
        self.report = report
        self.made: list[Stage] = []

    def folder(self, stage: Stage) -> Path:
        return self.root / stage.role.split("/")[0] / stage.address

    def once(self, stage: Stage) -> Path:
        """The folder of ``stage``, made now if it isn't there, its parents first."""
        folder = self.folder(stage)
        if _whole(folder):
            return folder
        for parent in stage.parents:
            self.once(parent)
        with _writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                # Another process may have made it while this one waited.
                if not _whole(folder):
                    self._make(stage, folder)
        return folder

    def _make(self, stage: Stage, folder: Path) -> None:
        if folder.exists():
            self.report(f"{folder} is damaged: it is made anew")
        workshop = folder.with_suffix(".making")
        # Nobody else holds the lock, so what lies here was left by a process that was killed.
        shutil.rmtree(workshop, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        workshop.mkdir()
        start = time.perf_counter()
        try:
            notes = stage.make(workshop)
            seconds = round(time.perf_counter() - start, 3)
            _write_manifest(stage, workshop, {"seconds": seconds, "notes": notes})
            workshop.rename(folder)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
        self.made.append(stage)
        self.report(f"made {stage.role:<24} {stage.address}  {seconds:7.1f} s")


def manifest(folder: Path) -> dict[str, Any]:
    """``stage.json`` of a stage's folder: role, config, parents, files, seconds, notes."""
    return json.loads((folder / "stage.json").read_text())


def _whole(folder: Path) -> bool:
    """Whether the folder is there with every file as it was written."""
    try:
        files = manifest(folder)["files"]
        return all(_sha256(folder / name) == digest for name, digest in files.items())
    # No such file, no JSON, JSON of another shape.
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _write_manifest(stage: Stage, folder: Path, facts: dict[str, Any]) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    told = {
        "role": stage.role,
        "address": stage.address,
        "config": stage.config,
        "parents": [f"{parent.role}:{parent.address}" for parent in stage.parents],
        "files": {str(path.relative_to(folder)): _sha256(path) for path in paths},
        **facts,
    }
    (folder / "stage.json").write_text(json.dumps(told, indent=1) + "\n")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turns the errors of a folder that can't be written into a message about it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = _errno(error)
        if number not in _UNWRITABLE:
            raise
        reason = os.strerror(number)
        raise InputError(f"{path}: {reason}; output_dir=DIR writes elsewhere") from error


def _errno(error: OSError | SafetensorError) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    # safetensors says what the system told it in its message alone.
    told = re.search(r"os error (\d+)", str(error))
    return int(told[1]) if told else None


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that a reader finds the old file or the new one, never a part of one."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
