"""A key, a commitment and evidence name nothing that is imported, built or called.

Every importable name, drawn at random, and every node of Hydra's, at every place of a file: it is
refused, no module is imported, no file is touched.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import importlib
import io
import json
import pkgutil
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import softmark
from helpers import ROOT, owners
from softmark import InputError
from softmark.models.files import read_tensors
from softmark.owner import watermarks
from softmark.owner.commitment import (
    check_published,
    publication,
    publish,
    read_publication,
)
from softmark.owner.evidence import evidence_of
from softmark.owner.new_key import commit_key
from softmark.owner.statement import Statement
from softmark.owner.verify import examine

REPEATABLE = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
EXAMPLES = 1000
RECHECK = runpy.run_path(str(ROOT / "scripts" / "recheck.py"))


@functools.cache
def names() -> list[str]:
    """Thousands of names that lead to a class, a function, a module or what hangs on it."""
    modules = dict(sys.modules)
    for package in ("softmark", "numpy", "torch"):
        for found in pkgutil.iter_modules(importlib.import_module(package).__path__, f"{package}."):
            modules.setdefault(found.name, None)
    told = []
    for name, module in modules.items():
        told.append(name)
        for inner in list(vars(module))[:40] if module is not None else ():
            told.append(f"{name}.{inner}")
    told += [f"softmark.owner.model_files.{name}" for name in ("torch.load", "load_model")]
    told += ["softmark.owner.probe_files.np.load"]
    told += [
        "softmark.owner.folder.shutil.copyfile",
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
    ]
    return sorted(set(told))


def nodes(name: str) -> Iterator[Any]:
    """What Hydra would build of ``name``, and what OmegaConf would resolve."""
    yield name
    yield {"_target_": name}
    yield {"_target_": name, "_args_": ["touched"], "_partial_": False}
    yield {"_target_": name, "_recursive_": True, "_convert_": "all", "f": "touched"}
    yield {"kind": name}
    yield [{"_target_": name}]
    yield "${oc.env:HOME}"
    yield f"${{oc.create:{{_target_: {name}}}}}"


@functools.cache
def planted_nodes() -> st.SearchStrategy[Any]:
    return st.sampled_from(names()).flatmap(lambda name: st.sampled_from(list(nodes(name))))


@functools.cache
def key() -> softmark.Key:
    answers = torch.randn(300, 10, generator=torch.manual_seed(0)).softmax(1)
    from softmark.tails import compute_victim_stats

    labels = torch.arange(500) % 10
    config = watermarks.owner_config("csp")
    return commit_key(
        "csp", config, ["a"], 10, owners.probes(), compute_victim_stats(answers), labels, None
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("keys")
    key().save(made / "key")
    publish(key(), made)
    return made


def imported() -> set[str]:
    """The modules there are, but for those of whoever tests."""
    return {name for name in sys.modules if not name.startswith(("hypothesis", "_pytest"))}


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """Nothing is imported, and nothing lies in the working folder afterwards."""
    names()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "torch_load_me.py").write_text("raise SystemExit('imported')")
    before = imported()
    yield
    assert imported() == before
    assert [path.name for path in tmp_path.iterdir()] == ["torch_load_me.py"]


def places(made: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path to every value of a JSON, inner ones too."""
    yield path
    if isinstance(made, dict | list):
        for name, value in made.items() if isinstance(made, dict) else enumerate(made):
            yield from places(value, (*path, name))


def planted(made: Any, path: tuple, node: Any, extra: bool) -> Any:
    """``made`` with ``node`` at ``path``; ``extra``: beside what an object there holds."""
    if not path and not extra:
        return node
    made = copy.deepcopy(made)
    *above, last = path or ("",)
    at = functools.reduce(lambda inner, name: inner[name], above, made)
    inner = made if not path else at[last]
    if extra and isinstance(inner, dict):
        inner["_target_"] = node
    elif path:
        at[last] = node
    return made


KEY_PARTS = ("statement", "messages", "format")
STATEMENT = list(places(json.loads(json.dumps(key().statement.as_dict()))))


