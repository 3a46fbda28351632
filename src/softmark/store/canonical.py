"""Definitions as text: what they say counts, not where they lie or what they are called."""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from softmark.store.names import Place, bindings, bound_by, counted, find

# What judges a model must not decide where the model lies: these methods are left out of the
# address of a stage that trains.
JUDGING_METHODS = frozenset({"evidence", "probes", "exact", "identify", "overlapping"})
# Parts of the syntax that say nothing of what is computed.
UNCOUNTED = {"annotation", "returns", "type_comment", "type_params", "ctx", "kind", "simple"}


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Scope(NamedTuple):
    """The names bound in a function or a class, with the places of imported ones.

    ``since``: in a class, the line and column behind which each is bound.
    """

    names: dict[str, tuple[Place, ...]]
    since: dict[str, tuple[int, int]] | None = None


@functools.cache
def written(definition: Place, home: Path | None, judges: bool) -> tuple[str, tuple[Place, ...]]:
    """A hash of what ``definition`` says, and the definitions it refers to, itself first."""
    writer = Writer(definition, home, judges)
    if definition.names:
        pieces = bindings(definition.module)[definition.names[0]]
        text = "\n".join(map(writer.write, pieces))
    else:
        # All that it has, by name: it may be asked for any.
        places = {name: Place(definition.module, (name,)) for name in bindings(definition.module)}
        ours = [name for name in sorted(places) if name != "*" and find(places[name], home)[0]]
        text = "\n".join(f"{name} {writer.refer(places[name])}" for name in ours)
    return sha256(text), tuple(writer.numbers)


class Writer:
    """Writes syntax with a number for each definition of ours and without what doesn't count."""

    def __init__(self, definition: Place, home: Path | None, judges: bool):
        self.module = definition.module
        self.home = home
        self.judges = judges
        self.numbers = {definition: 0}
        self.scopes: list[Scope] = []

    def refer(self, place: Place) -> str:
        found, rest = find(place, self.home)
        if found is None:
            return f"<{'.'.join(rest)}>"
        return ".".join([f"<{self.numbers.setdefault(found, len(self.numbers))}>", *rest])

    def write(self, node: Any) -> str:
        in_class = bool(self.scopes) and self.scopes[-1].since is not None
        match node:
            case Place():
                return self.refer(node)
            case [ast.stmt(), *_]:
                return f"[{','.join(filter(None, map(self.write, counted(node))))}]"
            case list():
                return f"[{','.join(map(self.write, node))}]"
            case ast.Import() | ast.ImportFrom() | ast.Global() | ast.Pass():
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
            case ast.Constant():
                return repr(node.value)
            case ast.AST():
                return self._plain(node)
        return repr(node)

    def _plain(self, node: ast.AST, *without: str) -> str:
        """The type of ``node`` and its fields, empty ones left out: they differ between Pythons."""
        texts = []
        for name, value in ast.iter_fields(node):
            if name not in UNCOUNTED and name not in without and value is not None:
                text = self.write(value)
                texts += [f"{name}={text}"] if text not in ("", "[]") else []
        return f"{type(node).__name__}({', '.join(texts)})"

    def _scoped(self, node: Any) -> str:
        """A function, class or lambda: all but its body belongs to the scope around it."""
        name = getattr(node, "name", "")
        if name and not self.scopes:
            name = self.refer(Place(self.module, (name,)))
        around = self._plain(node, "name", "body")
        body = node.body if isinstance(node.body, list) else [node.body]
        names, since = {}, {}
        if args := getattr(node, "args", None):
            every = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            names = {arg.arg: () for arg in every if arg}
        for part in body:
            for bound, places in bound_by(part, self.module):
                names[bound] = names.get(bound, ()) + places
                since.setdefault(bound, (part.end_lineno, part.end_col_offset))
        self.scopes.append(Scope(names, since if isinstance(node, ast.ClassDef) else None))
        text = f"{around} {name} {self.write(body)}"
        self.scopes.pop()
        return text

    def _comprehension(self, node: Any) -> str:
        """Its first iterable belongs to the scope around it."""
        first, *others = node.generators
        texts = [self.write(first.iter)]
        targets = [each.target for each in node.generators]
        names = {name: () for target in targets for name, _ in bound_by(target, self.module)}
        self.scopes.append(Scope(names))
        texts += [self._plain(first, "iter"), self.write(others), self._plain(node, "generators")]
        self.scopes.pop()
        return " ".join(texts)

    def _name(self, node: ast.Name | ast.Attribute) -> str:
        """A name and its attributes: as they are where it is local or a builtin."""
        names, start = (), node
        while isinstance(start, ast.Attribute):
            names, start = (start.attr, *names), start.value
        if not isinstance(start, ast.Name):
            return ".".join([self.write(start), *names])
        places = self._places(start)
        if not places:
            return ".".join([start.id, *names])
        return "|".join(self.refer(Place(module, above + names)) for module, above in places)

    def _places(self, name: ast.Name) -> tuple[Place, ...]:
        """Where what ``name`` is bound to comes from: () for a local one or a builtin."""
        for depth, (names, since) in enumerate(reversed(self.scopes)):
            if since is not None:
                reads = isinstance(name.ctx, ast.Load)
                early = (name.lineno, name.col_offset) < since.get(name.id, (0, 0))
                # Functions in a class don't see its names, nor do its own statements before.
                if depth or (reads and early):
                    continue
            if name.id in names:
                return names[name.id]
        bound = bindings(self.module)
        if name.id in bound or ("*" in bound and not hasattr(builtins, name.id)):
            return (Place(self.module, (name.id,)),)
        return ()
