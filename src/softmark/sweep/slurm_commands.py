"""The commands of SLURM: what its queue holds, what one submission may have, what it says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ALIVE = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STOPPED",
         "RESIZING", "SIGNALING", "STAGE_OUT", "REQUEUE_HOLD", "SPECIAL_EXIT", "REQUEUE_FED",
         "RESV_DEL_HOLD"}  # fmt: skip
# The settings that a sentence of sbatch's, a reason of squeue's or a state of a job is about.
RESOURCES = ("mem_gb", "cpus_per_task", "gpus_per_node", "gres", "constraint")
KEYS = {
    r"time ?limit|walldur|deadline|timeout": ("timeout_min",),
    r"account|assoc": ("account",),
    r"partition": ("partition",),
    r"gres|gpu": ("gpus_per_node", "gres"),
    r"memory|out_of_mem": ("mem_gb",),
    r"qos": ("qos",),
    r"constraint|feature|node configuration": RESOURCES,
    r"array": ("array_parallelism",),
}


class Job(NamedTuple):
    """What squeue says of a job: PENDING, RUNNING, TIMEOUT ..., why it waits, where it runs."""

    state: str
    reason: str
    node: str


def keys_of(sentence: str, params: Mapping[str, Any]) -> str:
    """Return the settings that ``sentence`` is about, as the end of a line; empty if it's unclear.

    Args:
        sentence: of sbatch, or a reason or a state as squeue tells it.
        params: hydra.launcher.

    Example:
        >>> keys_of("Invalid partition name specified", {"partition": "fast"})
        ' (hydra.launcher.partition=fast)'
        >>> keys_of("PartitionTimeLimit", {"timeout_min": 90})
        ' (hydra.launcher.timeout_min=90)'
    """
    for pattern, names in KEYS.items():
        if re.search(pattern, sentence, re.IGNORECASE):
            chosen = [name for name in names if params.get(name)] or names[:1]
            values = [f"={params[name]}" if params.get(name) else "" for name in chosen]
            keys = [
                f"hydra.launcher.{key}{value}" for key, value in zip(chosen, values, strict=True)
            ]
            return f" ({', '.join(keys)})"
    return ""


def squeue(name: str) -> dict[str, Job] | None:
    """Return this user's jobs called ``name``, also those that ended of late, by id.

    Accounting isn't asked: many clusters have none. None where squeue fails, as it does while
    SLURM's controller is restarted.
    """
    words = ["--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--name={name}"]
    lines = run("squeue", *words, "--format=%i|%T|%r|%N")
    if lines is None:
        return None
    parts = (line.split("|") for line in lines)
    return {number: Job(*others) for number, *others in parts if len(others) == 3}


def max_array_size() -> int:
    """Return how many jobs one submission may have: an index must be below MaxArraySize."""
    for line in run("scontrol", "show", "config") or ():
        if match := re.match(r"MaxArraySize\s*=\s*(\d+)", line):
            return max(1, int(match[1]))
    return 1000


def cancel(jobs: Sequence[str]) -> None:
    """Cancel ``jobs``, if they are still there."""
    run("scancel", "--quiet", *jobs)


def run(*command: str) -> Sequence[str] | None:
    """Return the lines that a command of SLURM's prints; None where it fails."""
    try:
        # In a session of its own: Ctrl-C is for this process.
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=60, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.splitlines() if result.returncode == 0 else None
