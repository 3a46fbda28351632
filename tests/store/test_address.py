"""Each sketch is a package of its own: that its name doesn't count, every comparison shows."""

import ast
import builtins
import importlib
import itertools
import json
import keyword
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT
from softmark.errors import InputError
from softmark.store import address
from softmark.store.address import Stage, code_hash
from softmark.store.canonical import JUDGING_METHODS

FRESH = map("sketch{}".format, itertools.count())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of sys.path for users' packages."""
    folder = tmp_path_factory.mktemp("sketches")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def sketch(folder):
    """``sketch(a="...", b="...")``: the name of a new package of these modules.

    In their text ``TOP`` is that name; ``init`` is ``__init__.py``.
    """

    def make(**modules):
        top = next(FRESH)
        (folder / top).mkdir()
        for name, text in {"init": "", **modules}.items():
            path = folder / top / f"{'__init__' if name == 'init' else name}.py"
            path.write_text(textwrap.dedent(text).replace("TOP", top))
        importlib.invalidate_caches()
        return top

    return make


@pytest.fixture(scope="module")
def code(sketch):
    """``code(a="...", ...)``: the hash of ``f`` of module ``a`` of a new package."""

    def make(root="a.f", judges=False, **modules):
        return code_hash((f"{sketch(**modules)}.{root}",), judges=judges)

    return make


def stage(role="victim", parents=(), **config):
    return Stage(role, config, (), parents)


# --- the address of a stage -------------------------------------------------------------------


def test_the_address_is_short_and_says_everything(monkeypatch):
    first = stage(seed=0)
    assert len(first.address) == 16
    assert set(first.address) <= set("0123456789abcdef")
    assert stage(seed=0).address == first.address
    child = replace(first, role="suspect", parents=(first,))
    others = [
        stage(seed=1),
        stage(seed=0, more=None),
        replace(first, role="innocent/evaluation/0"),
        replace(first, code=("softmark.errors:InputError",)),
        child,
        replace(child, parents=()),
        replace(child, parents=(stage(seed=1),)),
        replace(child, parents=(first, first)),
    ]
    assert len({first.address, *(other.address for other in others)}) == 1 + len(others)
    monkeypatch.setattr(address, "_versions", lambda: {"torch": "0"})
    assert stage(seed=0).address != first.address


def test_a_grandparent_counts():
    def line(seed):
        return stage("suspect", (stage("watermarked", (stage(seed=seed),)),))

    assert line(0).address == line(0).address != line(1).address


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=12,
)


def shuffled(value, shuffle):
    if isinstance(value, list):
        return [shuffled(each, shuffle) for each in value]
    if not isinstance(value, dict):
        return value
    keys = list(value)
    shuffle(keys)
    return {key: shuffled(value[key], shuffle) for key in keys}


