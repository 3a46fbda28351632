"""The probes of a key as files: one NPZ, or pictures for whoever will ask the suspect."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from softmark.errors import InputError
from softmark.nodes import short
from softmark.owner.numpy_files import read_array


def save_probes(probes: Tensor, path: Path) -> None:
    """Write ``probes`` (N, ...) as a compressed NPZ, for its owner alone (mode 600).

    The last of them may be triggers, which are secret until they are asked.
    """
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        np.savez_compressed(file, inputs=probes.numpy())


def load_probes(path: Path, max_bytes: int) -> Tensor:
    """Return the inputs (N + T, ...) in ``path``, an NPZ or NPY.

    Raises:
        InputError: where it holds none, or more than ``max_bytes`` (``Statement.input_bytes``);
            no memory is taken before.
    """
    try:
        inputs = torch.from_numpy(read_array(path, lambda names: "inputs", max_bytes))
    except OSError as error:
        raise InputError(f"{path}: it can't be read ({error.strerror or error})") from error
    except (ValueError, TypeError) as error:  # TypeError: numbers that torch doesn't have
        raise InputError(f"{path}: no probes of softmark ({short(error)})") from error
    if inputs.ndim < 2:
        raise InputError(f"{path}: inputs of shape {tuple(inputs.shape)}; (N, ...) are needed")
    return inputs


def is_picture(inputs: Tensor) -> bool:
    """Whether ``inputs`` are uint8 pictures (N, C, H, W) that a PNG can hold."""
    return inputs.dtype == torch.uint8 and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def write_pictures(probes: Tensor, folder: Path) -> None:
    """Write uint8 ``probes`` (N, C, H, W) as 00000.png, 00001.png, ... into a new ``folder``.

    Raises ``InputError`` for what isn't a picture.
    """
    if not is_picture(probes):
        raise InputError(
            f"probes of shape {tuple(probes.shape[1:])} and type {probes.dtype} are no pictures: "
            "write them as .npz"
        )
    folder.mkdir(parents=True)
    for number, picture in enumerate(probes.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(picture.squeeze()).save(folder / f"{number:05d}.png")


def write_instructions(probes: Tensor, published: Mapping[str, Any], path: Path) -> None:
    """Write as JSON what whoever asks the suspect must know of the ``probes``."""
    statement = published["statement"]
    classes = statement["classes"]
    instructions = {
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
    path.write_text(json.dumps(instructions, indent=2) + "\n")
