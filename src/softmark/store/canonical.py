"""Definitions as text: what they say counts, not where they lie or how they name things.

Definitions of ours and local names become numbers, in the order in which they are met and bound. A
parameter counts by its place, and by its name where some call or string may give that name.
Attributes count by name: they are looked up while a program runs.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from softmark.store.names import Place, bindings, bound_by, counted, find

# Methods that judge a model: they are left out of the address of a stage that only trains, because
# what judges a model must not decide where the model lies.
JUDGING_METHODS = frozenset({"evidence", "probes", "exact", "exact_of", "owner_test", "identify"})
# Parts of the syntax that say nothing of what is computed.
UNCOUNTED = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind", "simple"}


def sha256(text: str) -> str:
    """Return the hex SHA-256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


class Written(NamedTuple):
    """What a definition says.

    Args:
        digest: of its text.
        places: the definitions of ours that it refers to, itself first.
        parameters: the names of its functions' parameters, in order.
        words: the names that its calls and strings may give to parameters.
        judges: whether it calls one of ``JUDGING_METHODS``, of whatever object.
    """

    digest: str
    places: tuple[Place, ...]
    parameters: tuple[str, ...]
    words: frozenset[str]
    judges: bool


class Scope(NamedTuple):
    """The names bound in a function or a class.

    Args:
        names: each with its places, where an import binds it.
        since: in a class, the line and column behind which each is bound; None elsewhere.
    """

    names: dict[str, tuple[Place, ...]]
    since: dict[str, tuple[int, int]] | None = None

    def number(self, name: str) -> int:
        """Return the place of a local name among those that no import binds."""
        return [local for local, places in self.names.items() if not places].index(name)


@functools.cache
def written(definition: Place, home: Path | None, judges: bool) -> Written:
    """Return what ``definition`` says; without its judging methods where ``judges`` is false."""
    writer = Writer(definition, home, judges)
    if definition.names:
        pieces = bindings(definition.module)[definition.names[0]]
        text = "\n".join(map(writer.write, pieces))
    else:
        # All that it has, by name: it may be asked for any.
        places = {name: Place(definition.module, (name,)) for name in bindings(definition.module)}
        ours = [name for name in sorted(places) if name != "*" and find(places[name], home)[0]]
        text = "\n".join(f"{name} {writer.refer(places[name])}" for name in ours)
    return Written(
        sha256(text),
        tuple(writer.numbers),
        tuple(writer.parameters),
        frozenset(writer.words),
        writer.calls_judging,
    )


