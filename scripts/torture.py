"""Kill a sweep at random moments, and compare its end with an undisturbed run's.

    python scripts/torture.py --kills 100
    python scripts/torture.py --kills 20 -- hydra/launcher=joblib hydra.launcher.n_jobs=2

Each round starts with an empty folder, is killed (SIGKILL, with all its workers) again and again
until it gets through, and must then have the same table and the same records, but for times. It
exits with 1 where one differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWEEP = ["method=usp,csp", "attack=finetune,prune", "scale=smoke", "logger=none", "trainer=cpu"]
# All that may differ: when and how fast a record was made, and in which folder.
VOLATILE_FIELDS = {"seconds", "stage_seconds", "date", "path", "overrides"}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("overrides", nargs="*", help="as given to run.py, for a launcher")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills {options.kills}: at least 1")
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="torture-") as scratch:
        calm = Path(scratch) / "calm"
        began = time.monotonic()
        table = finish(calm, options.overrides)
        span = time.monotonic() - began
        expected = records(calm)
        print(f"undisturbed: {len(expected)} records in {span:.1f} s", flush=True)
        kills = rounds = 0
        while kills < options.kills:
            folder = Path(scratch) / "torn"
            # Three kills a round at most: a sweep that only ever starts would prove nothing.
            killed = sum(
                kill(folder, options.overrides, moments.uniform(0, span))
                for _ in range(min(3, options.kills - kills))
            )
            kills += killed
            rounds += 1
            if finish(folder, options.overrides) != table or records(folder) != expected:
                copy = Path(tempfile.mkdtemp(prefix="torture-differs-"))
                shutil.copytree(folder, copy, dirs_exist_ok=True)
                print(f"after {kills} kills round {rounds} differs: see {copy}")
                return 1
            shutil.rmtree(folder)
            print(f"{kills} kills, {rounds} rounds: the same table and records", flush=True)
    return 0


def start(folder: Path, overrides: list[str]) -> subprocess.Popen:
    """Start the sweep in a process group of its own, which can be killed whole."""
    command = [sys.executable, "run.py", "-m", *SWEEP, *overrides, f"output_dir={folder}"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(folder: Path, overrides: list[str], seconds: float) -> bool:
    """Return whether the sweep was still at work after ``seconds``, and was killed."""
    process = start(folder, overrides)
    try:
        process.communicate(timeout=seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return True


def finish(folder: Path, overrides: list[str]) -> str:
    """Run the sweep to its end, and return the table that it prints."""
    process = start(folder, overrides)
    stdout, stderr = process.communicate()
    if process.returncode:
        sys.exit(f"the sweep failed:\n{stderr}")
    return stdout


def records(folder: Path) -> dict[str, dict]:
    """Return the records by address, without what may differ."""
    by_address = {}
    for path in (folder / "records").glob("*.json"):
        record = json.loads(path.read_text())
        by_address[path.stem] = {name: record[name] for name in record.keys() - VOLATILE_FIELDS}
    return by_address


if __name__ == "__main__":
    sys.exit(main())
