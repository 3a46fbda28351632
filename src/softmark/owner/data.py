"""The data of conf/data, split for an owner: pictures to train on, and others for the probes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softmark.console import report
from softmark.data.cache import open_data
from softmark.data.roles import Samples, Shares, name_of
from softmark.errors import InputError
from softmark.nodes import make

CACHE = Path("outputs/data")


def training_and_probes(config: Mapping[str, Any], exactly: bool) -> tuple[Samples, Samples]:
    """Return every training picture of ``data``, and ``verifier.probes`` pictures of the others.

    The order of the probes is one that no key decides. Where there are fewer pictures all of them
    are returned.

    Args:
        config: of ``owner_config``.
        exactly: raise ``InputError`` where there are fewer than ``verifier.probes``.
    """
    source, count = make(config["data"]["source"], "data.source"), config["verifier"]["probes"]
    report(f"reading data={name_of(config['data'])}; decoded pictures are kept in {CACHE}")
    roles = open_data(source, Shares(**config["data"]["roles"]), CACHE)
    if roles.num_copies:
        report(f"{roles.num_copies} pictures are left out: the test part holds the same")
    pool = roles.judge
    if exactly and count > len(pool):
        raise InputError(f"verifier.probes={count}: the test part has {len(pool)} pictures")
    return roles.training, pool[:count]
