"""Before torch starts: threads that wait actively stall each other (see run.py)."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

# A busy machine is no bug.
hypothesis.settings.register_profile("softmark", deadline=None)
hypothesis.settings.load_profile("softmark")

ROOT = Path(__file__).parents[1]


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["scale=smoke", "logger=none", *overrides])
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.fixture(scope="session")
def shared_output(tmp_path_factory) -> Path:
    """One store for all tests that only need a cell to exist."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def cell(shared_output) -> Callable[..., dict[str, Any]]:
    """``cell("method=usp")``: a config of its own at scale=smoke."""

    def make(*overrides: str) -> dict[str, Any]:
        return copy.deepcopy(_composed((f"output_dir={shared_output}", *overrides)))

    return make
