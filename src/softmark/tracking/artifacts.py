"""Artifacts of W&B, one for the model of each stage, ROLE-ADDRESS: which came from which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmark.store.address import Stage
from softmark.store.store import Store

Config = dict[str, Any]
MODEL = "model.safetensors"  # the only file of a stage's folder in an artifact: never its key


def metadata_of(role: str, address: str, seed: int, parents: Sequence[Stage]) -> Config:
    """Return what an artifact says of a stage."""
    names = [f"{parent.role}:{parent.address}" for parent in parents]
    return {"role": role, "address": address, "seed": seed, "parents": names}


def artifact(config: Config, metadata: Config, source: Path, folder: Path) -> Any:
    """Return an artifact of a stage's model: a reference to it, or its weights.

    Never of the whole folder: a key may lie beside the model.

    Args:
        config: The cell's, or the part of it that a stage may read.
        metadata: As of ``metadata_of``.
        source: The folder in which the model lies now.
        folder: The folder in which it will lie when the stage is complete.
    """
    import wandb

    name = f"{metadata['role'].split('/')[0]}-{metadata['address']}"
    model = wandb.Artifact(name, "model", metadata=metadata)
    if config["logger"]["weights"]:
        model.add_file(str(source / MODEL))
    else:
        model.add_reference((source / MODEL).resolve().as_uri())
        # The digest is the file's; its folder is renamed when the stage is complete.
        model.manifest.entries[MODEL].ref = (folder / MODEL).resolve().as_uri()
    return model


def link_inputs(run: Any, config: Config, stages: Sequence[Stage]) -> None:
    """Link the models of ``stages`` as the inputs of ``run``, whoever made them."""
    store = Store.under(config["output_dir"])
    for stage in stages:
        metadata = metadata_of(stage.role, stage.address, stage.config["seed"], stage.parents)
        folder = store.folder(stage)
        # What use_artifact does with one that isn't on the server yet, and refuses to do offline:
        # the server knows the parent's artifact by its name and digest.
        run._log_artifact(
            artifact(config, metadata, folder, folder), is_user_created=True, use_after_commit=True
        )
