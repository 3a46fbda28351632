"""The pictures of conf/data as an owner's: all training pictures, and probes from the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from softmark.console import report
from softmark.data.cache import open_data
from softmark.data.roles import Samples, Shares, name_of
from softmark.errors import InputError
from softmark.nodes import make

CACHE = Path("outputs/data")


def training_and_probes(config: Mapping[str, Any], exactly: bool) -> tuple[Samples, Samples]:
    """Every training picture of ``data``, and ``verifier.probes`` pictures of the others.

    The order of the probes is one that no key decides. Where there are fewer pictures it is all of
    them, or ``InputError`` where so many are wanted ``exactly``.
    """
    source, count = make(config["data"]["source"], "data.source"), config["verifier"]["probes"]
    report(f"reading data={name_of(config['data'])}; decoded pictures are kept in {CACHE}")
    roles = open_data(source, Shares(**config["data"]["roles"]), CACHE)
    judge = roles.judge
    if exactly and count > len(judge):
        raise InputError(f"verifier.probes={count}: the test part has {len(judge)} pictures")
    return roles.training, judge[:count]


def is_picture(inputs: Tensor) -> bool:
    """Whether ``inputs`` are uint8 pictures (N, C, H, W) that a PNG can hold."""
    return inputs.dtype == torch.uint8 and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def write_pictures(probes: Tensor, folder: Path) -> None:
    """Each of uint8 ``probes`` (N, C, H, W) as 00000.png, 00001.png, ... in a new ``folder``.

    Raises ``InputError`` for what isn't a picture.
    """
    if not is_picture(probes):
        raise InputError(
            f"probes of shape {tuple(probes.shape[1:])} and type {probes.dtype} are no pictures: "
            "write them as .npz"
        )
    folder.mkdir(parents=True)
    for place, picture in enumerate(probes.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture.squeeze()).save(folder / f"{place:05d}.png")


def write_about(probes: Tensor, published: Mapping[str, Any], path: Path) -> None:
    """What whoever asks the suspect must know of the probes."""
    statement = published["statement"]
    classes = statement["classes"]
    about = {
        "probes": len(probes),
        "fingerprint of the first": [statement["probes"]["count"], statement["probes"]["sha256"]],
        "shape": list(probes.shape[1:]),
        "shape means": "channels, height, width",
        "type": str(probes.dtype).removeprefix("torch."),
        "the marked model takes": "floats from 0 to 1: each value divided by 255",
        "answers": {
            "rows": "one for each probe in this order; or a column 'probe' says which (00012.png)",
            "columns": f"{classes}: a probability for each class, as exact as it can be had",
            "order of classes": f"the labels 0 to {classes - 1} that the model was trained with",
            "files": "CSV, Parquet, NPY, NPZ (answers) or JSON lines",
        },
    }
    path.write_text(json.dumps(about, indent=2) + "\n")
