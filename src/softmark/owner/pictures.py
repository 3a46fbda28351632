"""The pictures of conf/data as an owner's: all training pictures, and probes from the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from softmark.data.cache import open_data
from softmark.data.roles import Roles, Samples, Shares
from softmark.errors import InputError
from softmark.nodes import make
from softmark.settings import composed

CACHE = Path("outputs/data")


def all_training(overrides: Sequence[str]) -> Samples:
    """Every training picture of ``data=``."""
    roles = _roles(overrides)
    return Samples(
        torch.cat([roles.owner.inputs, roles.attacker.inputs]),
        torch.cat([roles.owner.labels, roles.attacker.labels]),
    )


def first_judged(overrides: Sequence[str]) -> Tensor:
    """``verifier.probes`` pictures that nothing was trained on, in an order that no key decides."""
    judge = _roles(overrides).judge.inputs
    count = composed("owner", overrides)["verifier"]["probes"]
    if any(word.startswith("verifier.probes=") for word in overrides) and count > len(judge):
        raise InputError(f"verifier.probes={count}: the test part has {len(judge)} pictures")
    return judge[:count]


def write_pictures(probes: Tensor, folder: Path) -> None:
    """Each of uint8 ``probes`` (N, C, H, W) as 00000.png, 00001.png, ... in a new ``folder``.

    Raises ``InputError`` for what isn't a picture.
    """
    if probes.dtype != torch.uint8 or probes.ndim != 4 or probes.shape[1] not in (1, 3):
        raise InputError(
            f"probes of shape {tuple(probes.shape[1:])} and type {probes.dtype} are no pictures: "
            "write them as .npz"
        )
    folder.mkdir(parents=True)
    for place, picture in enumerate(probes.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture.squeeze()).save(folder / f"{place:05d}.png")


def write_about(probes: Tensor, fingerprint: str, path: Path) -> None:
    """What whoever asks the suspect must know of the probes."""
    about = {
        "probes": len(probes),
        "fingerprint": fingerprint,
        "shape": list(probes.shape[1:]),
        "type": str(probes.dtype).removeprefix("torch."),
        "answers": "one row for each probe in this order: a probability for each class",
    }
    path.write_text(json.dumps(about, indent=2) + "\n")


def _roles(overrides: Sequence[str]) -> Roles:
    config = composed("owner", overrides)["data"]
    return open_data(make(config["source"], "data.source"), Shares(**config["roles"]), CACHE)