@given(config=st.dictionaries(st.text(max_size=3), JSON, max_size=5), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_order_of_keys_does_not_count(config, seed):
    first = Stage("victim", config, ())
    other = Stage("victim", shuffled(config, random.Random(seed).shuffle), ())
    assert other.address == first.address
    assert replace(first, config={**config, "more": 0}).address != first.address


def test_a_config_that_is_not_plain_is_refused():
    for strange in (float("nan"), object()):
        with pytest.raises((ValueError, TypeError)):
            stage(strange=strange).address  # noqa: B018


def test_a_target_counts_by_its_code_wherever_it_stands(sketch):
    first = sketch(a="class Loss:\n    weight = 1")
    moved = sketch(b="class Other:\n    weight = 1", a="from TOP.b import Other as Loss")
    changed = sketch(a="class Loss:\n    weight = 2")

    def addressed(target, **more):
        config = {"inner": [{"deep": {"_target_": target, "size": 3, **more}}]}
        return [replace(stage(**config), judges=judges).address for judges in (False, True)]

    assert addressed(f"{first}.a.Loss") == addressed(f"{moved}.a.Loss")
    assert addressed(f"{first}.a.Loss") == addressed(f"{moved}.b.Other")
    for other in (addressed(f"{changed}.a.Loss"), addressed(f"{first}.a.Loss", size=4)):
        assert not set(other) & set(addressed(f"{first}.a.Loss"))
    # The text of any other key is text.
    assert stage(name=f"{first}.a.Loss").address != stage(name=f"{moved}.b.Other").address


def test_the_target_of_a_library_is_text():
    linear, flatten = (stage(_target_=f"torch.nn.{name}") for name in ("Linear", "Flatten"))
    assert linear.address == stage(_target_="torch.nn.Linear").address != flatten.address
    assert stage(_target_="builtins.dict").address != stage(_target_="json.loads").address


def test_a_library_under_one_of_our_names_is_the_librarys(code):
    for name in ("torch.nn.Linear", "json.loads"):
        module, _, its = name.rpartition(".")
        assert code(a=f"from {module} import {its} as f") == code_hash((name,), judges=True)


@pytest.mark.parametrize(
    "target",
    [
        "softmark.methods.uspp.USP",
        "softmark.errors.NoError",
        "softmark.errors",
        "softmark",
        "softmrak.errors.InputError",
        "softmark.errors:NoError",
        ".errors",
        "",
    ],
)
def test_what_is_not_there_is_named(target):
    message = re.escape(f"_target_ names {target}: there is no such class")
    with pytest.raises(InputError, match=message):
        code_hash((target,), judges=False)
    with pytest.raises(InputError, match=message):
        stage(inner=[{"_target_": target}]).address  # noqa: B018


def test_a_file_that_is_no_python_is_named(sketch):
    with pytest.raises(InputError, match=r"a\.py, line 2: "):
        code_hash((f"{sketch(a='x = 1' + chr(10) + 'def f(:')}.a.f",), judges=False)


def test_roots_are_written_in_two_ways_and_in_any_order(sketch):
    top = sketch(a="def f(): return 1\ndef g(): return 2\nclass C:\n    def load(): return f()")
    both = [f"{top}.a:f", f"{top}.a.g"]
    assert code_hash(both, judges=False) == code_hash(both[::-1], judges=False)
    assert code_hash(both, judges=False) == code_hash((f"{top}.a.f", f"{top}.a:g"), judges=False)
    assert code_hash(both[:1], judges=False) != code_hash(both[1:], judges=False)
    methods = [code_hash((f"{top}.a.C{end}",), judges=False) for end in ("", ".load", ".save")]
    assert len(set(methods)) == 3


# --- names and places -------------------------------------------------------------------------

# Each definition, and which others its text names in braces.
PROGRAM = {
    "LIMIT": "{LIMIT} = 4",
    "RATE": "{RATE}: float = {LIMIT} / 8",
    "scale": "def {scale}(x, *, power=2):\n    return {LIMIT} * x**power",
    "even": "def {even}(n):\n    return n == 0 or {odd}(n - 1)",
    "odd": "def {odd}(n):\n    return n > 0 and {even}(n - 1)",
    "mark": "def {mark}(made):\n    return made",
    "Base": "class {Base}:\n    def step(self):\n        return {even}(3)",
    "Model": (
        "@{mark}\nclass {Model}({Base}):\n    rate = {RATE}\n"
        "    def loss(self, x):\n        return {scale}(x, power=3) + self.step()"
    ),
    "alone": "def {alone}(x):\n    return {LIMIT} - {scale}(x)",
}
# One change of each, and the definitions whose hashes it changes with its own.
CHANGES = {
    "LIMIT": ("4", "5"),
    "RATE": ("/", "*"),
    "scale": ("power=2", "power=4"),
    "even": ("== 0", "== 1"),
    "odd": ("and", "or"),
    "mark": ("made\n", "made, *others\n"),
    "Base": ("3", "2"),
    "Model": ("+", "-"),
    "alone": ("-", "+"),
}


def reaches(name, program=PROGRAM):
    """``name`` and every definition that it leads to."""
    reached, todo = set(), [name]
    while todo:
        if (module := todo.pop()) not in reached:
            reached.add(module)
            todo += re.findall(r"{(\w+)}", program[module])
    return reached


def changed(name):
    text, (old, new) = PROGRAM[name] + "\n", CHANGES[name]
    assert old in text
    return {**PROGRAM, name: text.replace(old, new)}


@st.composite
def layouts(draw):
    """For each definition a module, a name of its own, and how others import it; and an order."""
    words = st.from_regex(r"[a-zA-Z_][a-z_]{2,6}", fullmatch=True).filter(
        lambda word: (
            not keyword.iskeyword(word)
            and word not in dir(builtins)
            and word not in {"made", "others", "power", "self", "step", "rate", "loss"}
            and not word.startswith("__")
        )
    )
    count = draw(st.integers(1, 3))
    names = draw(st.lists(words, min_size=9 + count, max_size=9 + count, unique_by=str.lower))
    modules = names[9:]
    styles = st.sampled_from(["from", "as", "module", "package", "dotted", "init", "relative"])
    return {
        "names": dict(zip(PROGRAM, names, strict=False)),
        "modules": {name: draw(st.sampled_from(modules)) for name in PROGRAM},
        "styles": {name: draw(styles) for name in PROGRAM},
        "order": draw(st.permutations(list(PROGRAM))),
    }


def laid_out(layout, program):
    """The modules of ``program`` as ``layout`` says."""
    texts, imports = {}, {"init": []}
    for name in layout["order"]:
        module, said = layout["modules"][name], program[name]
        calls = {name: layout["names"][name]}
        for other in set(re.findall(r"{(\w+)}", said)) - {name}:
            home, its = layout["modules"][other], layout["names"][other]
            if home == module:
                calls[other] = its
                continue
            calls[other], line = {
                "from": (its, f"from TOP.{home} import {its}"),
                "as": (f"{its}0", f"from TOP.{home} import {its} as {its}0"),
                "module": (f"{home}1.{its}", f"import TOP.{home} as {home}1"),
                "package": (f"{home}.{its}", f"from TOP import {home}"),
                "dotted": (f"TOP.{home}.{its}", f"import TOP.{home}"),
                "init": (f"{its}2", f"from TOP import {its}2"),
                "relative": (f"{its}3", f"from .{home} import {its} as {its}3"),
            }[layout["styles"][other]]
            imports.setdefault(module, []).append(line)
            imports["init"].append(f"from TOP.{home} import {its} as {its}2")
        texts[module] = f"{texts.get(module, '')}\n\n{said.format(**calls)}\n"
    return {name: "\n".join(imports.get(name, [])) + texts.get(name, "") for name in {
        **texts, "init": ""
    }}  # fmt: skip


def hashes_of(sketch, layout, program=PROGRAM):
    top = sketch(**laid_out(layout, program))
    return {
        name: code_hash((f"{top}.{layout['modules'][name]}:{layout['names'][name]}",), judges=False)
        for name in PROGRAM
    }


PLAIN = {
    "names": {name: name for name in PROGRAM},
    "modules": dict.fromkeys(PROGRAM, "one"),
    "styles": dict.fromkeys(PROGRAM, "from"),
    "order": list(PROGRAM),
}


@given(layout=layouts(), name=st.sampled_from(list(PROGRAM)))
@settings(max_examples=40, deadline=None)
def test_where_a_definition_lies_and_its_name_do_not_count(sketch, layout, name):
    plain = hashes_of(sketch, PLAIN)
    assert len(set(plain.values())) == len(PROGRAM)
    assert hashes_of(sketch, layout) == plain
    now = hashes_of(sketch, layout, changed(name))
    assert {each for each in PROGRAM if now[each] != plain[each]} == {
        each for each in PROGRAM if name in reaches(each)
    }


@pytest.mark.parametrize(
    "other",
    [
        # In the body of a function; at the top but as a whole; by a star; through a package.
        {"a": "def f(x):\n    from TOP.b import g as h\n    return h(x)"},
        {"a": "def f(x):\n    import TOP.b as h\n    return h.g(x)"},
        {"a": "def f(x):\n    import TOP.b\n    return TOP.b.g(x)"},
        {"a": "import TOP\ndef f(x): return TOP.b.g(x)"},
        {"a": "from TOP.b import *\ndef f(x): return g(x)"},
        {"a": "from TOP import *\ndef f(x): return g(x)", "init": "from TOP.b import *"},
        {"a": "from TOP import c\ndef f(x): return c.b.g(x)", "c": "from TOP import b"},
        {"a": "from . import b as c\ndef f(x): return c.g(x)", "init": "from . import b"},
        {"a": "from TOP.c import f", "c": "from TOP.b import g\ndef f(x): return g(x)"},
        {"a": "from TOP.b import g as f2\ndef f(x):\n    import math\n    return f2(x)"},
    ],
)
def test_all_ways_to_import_are_one(code, other):
    b, changed = "def g(x): return x + 1", "def g(x): return x + 2"
    first = {"a": "from TOP.b import g\ndef f(x): return g(x)"}
    assert code(**first, b=b) == code(**other, b=b)
    assert code(**other, b=b) != code(**other, b=changed)


def test_a_name_that_a_package_gives_when_it_is_asked_counts_by_its_definition(code):
    lazy = "def __getattr__(name):\n    from TOP import b\n    return getattr(b, name)"
    said = "from TOP import g\ndef f(x): return g(x)"
    one, other = ({"a": said, "init": lazy, "b": f"def g(x): return x + {n}"} for n in (1, 2))
    assert code(**one) != code(**other)
    assert code(**one) == code(a=said.replace("TOP", "TOP.b"), b=one["b"])


def test_a_library_counts_by_its_full_name(code):
    said = "def f(x): return F.relu(x)"
    first = code(a=f"from torch.nn import functional as F\n{said}")
    assert first == code(a=f"import torch.nn.functional as F\n{said}")
    assert first == code(a="import torch\ndef f(x): return torch.nn.functional.relu(x)")
    assert first == code(a="from torch.nn.functional import relu as r\ndef f(x): return r(x)")
    assert first == code(a="from TOP.b import F\n" + said, b="from torch.nn import functional as F")
    others = {
        code(a=f"from jax import nn as F\n{said}"),
        code(a=f"F = 3\n{said}"),
        code(a="def f(x, F): return F.relu(x)"),
        code(a=f"from torch.nn.functional import *\n{said}"),
        code(a=said),
    }
    assert len({first, *others}) == 6


def test_users_modules_of_one_folder_follow_each_other_and_softmark(folder, code):
    name = next(FRESH)
    first = f"from {name} import g\nfrom softmark.errors import InputError as E\ndef f(): g(E)"
    (folder / f"{name}.py").write_text("def g(x): return 1")
    importlib.invalidate_caches()
    before = code(a=first)
    (folder / f"{name}_.py").write_text("def g(x): return 2")
    importlib.invalidate_caches()
    assert code(a=first.replace(name, f"{name}_")) != before
    assert code(a=first.replace("as E", "").replace("(E)", "(InputError)")) == before


def test_a_folder_without_init_will_do(folder, code):
    top = next(FRESH)
    (folder / top / "deep").mkdir(parents=True)
    (folder / top / "deep" / "b.py").write_text("def g(): return 1")
    (folder / top / "a.py").write_text(f"from {top}.deep.b import g\ndef f(): return g()")
    importlib.invalidate_caches()
    first = code(a="def f(): return g()\ndef g(): return 1")
    assert code_hash((f"{top}.a.f",), judges=False) == first


@pytest.mark.parametrize("place", ["lib/python3/site-packages", "elsewhere"])
def test_libraries_are_not_read(tmp_path, monkeypatch, code, place):
    """Neither those of site-packages nor those in other folders of sys.path than the root's."""
    folder = tmp_path / place
    folder.mkdir(parents=True)
    name = next(FRESH)
    (folder / f"{name}.py").write_text("no Python")
    monkeypatch.syspath_prepend(folder)
    first = code(a=f"from {name} import g\ndef f(): g()")
    assert first == code(a=f"import {name} as h\ndef f(): h.g()")
    if place != "elsewhere":
        assert stage(_target_=f"{name}.g").address
    else:
        with pytest.raises(InputError, match="line 1"):
            stage(_target_=f"{name}.g").address  # noqa: B018


# --- what counts of the syntax ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x):\n    return x", 'def f(x):\n    """Told."""\n\n    # why\n    return (x)'),
        ("class f:\n    x = 1", 'class f:\n    "Told."\n    x = 1\n    "Of x."'),
        ("def f(): ...", 'def f():\n    "Told."'),
        ("def f(x): return x", "def f(x: 'int') -> int: return x"),
        ("def f(*a, b=1, **c): x = 1", "def f(*a: A, b: B = 1, **c: C):\n    x: X = 1\n    y: Y"),
        ("K = 3\ndef f(): return K", "K: Final[int] = 3\nK2: int\ndef f(): return K"),
        ("def f(): return 1", "import os\nfrom a import *\ndef f():\n    import re\n    return 1"),
        ("def f(x): return x", "from b import T\nx = 3\ndef f(x: T[g]) -> g: return x\ndef g(): 1"),
        ("def f(x): return x", "def f(x):\n    if TYPE_CHECKING:\n        use(g)\n    return x"),
        (
            "class f:\n    x: int\n    y: int = 1",
            "import typing\nif typing.TYPE_CHECKING:\n    from b import T\n"
            "class f:\n    x: T\n    y: T = 1",
        ),
        ("def f(): return 1", "def f(): return 1\nif __name__ == '__main__':\n    f = print"),
        ("def f(): pass", "def f(): 'Told.'"),
        ("def f(x):\n    if x: x()", "def f(x):\n    if x: x()\n    else: pass"),
        ("def f(): print(1)", "from TOP import *\ndef f(): print(1)"),
        ("def f(): return x", "x: int\ndef f(): return x"),
        ("def f(): return 1\ndef g(): 2", "def g(): 3\n\n\ndef f(): return 1\nK = 4"),
    ],
)
def test_what_does_not_count(code, one, other):
    assert code(a=one) == code(a=other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x): return x + 1", "def f(x): return x + 2"),
        ("def f(x): return x + 1", "def f(x): return x - 1"),
        ("def f(x): return x + 1", "def f(x): return x + 1.0"),
        ("def f(x): return x + 1", "def f(x): return x + True"),
        ("def f(x): return x + 1", "def f(x): return x + 1j"),
        ("def f(x): return x + 1", "def f(x): return x + '1'"),
        ("def f(x): return x", "def f(x): return 'x'"),
        ("def f(x): return g(a=x)", "def f(x): return g(b=x)"),
        ("def f(x): return x.a()", "def f(x): return x.b()"),
        ("def f(x, y): return x", "def f(y, x): return x"),
        ("def f(x, y=1): return x", "def f(x, y=2): return x"),
        ("def f(x, y): return x", "def f(x, *, y): return x"),
        ("def f(x): return x", "async def f(x): return x"),
        ("def f():\n    def gAsync(): 1", "def f():\n    async def g(): 1"),
        (
            "def f(x):\n    if x:\n        g()\n    h()",
            "def f(x):\n    if x:\n        g()\n        h()",
        ),
        ("class f:\n    x: int = 1", "class f:\n    x = 1"),
        ("class f:\n    x: int\n    y: int", "class f:\n    y: int\n    x: int"),
        ("class f(A): pass", "class f(B): pass"),
        ("class f(A): pass", "class f(A, metaclass=B): pass"),
        ("import functools\n@functools.cache\ndef f(): 1", "def f(): 1"),
        ("def f(x): return f'{x}'", "def f(x): return f'{x!r}'"),
        ("def f(x): return [1, None]", "def f(x): return [None, 1]"),
        ("def f(x): return {**x}", "def f(x): return {x: x}"),
        ("def f(x): return x[1:]", "def f(x): return x[:1]"),
        ("K = 3\ndef f(): return K", "K = 4\ndef f(): return K"),
        ("K, L = 3, 4\ndef f(): return K", "K, L = 3, 4\ndef f(): return L"),
        ("K = {1: 3}\ndef f(): return K", "K = {1: 3}\nK[1] = 4\ndef f(): return K"),
        ("K = [3]\ndef f(): return K", "K = [3]\nK.append(4)\ndef f(): return K"),
        ("K = [3]\ndef f(): return K", "K = [3]\nK += [4]\ndef f(): return K"),
        ("K = [3]\ndef f(): return K", "K = [3]\ndef g(x): x.pop()\ng(K)\ndef f(): return K"),
        (
            "def f(): a, b, c, d\ndef a(): c()\ndef b(): d()\ndef c(): 1 + 1\ndef d(): 2 + 1",
            "def f(): a, b, c, d\ndef a(): d()\ndef b(): c()\ndef c(): 1 + 1\ndef d(): 2 + 1",
        ),
        ("if A:\n    K = 3\nelse:\n    K = 4\ndef f(): K", "if A:\n    K = 4\ndef f(): K"),
        (
            "try:\n    import b\nexcept ImportError:\n    b = None\ndef f(): b.g()",
            "try:\n    import c as b\nexcept ImportError:\n    b = None\ndef f(): b.g()",
        ),
        (
            "def f(x):\n  if x:\n    import b as g\n  else:\n    import c as g\n  g()",
            "def f(x):\n  if x:\n    import d as g\n  else:\n    import c as g\n  g()",
        ),
        (
            "import torch\nclass f:\n    def g(self): torch.a()",
            "import torch\nclass f:\n    def g(self): torch.b()",
        ),
        ("from b import *\ndef f(): g()", "from c import *\ndef f(): g()"),
    ],
)
def test_what_counts(code, one, other):
    assert code(a=one) != code(a=other)


