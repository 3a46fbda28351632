"""A real SLURM for the tests of this folder; without one they are skipped, and say so."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "slurm"
NEEDED = ("slurmctld", "slurmd", "munged", "srun")


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """Three nodes that the commands of SLURM find; at most four jobs in an array."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.getuid():
        reason = "only root can start SLURM" if os.getuid() else f"no {', '.join(missing)}"
        pytest.skip(f"{reason}; apt-get install slurm-wlm munge")
    # munge takes no socket whose path is longer than a hundred signs.
    folder = tempfile.mkdtemp(prefix="slurm-")
    started = subprocess.run(
        [SCRIPT, "start", folder, "MaxArraySize=4"], capture_output=True, text=True, timeout=60
    )
    assert started.returncode == 0, started.stderr
    os.environ["SLURM_CONF"] = f"{folder}/slurm.conf"
    try:
        yield
    finally:
        subprocess.run([SCRIPT, "stop", folder], capture_output=True, timeout=60)
        del os.environ["SLURM_CONF"]
        shutil.rmtree(folder, ignore_errors=True)