class Writer:
    """Writes syntax with a number for each definition of ours and without what doesn't count."""

    def __init__(self, definition: Place, home: Path | None, judges: bool):
        self.module = definition.module
        self.home = home
        self.judges = judges
        self.numbers = {definition: 0}
        self.scopes: list[Scope] = []
        self.parameters: list[str] = []
        self.words: set[str] = set()
        self.calls_judging = False

    def refer(self, place: Place) -> str:
        """Return the number of the definition that ``place`` leads to, or a library's full name."""
        definition, names = find(place, self.home)
        if definition is None:
            return f"<{'.'.join(names)}>"
        return ".".join([f"<{self.numbers.setdefault(definition, len(self.numbers))}>", *names])

    def write(self, node: Any) -> str:
        """Return ``node``, a piece of syntax or a list of them, as text."""
        in_class = bool(self.scopes) and self.scopes[-1].since is not None
        match node:
            case Place():
                return self.refer(node)
            case [ast.stmt(), *_]:
                return f"[{','.join(filter(None, map(self.write, counted(node))))}]"
            case list():
                return f"[{','.join(map(self.write, node))}]"
            case ast.Import() | ast.ImportFrom() | ast.Global() | ast.Nonlocal() | ast.Pass():
                return ""
            case ast.Expr(value=ast.Constant()):
                return ""
            case ast.AnnAssign(value=None) if not in_class:
                return ""
            case ast.AnnAssign() if not in_class:
                return self._plain(ast.Assign([node.target], node.value))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                left_out = in_class and not self.judges and node.name in JUDGING_METHODS
                return "" if left_out else self._scoped(node)
            case ast.ClassDef() | ast.Lambda():
                return self._scoped(node)
            case ast.JoinedStr(values=[*pieces, ast.Constant(value="")]):
                # The first releases of Python 3.12 end a nested format with an empty text.
                return self.write(ast.JoinedStr(pieces))
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return self._comprehension(node)
            case ast.Name() | ast.Attribute():
                return self._name(node)
            case ast.arg():
                self.parameters.append(node.arg)
                return "arg"
            case ast.Call(func=ast.Attribute(attr=name)) if name in JUDGING_METHODS:
                self.calls_judging = True
                return self._plain(node)
            case ast.keyword():
                self.words.update([node.arg] if node.arg else [])
                return self._plain(node)
            case (
                ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()) | ast.MatchStar(name=str())
            ):
                return f"{self._plain(node, 'name')} {self._bound(node.name)}"
            case ast.MatchMapping(rest=str()):
                return f"{self._plain(node, 'rest')} {self._bound(node.rest)}"
            case ast.Constant():
                self.words.update([node.value] if isinstance(node.value, str) else [])
                return repr(node.value)
            case ast.AST():
                return self._plain(node)
        return repr(node)

    def _plain(self, node: ast.AST, *without: str) -> str:
        """Return the type of ``node`` and its fields; Pythons differ in which are empty."""
        texts = []
        for name, value in ast.iter_fields(node):
            if name not in UNCOUNTED and name not in without and value is not None:
                text = self.write(value)
                texts += [f"{name}={text}"] if text not in ("", "[]") else []
        return f"{type(node).__name__}({', '.join(texts)})"

    def _scoped(self, node: Any) -> str:
        """Return a function, class or lambda; all but its body is of the scope around it."""
        name = getattr(node, "name", "")
        if name:
            name = self._bound(name) if self.scopes else self.refer(Place(self.module, (name,)))
        around = self._plain(node, "name", "body")
        body = node.body if isinstance(node.body, list) else [node.body]
        names, since = {}, {}
        if args := getattr(node, "args", None):
            parameters = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            names = {parameter.arg: () for parameter in parameters if parameter}
        for part in body:
            for bound, places in bound_by(part, self.module):
                names[bound] = names.get(bound, ()) + places
                since.setdefault(bound, (part.end_lineno, part.end_col_offset))
        for elsewhere in _bound_elsewhere(body):
            names.pop(elsewhere, None)
        self.scopes.append(Scope(names, since if isinstance(node, ast.ClassDef) else None))
        text = f"{around} {name} {self.write(body)}"
        self.scopes.pop()
        return text

    def _comprehension(self, node: Any) -> str:
        """Return a comprehension; its first iterable is of the scope around it."""
        first, *others = node.generators
        texts = [self.write(first.iter)]
        targets = [generator.target for generator in node.generators]
        names = {name: () for target in targets for name, _ in bound_by(target, self.module)}
        self.scopes.append(Scope(names))
        texts += [self._plain(first, "iter"), self.write(others), self._plain(node, "generators")]
        self.scopes.pop()
        return " ".join(texts)

    def _name(self, node: ast.Name | ast.Attribute) -> str:
        """Return a name and its attributes: a local name as a number, a builtin's as it is."""
        names, start = (), node
        while isinstance(start, ast.Attribute):
            names, start = (start.attr, *names), start.value
        if not isinstance(start, ast.Name):
            return ".".join([self.write(start), *names])
        places, local = self._binding(start)
        if not places:
            return ".".join([local, *names])
        return "|".join(self.refer(Place(module, above + names)) for module, above in places)

    def _bound(self, name: str) -> str:
        """Return how a definition's, an exception's or a pattern's name is written there."""
        return self._binding(ast.Name(name, ast.Store()))[1]

    def _binding(self, name: ast.Name) -> tuple[tuple[Place, ...], str]:
        """Return the places that ``name`` comes from, or none and how a local one is written."""
        for depth, (names, since) in enumerate(reversed(self.scopes)):
            if since is not None:
                reads = isinstance(name.ctx, ast.Load)
                early = reads and (name.lineno, name.col_offset) < since.get(name.id, (0, 0))
                # Functions in a class don't see its names, nor do its own statements before.
                if depth or early:
                    continue
            if name.id in names:
                if since is not None or names[name.id]:
                    return names[name.id], name.id
                level = len(self.scopes) - 1 - depth
                return (), f"${level}.{self.scopes[level].number(name.id)}"
        bound = bindings(self.module)
        if name.id in bound or ("*" in bound and not hasattr(builtins, name.id)):
            return (Place(self.module, (name.id,)),), name.id
        return (), name.id


def _bound_elsewhere(body: list[ast.AST]) -> Iterator[str]:
    """Yield the names that statements of a function's ``body`` declare ``nonlocal``."""
    for node in _direct_nodes(body):
        if isinstance(node, ast.Nonlocal):
            yield from node.names


def _direct_nodes(body: list[ast.AST]) -> Iterator[ast.AST]:
    """Yield the nodes of ``body`` but for those inside the functions and classes in it."""
    inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for node in body:
        yield node
        if not isinstance(node, inner):
            yield from _direct_nodes(list(ast.iter_child_nodes(node)))