# ``g`` is another definition of the module in all of these, and none of them uses it.
SHADOWED = [
    "def f(g): return g",
    "def f(*g): return g",
    "def f(*, g=1): return g",
    "def f(**g): return g",
    "f = lambda g: g(1)",
    "def f(x):\n    g = x\n    return g",
    "def f(x):\n    g: int = x\n    return g",
    "def f(x):\n    for g, h in x:\n        g()",
    "def f(x):\n    with x as g:\n        g()",
    "def f(x):\n    try:\n        x()\n    except x as g:\n        g()",
    "def f(x):\n    def g():\n        return g\n    return g",
    "def f(x):\n    class g:\n        pass\n    return g",
    "def f(x):\n    if (g := x):\n        return g",
    "def f(x):\n    [g := y for y in x]\n    return g",
    "def f(x): return [g for g in x]",
    "def f(x): return {g: h for y in x for g, h in y if g}",
    "def f(x):\n    match x:\n        case [g, *_]:\n            return g",
    "def f(x):\n    match x:\n        case {1: 1, **g}:\n            return g",
    "def f(x):\n    import math as g\n    return g.pi",
    "def f(g):\n    def h():\n        return [g for y in g]\n    return h",
    "def f(x):\n    g = 1\n    def h():\n        nonlocal g\n        g = g + 1\n    return h",
    "class f:\n    g = 1\n    h = [1 for x in g]",
    "class f:\n    def g(self): return self.g(g=1)",
    "def f(x): return x.g",
]
# ``g`` is the module's in all of these.
SEEN = [
    "def f(x): return g",
    "def f(x): return g.y.z",
    "def f(x=g): return x",
    "f = lambda x=g: x",
    "def f(x):\n    global g\n    g = x",
    "def f(x):\n    def h(g): return g\n    return h(g)",
    "def f(x): return [x for x in g]",
    "def f(x): return [g for x in g]",
    "def f(x): return [x for g in g]",
    "def f(x): return [x for y in x if g]",
    "def f(x): return [z for y in x for z in g]",
    "def f(x):\n    h = lambda: (g := x)\n    return g",
    "def f(x): return (lambda g: g)(g)",
    "def f(x): return x[g]",
    "def f(x): return f'{g}'",
    "def f(x): return h(g=g)",
    "def f(x):\n    match x:\n        case g.y:\n            return 1",
    "def f(x):\n    match x:\n        case g():\n            return 1",
    "class f(g): pass",
    "@g\nclass f: pass",
    "@g\ndef f(): pass",
    "class f:\n    def h(self): return g",
    "class f:\n    g = g",
    "class f:\n    @g\n    def h(self): pass",
    "class f:\n    g = 1\n    def h(self): return g",
    "class f:\n    g = 1\n    h = [g for x in 'ab']",
    "class f:\n    def g(self): return g(self)",
    "try:\n    f = g\nexcept NameError:\n    f = 1",
    "f = 1\nf += g",
    "f = {}\nf['x'] = g",
    "f = h = g",
]