@settings(REPEATABLE, max_examples=EXAMPLES)
@given(data=st.data())
def planted_into_a_key(data, folder):
    tensors, about = read_tensors(folder / "key")
    node = data.draw(planted_nodes())
    part, extra = data.draw(st.sampled_from(KEY_PARTS)), data.draw(st.booleans())
    if part == "format":
        told = {**about, "format": str(node), data.draw(st.sampled_from(names())): str(node)}
    else:
        made = json.loads(about[part])
        path = data.draw(st.sampled_from(list(places(made))))
        changed = planted(made, path, node, extra)
        if changed == made:
            return
        told = {**about, part: json.dumps(changed)}
    path = folder / "planted"
    safetensors.torch.save_file(tensors, path, told)
    with pytest.raises(InputError) as refused:
        softmark.Key.load(path)
    assert "\n" not in str(refused.value)


def test_what_a_key_names_is_refused(folder, untouched):
    assert len(names()) > 5000
    planted_into_a_key(folder=folder)


@settings(REPEATABLE, max_examples=EXAMPLES)
@given(data=st.data())
def planted_into_a_commitment(data, folder):
    made = publication(key().statement)
    path = data.draw(
        st.sampled_from([place for place in places(made) if place[:1] == ("statement",)])
    )
    node = data.draw(planted_nodes())
    changed = planted(made, path, node, data.draw(st.booleans()))
    if changed == made:
        return
    file = folder / "planted.json"
    file.write_text(json.dumps(changed))
    with pytest.raises(InputError) as refused:
        read_publication(file)
    assert "\n" not in str(refused.value)


def test_what_a_commitment_names_is_refused(folder, untouched):
    planted_into_a_commitment(folder=folder)


@settings(REPEATABLE, max_examples=400)
@given(data=st.data())
def planted_with_its_hash(data):
    """A forger writes the commitment that fits: what is wrong is refused for itself."""
    made = json.loads(json.dumps(key().statement.as_dict()))
    path = data.draw(st.sampled_from(STATEMENT))
    node = data.draw(planted_nodes())
    changed = planted(made, path, node, data.draw(st.booleans()))
    if changed == made:
        return
    with pytest.raises(InputError):
        Statement.read(changed)


def test_a_statement_of_anything_else_is_refused(untouched):
    planted_with_its_hash()


@functools.cache
def evidence() -> dict[str, Any]:
    """Of an innocent's answers, with the seed."""
    answers = torch.randn(500, 10, generator=torch.manual_seed(1)).softmax(1)
    found = examine(answers, key(), owners.probes())
    return json.loads(json.dumps(evidence_of(found, "x", publication(key().statement), True)))


def rechecked(made: Any, folder: Path) -> None:
    """What recheck.py makes of the evidence ``made``: it ends by itself, and claims nothing."""
    file = folder / "evidence.json"
    file.write_text(json.dumps(made))
    words = [file, folder / "softmark.commitment.json", folder / "probes.npz"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["recheck.py", *map(str, words)])
        # Many files, and one price.
        patch.setattr(hashlib, "scrypt", lambda password, *, salt, **price: salt)
        with pytest.raises(SystemExit) as stopped, contextlib.redirect_stdout(io.StringIO()):
            RECHECK["main"]()
    assert stopped.value.code in (2, 3)


@settings(REPEATABLE, max_examples=150)
@given(data=st.data())
def planted_into_evidence(data, folder):
    made = evidence()
    inside = [path for path in places(made) if path[:1] != ("ranks",) or len(path) < 3]
    node, extra = data.draw(planted_nodes()), data.draw(st.booleans())
    rechecked(planted(made, data.draw(st.sampled_from(inside)), node, extra), folder)


@settings(REPEATABLE, max_examples=150)
@given(data=st.data())
def values_in_evidence(data, folder):
    made = evidence()
    path = data.draw(st.sampled_from([path for path in places(made) if len(path) < 4]))
    rechecked(planted(made, path, data.draw(st.sampled_from(VALUES)), False), folder)


@pytest.fixture
def honest(folder) -> None:
    """What a file that is as it should be needs was imported before."""
    np.savez(folder / "probes.npz", inputs=owners.probes().numpy())
    rechecked(evidence(), folder)


