"""What several test files share; fixtures are in conftest.py."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def nearly(p: Any, rel: float = 1e-6) -> Any:
    """``p`` up to a part of itself; ``pytest.approx`` alone takes all below 1e-12 for equal."""
    return pytest.approx(p, rel=rel, abs=0)
