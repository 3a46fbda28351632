"""How each stage that trains is made: victims, innocents, watermarked models, suspects.

``lab.plan`` says which there are; these functions say how. Each writes ``model.safetensors`` into
its folder, and the watermarked model its ``key.safetensors``.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from softmark.attacks.attack import expose
from softmark.data import Roles, Samples, half
from softmark.errors import InputError
from softmark.methods.watermark import Key
from softmark.networks import build
from softmark.training import Classifier, Fit, load_network, save_network

MODEL = "model.safetensors"
KEY = "key.safetensors"
PLANNED = ("name", "after", "accomplices")


def make(node: dict[str, Any]) -> Any:
    """The object of a config node. An ``InputError`` of its class comes out as such."""
    try:
        return instantiate(_for_its_class(node), _convert_="all")
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise InputError(str(cause)) from error
            cause = cause.__cause__
        raise


def _for_its_class(node: Any) -> Any:
    """``node`` without what records and plans read of each object: no class takes it."""
    if isinstance(node, list):
        return [_for_its_class(value) for value in node]
    if not isinstance(node, dict):
        return node
    return {
        key: _for_its_class(value)
        for key, value in node.items()
        if key not in PLANNED or "_target_" not in node
    }


def seed_torch(seed: int, role: str) -> None:
    """Seeds torch from the experiment's seed and the stage's role.

    The role is not the method: a victim and a watermarked model of one seed stay comparable, and
    what was found in the store never changes what comes after.
    """
    digest = hashlib.sha256(f"{seed}/{role}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def train_classifier(
    folder: Path, config: dict[str, Any], roles: Roles, fit: Fit
) -> dict[str, Any]:
    """A victim or an innocent: a plain classifier on the samples of one party."""
    network = build(make(config["model"]), roles.owner, len(roles.classes))
    samples = party(roles, config["party"], config["seed"])
    fit(Classifier(network, make(config["recipe"])), samples, "classifier")
    save_network(network, folder / MODEL)
    return {"samples": len(samples)}


def party(roles: Roles, name: str, seed: int) -> Samples:
    """Whose samples an unmarked model learns from: the owner's, the attacker's, half of all."""
    if name == "owner":
        return roles.owner
    if name == "attacker":
        return roles.attacker
    whole = Samples(
        torch.cat([roles.owner.images, roles.attacker.images]),
        torch.cat([roles.owner.labels, roles.attacker.labels]),
    )
    return half(whole, seed)


def embed(
    folder: Path, config: dict[str, Any], roles: Roles, fit: Fit, victim: nn.Module
) -> dict[str, Any]:
    """The watermarked model and its key, committed to the judge's samples in their order."""
    network, key = make(config["method"]).embed(victim, roles.owner, fit)
    save_network(network, folder / MODEL)
    if key is None:
        return {}
    commitment = key.commit(roles.judge)
    key.save(folder / KEY)
    return {"commitment": commitment}


def attack(
    folder: Path, config: dict[str, Any], roles: Roles, fit: Fit, targets: list[nn.Module]
) -> dict[str, Any]:
    """A suspect: the attack gets what its access allows, and the attacker's data."""
    thief = make(config["attack"])
    met = [expose(copy.deepcopy(model), thief.access, len(roles.classes)) for model in targets]
    colluding = config["attack"].get("accomplices") is not None
    suspect = thief.apply(met if colluding else met[0], roles.attacker, fit)
    save_network(suspect.network, folder / MODEL)
    return {"queries": suspect.queries}


def load_model(folder: Path, model: dict[str, Any], roles: Roles) -> nn.Module:
    """The network in a stage's folder, whose architecture is the config node ``model``."""
    network = build(make(model), roles.owner[:2], len(roles.classes))
    return load_network(network, folder / MODEL)


def load_key(folder: Path, method: dict[str, Any]) -> Key | None:
    return make(method).load_key(folder / KEY)
