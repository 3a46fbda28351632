"""Which model came from which, as W&B's artefacts: one for each stage, ROLE-ADDRESS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softmark.store.address import Stage
from softmark.store.store import Store

Config = dict[str, Any]
MODEL = "model.safetensors"  # all that an artefact may hold of a stage's folder: never its key


def facts_of(role: str, address: str, own: Config, parents: Sequence[Stage]) -> Config:
    """What an artefact says of the stage whose config is ``own``."""
    named = [f"{parent.role}:{parent.address}" for parent in parents]
    return {"role": role, "address": address, "seed": own["seed"], "parents": named}


def artefact(config: Config, facts: Config, here: Path, folder: Path) -> Any:
    """The model that lies ``here`` and will lie in ``folder``: a reference to it, or its weights.

    Never the folder: a key may lie beside the model.
    """
    import wandb

    name = f"{facts['role'].split('/')[0]}-{facts['address']}"
    made = wandb.Artifact(name, "model", metadata=facts)
    if config["logger"]["weights"]:
        made.add_file(str(here / MODEL))
    else:
        made.add_reference((here / MODEL).resolve().as_uri())
        # The digest is the file's; its folder is renamed when the stage is whole.
        made.manifest.entries[MODEL].ref = (folder / MODEL).resolve().as_uri()
    return made


def use(run: Any, config: Config, stages: Sequence[Stage]) -> None:
    """Links the models of ``stages`` as what ``run`` started from, whoever made them."""
    store = Store.under(config["output_dir"])
    for stage in stages:
        facts = facts_of(stage.role, stage.address, stage.config, stage.parents)
        folder = store.folder(stage)
        # What use_artifact does with one that isn't on the server yet, and refuses to do offline:
        # the server knows the parent's artefact by its name and digest.
        run._log_artifact(
            artefact(config, facts, folder, folder), is_user_created=True, use_after_commit=True
        )
