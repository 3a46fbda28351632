"""Ray, as its users run it: a cluster that runs already, or one of this machine's cores."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from softmark.console import report
from softmark.errors import InputError
from softmark.nodes import short

WAIT = 60.0  # seconds in which a node may join that has what a worker asks for


def connect(ray_cfg: Any) -> None:
    """Connect to the cluster of ``hydra.launcher.ray``, of RAY_ADDRESS, or start one here.

    Raises:
        InputError: Ray refuses.
    """
    # As the launcher imports it: it says which version of what is missing.
    from hydra_plugins.hydra_ray_launcher._core import start_ray

    init = ray_cfg.init
    # The launcher always gives the size of the object store, which a running cluster refuses.
    if init.get("address") or os.environ.get("RAY_ADDRESS"):
        init.setdefault("object_store_memory", None)
    else:
        init.setdefault("object_store_memory", 78643200)  # as the launcher would
    # Ray joins equal lines of several workers; theirs come through the sweep's folder.
    init.setdefault("log_to_driver", False)
    try:
        start_ray(init)
    except Exception as error:
        # The last line of what another process raised says what was wrong.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        address = init.get("address") or os.environ.get("RAY_ADDRESS")
        raise InputError(
            f"hydra.launcher.ray.init.address={address}: Ray says: {short(lines[-1])}"
        ) from error


def num_ray_workers(remote: Mapping[str, Any]) -> int:
    """Return how many workers the cluster has room for at once.

    Args:
        remote: the node hydra.launcher.ray.remote: num_cpus, num_gpus, resources, memory.

    Raises:
        InputError: no node has what one worker asks for, and none joins in a minute.
    """
    import ray

    needs = needs_of(remote)
    end = time.monotonic() + WAIT
    told = False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if number := sum(room(node, needs) for node in nodes):
            return number
        if time.monotonic() > end:
            lacking = [name for name in needs if all(lacks(node, needs, name) for node in nodes)]
            raise InputError(
                f"hydra.launcher.ray.remote asks for {', '.join(lacking or needs)}: no node of the "
                "cluster has that (`ray status` lists what there is)"
            )
        if not told:
            report("no node of the Ray cluster has what a worker asks for: a minute is waited")
            told = True
        time.sleep(2)


def needs_of(remote: Mapping[str, Any]) -> dict[str, float]:
    """Return what a worker needs of a node, by Ray's names.

    Example:
        >>> needs_of({"num_gpus": 1, "resources": {"fast": 2}})
        {'CPU': 1, 'GPU': 1, 'fast': 2}
    """
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    given = {"num_cpus": 1, **remote}
    needs = {ray: given[name] for name, ray in names.items() if given.get(name)}
    return {**needs, **(given.get("resources") or {})}


def lacks(node: Mapping[str, float], needs: Mapping[str, float], name: str) -> bool:
    """Return whether ``node`` has too little of the resource ``name``."""
    return node.get(name, 0) < needs[name]


def room(node: Mapping[str, float], needs: Mapping[str, float]) -> int:
    """Return how many workers with ``needs`` a node with these resources has room for.

    Example:
        >>> room({"CPU": 8, "GPU": 1}, {"CPU": 2}), room({"CPU": 8}, {"CPU": 1, "GPU": 1})
        (4, 0)
    """
    return int(min((node.get(name, 0) // need for name, need in needs.items()), default=1))