@pytest.mark.parametrize("text", SHADOWED)
def test_a_local_name_is_not_the_modules(code, text):
    assert code(a=f"{text}\ndef g(): return 1") == code(a=f"def g(): return 2\n{text}")
    assert code(a=f"{text}\ndef g(): return 1") == code(a=f"import math as g\n{text}")
    assert code(a=text) == code(a=f"import math as g\n{text}")


@pytest.mark.parametrize("text", SEEN)
def test_a_modules_name_is_found(code, text):
    assert code(a=f"def g(): return 1\n{text}") != code(a=f"def g(): return 2\n{text}")


def test_the_hash_is_the_same_on_every_machine(code):
    """Whatever the Python. Where the numbers must change, every stage is made anew."""
    a = """
        import functools
        from torch import nn

        class f(nn.Module):
            size: int = 3

            @functools.cached_property
            def layers(self, *sizes, bias=None):
                with g(self) as made:
                    made += [nn.Linear(a, b, bias=bias) for a, b in sizes if a]
                match made:
                    case [nn.Linear(bias=None), *_]:
                        return f"{made!r:>{self.size}} {1e-3} " "and" f"{self.size=}"
                return lambda x, /: x**2 if x else -1

        def g(): ...
    """
    assert code(a=a)[:16] == "f311c73aa4bfd046"
    assert code("a.g", a=a)[:16] == "60f1af841b582afb"


