"""Before torch starts: threads that wait actively stall each other (see softmark/cli.py)."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import functools
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from helpers import ROOT
from helpers.cells import composed, described, write_record
from softmark.experiment.plan import decode_data, plan

# A busy machine is no bug.
hypothesis.settings.register_profile("softmark", deadline=None)
hypothesis.settings.load_profile("softmark")

# scrypt makes a key dear on purpose, .15 s each time: of the same key it is computed once.
hashlib.scrypt = functools.lru_cache(maxsize=1000)(hashlib.scrypt)

TESTS = ROOT / "tests"
# The longest files: a worker that began one of them last would be waited for.
LONG = (
    "contract/test_contract.py",
    "commands/test_sweep.py",
    "owner/test_mark_and_verify.py",
    "tracking/test_loggers.py",
    "methods/test_soft_labels.py",
    "sweep/test_schedule.py",
    "experiment/test_evidence.py",
    "test_docs.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.relative_to(TESTS).as_posix() not in LONG)


@pytest.fixture
def cheap(monkeypatch) -> list[tuple[bytes, bytes]]:
    """Keys without scrypt's price, so that thousands can be tried; returns what was tried."""
    tried = []

    def scrypt(password: bytes, *, salt: bytes, **price: int) -> bytes:
        tried.append((password, salt))
        return hmac.new(password, salt, hashlib.sha256).digest()

    monkeypatch.setattr(hashlib, "scrypt", scrypt)
    return tried


@pytest.fixture(scope="session")
def shared_output(tmp_path_factory) -> Path:
    """One store for all tests that only need a cell to exist."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def cell(shared_output) -> Callable[..., dict[str, Any]]:
    """``cell("method=usp")``: a config of its own at scale=smoke, with a small network."""

    def make(*overrides: str) -> dict[str, Any]:
        small = ("model.width=8", f"output_dir={shared_output}")
        config = copy.deepcopy(composed((*small, *overrides)))
        decode_data(config)
        return config

    return make


@pytest.fixture
def archived(tmp_path):
    """``archived("method=csp", seed=3, p_value=0.1)``: a record of that cell in ``tmp_path``."""

    def make(*overrides: str, seed: int = 0, **changes) -> dict:
        config = copy.deepcopy(composed(overrides))
        config |= {"seed": seed, "output_dir": str(tmp_path)}
        decode_data(config)
        made = plan(config)
        lines = [*overrides, f"seed={seed}", f"output_dir={tmp_path}", "logger=none"]
        record = described(made, lines, **changes)
        write_record(tmp_path, record)
        return record

    return make
