"""Find the modules of our own code, and what their names mean. Nothing is imported for it."""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib.util
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from softmark.errors import InputError

LIBRARIES = {"site-packages", "dist-packages"}
# Asked where it lies, importlib asks a hook of setuptools, which imports itself.
HOOKED = {"distutils"}


class Spot(NamedTuple):
    """Where a module lies: its source file, if it has one, and the folders of its submodules."""

    file: Path | None
    folders: tuple[Path, ...]


@functools.cache
def spot_of(module: str) -> Spot | None:
    """Return where ``module`` lies; None where there is none."""
    above, _, name = module.rpartition(".")
    # What is no name of a file or folder would lead out of its package.
    if module in HOOKED or name != Path(name).name:
        return None
    if not above:
        # Asked for a module inside a package, importlib would import the package, and torch.
        spec = None
        with contextlib.suppress(ValueError):  # no name at all, or __main__
            spec = importlib.util.find_spec(module)
        if spec is None:
            return None
        source = spec.has_location and str(spec.origin).endswith(".py")
        folders = tuple(map(Path, spec.submodule_search_locations or ()))
        return Spot(Path(str(spec.origin)) if source else None, folders)
    package = spot_of(above)
    stems = [folder / name for folder in package.folders] if package else []
    for stem in stems:
        if (stem / "__init__.py").is_file():
            return Spot(stem / "__init__.py", (stem,))
        if stem.with_suffix(".py").is_file():
            return Spot(stem.with_suffix(".py"), ())
    folders = tuple(stem for stem in stems if stem.is_dir())
    return Spot(None, folders) if folders else None


@functools.cache
def home_of(top: str) -> Path | None:
    """Return the folder that the top module ``top`` lies in; None for a library."""
    spot = spot_of(top)
    place = spot and (spot.folders[0] if spot.folders else spot.file)
    if not place or LIBRARIES & set(place.parts):
        return None
    return None if place.is_relative_to(sysconfig.get_path("stdlib")) else place.parent


class Place(NamedTuple):
    """A module, and names to follow from there: an attribute, an attribute of that, ..."""

    module: str
    names: tuple[str, ...]


@functools.cache
def find(place: Place, home: Path | None) -> tuple[Place | None, tuple[str, ...]]:
    """Return the definition of ours that ``place`` leads to, and the names left over.

    Without a name it is a module as a whole: one that is used as a value, or lacks the name. For
    what isn't ours: None, and its full name.
    """
    module, names = place
    top = module.partition(".")[0]
    ours = top == "softmark" or (home is not None and home_of(top) == home)
    if not ours or spot_of(module) is None:
        return None, (*module.split("."), *names)
    if not names:
        return place, ()
    bound = bindings(module)
    pieces = bound.get(names[0], [])
    if len(pieces) == 1 and isinstance(pieces[0], Place):
        return find(Place(pieces[0].module, pieces[0].names + names[1:]), home)
    if pieces:
        return Place(module, names[:1]), names[1:]
    if spot_of(f"{module}.{names[0]}"):
        return find(Place(f"{module}.{names[0]}", names[1:]), home)
    if "__getattr__" in bound:
        # A package that gives its names when they are asked for has them in its modules.
        for submodule in _submodules(module):
            pieces = bindings(submodule).get(names[0], [])
            if any(isinstance(piece, ast.stmt) for piece in pieces):
                return find(Place(submodule, names), home)
    starred = [find(Place(star.module, names), home) for star in bound.get("*", [])]
    definite = [result for result in starred if result[0] and result[0].names]
    libraries = [result for result in starred if result[0] is None]
    return [*definite, *libraries, (Place(module, ()), names)][0]


def _submodules(package: str) -> Iterator[str]:
    """Yield the modules that lie in ``package``, by name."""
    spot = spot_of(package)
    for folder in spot.folders if spot else ():
        for path in sorted(folder.glob("*.py")):
            if path.stem != "__init__":
                yield f"{package}.{path.stem}"


@functools.cache
def bindings(module: str) -> dict[str, list[Any]]:
    """Return what makes each top-level name: statements, and the ``Place`` of an imported one.

    Raises:
        InputError: the file is no Python.
    """
    spot, pieces_of = spot_of(module), {}
    try:
        tree = ast.parse(spot.file.read_bytes() if spot and spot.file else "")
    except SyntaxError as error:
        raise InputError(f"{spot.file}, line {error.lineno}: {error.msg}") from error
    for statement in counted(tree.body):
        if isinstance(statement, ast.AnnAssign) and statement.value is None:
            continue
        plain = isinstance(statement, ast.Import | ast.ImportFrom)
        for name, places in bound_by(statement, module):
            pieces = pieces_of.setdefault(name, [])
            pieces += [piece for piece in ([] if plain else [statement]) if piece not in pieces]
            pieces += [place for place in places if place not in pieces]
        for name in _changed(statement):
            pieces = pieces_of.get(name, [])
            if statement not in pieces and any(isinstance(piece, ast.stmt) for piece in pieces):
                pieces.append(statement)
    return pieces_of


def counted(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements of ``body`` but for those of type checkers and of scripts."""
    for statement in body:
        match statement:
            case (
                ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"))
                | ast.If(test=ast.Compare(left=ast.Name(id="__name__")))
            ):
                yield from counted(statement.orelse)
            case _:
                yield statement


def bound_by(node: ast.AST, module: str) -> Iterator[tuple[str, tuple[Place, ...]]]:
    """Yield the names that ``node`` binds in the scope around it, and an imported one's place."""
    match node:
        case ast.Import():
            for alias in node.names:
                imported = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or imported, (Place(imported, ()),)
        case ast.ImportFrom():
            source = _source(node, module)
            for alias in node.names:
                # What a package imports from itself is a module of its own.
                place = Place(source, (alias.name,))
                if source == module:
                    place = Place(f"{module}.{alias.name}", ())
                yield alias.asname or alias.name, (place,)
        case ast.Global():
            yield from ((name, (Place(module, (name,)),)) for name in node.names)
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name, ()
        case ast.Lambda():
            return
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            named = [inner for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
            yield from ((inner.target.id, ()) for inner in named)
        case ast.Name():
            if not isinstance(node.ctx, ast.Load):
                yield node.id, ()
        case _:
            # Of an exception handler, and of patterns.
            names = [getattr(node, name, None) for name in ("name", "rest")]
            yield from ((name, ()) for name in names if isinstance(name, str))
            statements = list(counted([node]))
            children = ast.iter_child_nodes(node) if statements == [node] else statements
            for child in children:
                yield from bound_by(child, module)


def _source(node: ast.ImportFrom, module: str) -> str:
    """Return the full name of the module that ``node``, in ``module``, imports from."""
    spot = spot_of(module)
    is_package = spot is not None and bool(spot.folders)
    package = module if is_package else module.rpartition(".")[0]
    return importlib.util.resolve_name("." * node.level + (node.module or ""), package)


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Yield the names whose objects ``statement``, at the top of a module, changes in place."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    for node in ast.walk(statement):
        match node:
            case ast.Attribute() | ast.Subscript() if not isinstance(node.ctx, ast.Load):
                changed = [node]
            case ast.Expr(value=ast.Call(func=ast.Attribute() as method)):
                changed = [method]
            case ast.Expr(value=ast.Call(args=arguments)):
                changed = arguments
            case _:
                continue
        for target in changed:
            while isinstance(target, ast.Attribute | ast.Subscript):
                target = target.value
            if isinstance(target, ast.Name):
                yield target.id