def test_a_module_that_is_used_as_a_whole_counts_as_a_whole(code):
    said = "from TOP import b\ndef f(name): return getattr(b, name)"
    first = code(a=said, b="import re\ndef g(): return 1\ndef h(): return 2")
    assert first == code(a=said, b="'Told.'\ndef h(): return 2\ndef g(): return 1")
    assert first != code(a=said, b="import re\ndef g(): return 1\ndef h(): return 3")
    assert first != code(a=said, b="import re\ndef g(): return 1\ndef i(): return 2")


@pytest.mark.parametrize("name", sorted(JUDGING_METHODS))
def test_judging_methods_count_for_what_judges_alone(code, name):
    def model(number, method=name):
        a = f"from TOP.b import g\nclass f:\n    def {method}(self): return g()\n    x = 1"
        return {"a": a, "b": f"def g(): return {number}"}

    assert code(**model(1)) == code(**model(2)) == code(a="class f:\n    x = 1")
    assert code(judges=True, **model(1)) != code(judges=True, **model(2))
    assert code(**model(1, "train")) != code(**model(2, "train"))
    # A function of this name is no method.
    assert code(f"a.{name}", a=f"def {name}(): 1") == code(a="def f(): 1")
    assert code(f"a.{name}", a=f"def {name}(x): x.y()") != code(a="def f(): 1")