def test_what_evidence_names_is_refused(folder, honest, untouched):
    planted_into_evidence(folder=folder)
    values_in_evidence(folder=folder)


VALUES = [
    None, True, False, 0, -1, 1, 2**70, 10**400, 0.5, -0.0, 1e308, "", "0" * 64, "F" * 64, [], {},
    [[]], {"a": 1}, "\ud800", "\x00", 3.0, "csp", "usp", "control",
]  # fmt: skip


@settings(REPEATABLE, max_examples=1000)
@given(st.sampled_from(STATEMENT), st.sampled_from(VALUES))
@example(("classes",), 1e308)
@example(("probes", "count"), 10**400)
@example(("seals",), ["0" * 64] * 2)
def values_of_other_types(path, value):
    """Refused, or a statement with a commitment of its own."""
    made = json.loads(json.dumps(key().statement.as_dict()))
    changed = planted(made, path, value, False)
    try:
        read = Statement.read(changed)
    except InputError:
        return
    assert read.commitment == key().commitment or changed != made
    assert read.as_dict() == changed


def test_values_of_other_types_are_refused_or_bound():
    values_of_other_types()


@settings(REPEATABLE, max_examples=3000)
@given(data=st.data())
def altered_bytes(data, folder):
    """Any byte changed, cut off or put in: refused, not the published key, or the same."""
    raw = bytearray((folder / "key").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "header"])):
            case "flip":
                raw[place] ^= data.draw(st.integers(1, 255))
            case "cut":
                del raw[place : place + data.draw(st.integers(1, 2000))]
            case "insert":
                raw[place:place] = data.draw(st.binary(max_size=40))
            case "header":
                raw[:8] = data.draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
        if not raw:
            break
    (folder / "bytes").write_bytes(raw)
    try:
        read = softmark.Key.load(folder / "bytes")
    except InputError:
        return
    # Other numbers make another key, which isn't the published one.
    same = (read.secret, read.messages) == (key().secret, key().messages)
    if read.commitment != key().commitment or not same:
        with pytest.raises(InputError, match="isn't the key's"):
            check_published(publication(key().statement), read)


def test_altered_bytes_are_refused_or_change_nothing(folder, untouched):
    altered_bytes(folder=folder)


def test_an_old_key_is_refused_with_what_to_do(tmp_path):
    for number in (1, 2, 3, 4):
        about = {"format": f"softmark key {number}", "classes": "10", "method": "{}"}
        safetensors.torch.save_file({"secret": torch.zeros(32)}, tmp_path / "key", about)
        with pytest.raises(InputError, match=r"Mark the model anew; the old commitment still"):
            softmark.Key.load(tmp_path / "key")
    safetensors.torch.save_file({"secret": torch.zeros(32)}, tmp_path / "key", {"format": "x"})
    with pytest.raises(InputError, match="not a key of this version"):
        softmark.Key.load(tmp_path / "key")


@pytest.mark.parametrize("method", ["adi", "uchida", "none", "control", "csp ", "CSP", ""])
def test_a_key_of_another_method_is_refused_in_one_line(method, folder, tmp_path):
    tensors, about = read_tensors(folder / "key")
    made = {**json.loads(about["statement"]), "method": method}
    told = {**about, "statement": json.dumps(made)}
    safetensors.torch.save_file(tensors, tmp_path / "key", told)
    with pytest.raises(InputError, match="csp, usp, csp_margin, usp_margin are known"):
        softmark.Key.load(tmp_path / "key")


def test_a_commitment_of_another_statement_or_key_is_refused(tmp_path):
    softmark.save((key(), owners.probes()), tmp_path / "m")
    file = tmp_path / "m" / "softmark.commitment.json"
    made = json.loads(file.read_text())
    file.write_text(json.dumps({**made, "commitment": "0" * 64}))
    with pytest.raises(InputError, match="isn't that of its statement"):
        read_publication(file)
    other = softmark.new_key("b", 10, owners.probes())
    file.write_text(json.dumps(publication(other.statement)))
    with pytest.raises(InputError, match="isn't the key's"):
        softmark.load(tmp_path / "m")