# --- the code of softmark ---------------------------------------------------------------------

# Prints the addresses of stages: [CODE, CONFIG] each.
PRINT = """
import json, sys
from softmark.store.address import Stage
stages = [Stage("victim", config, tuple(code)) for code, config in json.loads(sys.argv[1])]
print(json.dumps([stage.address for stage in stages]))
assert "torch" not in sys.modules
"""
VICTIM = [
    ["softmark.training:Classifier", "softmark.training:Fit"],
    {
        "model": {"_target_": "softmark.models.networks.ConvNet", "width": 8},
        "recipe": {"_target_": "softmark.training.Recipe", "epochs": 1},
    },
]
SUSPECT = [
    ["softmark.training:Classifier"],
    {"attack": {"_target_": "softmark.attacks.prune.Prune"}},
]


@pytest.fixture
def copied(tmp_path):
    """A copy of softmark that a process of its own finds before the real one."""
    copy = tmp_path / "softmark"
    shutil.copytree(ROOT / "src" / "softmark", copy)
    return copy


def addresses(copied, *stages):
    process = subprocess.run(
        [sys.executable, "-c", PRINT, json.dumps(stages)],
        env={**os.environ, "PYTHONPATH": str(copied.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def renamed(value, old, new):
    return json.loads(json.dumps(value).replace(old, new))


def test_a_module_of_softmark_is_moved(copied):
    before = addresses(copied, VICTIM, SUSPECT)
    (copied / "zoo").mkdir()
    (copied / "models" / "networks.py").rename(copied / "zoo" / "small.py")
    for path in copied.rglob("*.py"):
        text = path.read_text().replace("softmark.models.networks", "softmark.zoo.small")
        path.write_text(text.replace("class ConvNet(", "class Small("))
    moved = renamed(VICTIM, "softmark.models.networks.ConvNet", "softmark.zoo.small.Small")
    assert addresses(copied, moved, SUSPECT) == before


def test_a_function_of_softmark_is_moved(copied):
    before = addresses(copied, VICTIM, SUSPECT)
    path = copied / "recipe.py"
    text = path.read_text()
    tree = ast.parse(text)
    (function,) = (n for n in tree.body if getattr(n, "name", None) == "one_cycle")
    said = ast.get_source_segment(text, function)
    # Also without its docstring, and all else in a new layout.
    (copied / "pace.py").write_text(ast.unparse(ast.parse(said)).replace("one_cycle", "pace"))
    tree.body.remove(function)
    tree.body.insert(2, ast.parse("from softmark.pace import pace as one_cycle").body[0])
    path.write_text(ast.unparse(tree))
    assert addresses(copied, VICTIM, SUSPECT) == before
    edit(copied / "pace.py", "0.95", "0.94")
    assert not set(addresses(copied, VICTIM, SUSPECT)) & set(before)


def test_an_attack_does_not_decide_about_a_victim(copied):
    before = addresses(copied, VICTIM, SUSPECT)
    for path in (copied / "attacks").glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                node.body.append(ast.parse("print('touched')").body[0])
        path.write_text(ast.unparse(tree))
    after = addresses(copied, VICTIM, SUSPECT)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_a_number_in_a_network_decides(copied):
    before = addresses(copied, VICTIM, SUSPECT)
    edit(copied / "models" / "networks.py", "8 * width", "9 * width")
    after = addresses(copied, VICTIM, SUSPECT)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_every_target_of_conf_is_there(copied):
    texts = [path.read_text() for path in (ROOT / "conf").rglob("*.yaml")]
    targets = {target for text in texts for target in re.findall(r"_target_: (softmark\S+)", text)}
    assert len(targets) > 10
    changed = addresses(copied, *([[], {"_target_": target}] for target in sorted(targets)))
    assert len(set(changed)) == len(targets)


def test_an_address_takes_no_time():
    code, config = VICTIM
    warm = Stage("victim", config, tuple(code))
    assert warm.address
    start = time.perf_counter()
    many = [replace(warm, config={**config, "seed": seed}).address for seed in range(1000)]
    assert time.perf_counter() - start < 1
    assert len(set(many)) == 1000
