"""What the making of a stage may use: its config, everybody's samples, a trainer, its parents."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from softmark.data.cache import cache_file, open_data
from softmark.data.roles import Roles, Samples, Shares, halves
from softmark.data.sources import source_of
from softmark.errors import InputError
from softmark.experiment.cell import Config
from softmark.experiment.interface import KEY, MODEL, ServingChain, load_key, load_log
from softmark.methods.key import Key
from softmark.models.access import Query, Suspect, expose
from softmark.models.files import load_network, read_tensors, save_network
from softmark.nodes import make
from softmark.store.address import Stage
from softmark.store.store import Store, manifest
from softmark.training import Fit
from softmark.verification.judge import Verifier

CHOSEN = "probes.safetensors"  # the places of the most confident probes among the judge's samples


@dataclass(frozen=True)
class StageContext:
    """What the making of a stage may use. A verdict has no folder and no trainer.

    What is reached through it doesn't count as code of the stage (``store.address``): reading and
    writing files, and building objects, decide no result.

    Args:
        stage: the one that is made; it declares each parent that it reads.
        folder: where its files go; None for a verdict.
        roles: who holds which samples.
        fit: trains; None for a verdict.
        store: where the parents lie.
    """

    stage: Stage
    folder: Path | None
    roles: Roles
    fit: Fit | None
    store: Store

    @property
    def config(self) -> Config:
        """Return the stage's config."""
        return self.stage.config

    def check_data(self) -> None:
        """Raise ``InputError`` where the samples aren't those that the stage was planned with."""
        if self.roles.content != self.config["data"][0]:
            raise InputError("the data have changed since this run began: start it again")

    def make(self, name: str) -> Any:
        """Return the object of the node ``name`` in the stage's config."""
        return make(self.config[name], name)

    def attacker(self) -> Any:
        """Return the attack of this step."""
        return make(self.config["attacks"][-1], "attack")

    def parents(self, role: str) -> Iterator[Stage]:
        """Yield the parents whose role is or begins with ``role``."""
        for parent in self.stage.parents:
            if parent.role.split("/")[0] == role:
                yield parent

    def parent(self, role: str) -> Stage:
        """Return the parent of ``role``, of which there is one."""
        (parent,) = self.parents(role)
        return parent

    def data(self) -> Samples:
        """Return the samples of the party that trains."""
        return samples_of(self.roles, self.config["party"], self.config.get("fraction", 1.0))

    def network(self) -> nn.Module:
        """Return the first parent's network."""
        parent = self.stage.parents[0]
        return open_network(self.store.folder(parent), parent.targets)

    def key(self, stage: Stage, method: Any) -> Key | None:
        """Return the key that ``stage`` left; None where it left none."""
        return load_key(self.store.folder(stage) / KEY, method)

    def manifest(self, stage: Stage) -> dict[str, Any]:
        """Return what the making of ``stage`` noted, and its seconds."""
        return manifest(self.store.folder(stage))

    def suspect(self, stage: Stage) -> Suspect:
        """Return the model of ``stage`` as the judge meets it."""
        chain = ServingChain.nodes(stage)
        return open_suspect(self.store.folder(stage), stage.targets, json.dumps(chain))

    def targets(self, access: str) -> list[nn.Module | Query]:
        """Return each parent as an attacker with ``access`` meets it."""
        classes, targets = len(self.roles.classes), []
        for parent in self.stage.parents:
            folder = self.store.folder(parent)
            network = open_network(folder, parent.targets)
            chain = ServingChain.open(folder, ServingChain.nodes(parent))
            answer = chain.answer(network)
            targets.append(expose(network, access, classes, answer, keep_log=chain.keeps_log))
        return targets

    def pool(self, verifier: Verifier) -> Samples:
        """Return the judge's probes; the key's stage has chosen the most confident ones."""
        if verifier.inputs != "sure":
            return self.roles.probes(verifier.inputs, verifier.probes)
        folder = self.folder
        if self.stage.role != "key":
            folder = self.store.folder(self.parent("key"))
        places = read_tensors(folder / CHOSEN)[0]["places"]
        return self.roles.probes(verifier.inputs, verifier.probes, places)

    def save(self, network: nn.Module, key: Key | None = None) -> None:
        """Write the network, and the key if there is one, into the stage's folder."""
        save_network(network, self.folder / MODEL)
        if key is not None:
            self.save_key(key)

    def save_key(self, key: Key) -> None:
        """Write ``key`` into the stage's folder."""
        key.save(self.folder / KEY)


def open_network(folder: Path, allowed: frozenset[str]) -> nn.Module:
    """Return the network in ``folder``; of any class that ``allowed`` names."""
    return load_network(folder / MODEL, allowed)


@functools.lru_cache(maxsize=256)
def open_suspect(folder: Path, allowed: frozenset[str], chain: str) -> Suspect:
    """Return the model in ``folder``, a stage's, as the judge meets it.

    The last few hundred are kept with their answers, since every cell asks the same innocents; a
    folder's name is the address of its content.

    Args:
        allowed: the classes that its network may be of.
        chain: what stands before it, ``ServingChain.nodes`` as JSON.
    """
    network = open_network(folder, allowed)
    return ServingChain.open(folder, json.loads(chain)).suspect(network, load_log(folder))


def seed_torch(seed: int, role: str) -> None:
    """Seed torch from the experiment's seed and the stage's role.

    The role is not the method: a victim and a watermarked model of one seed stay comparable, and
    what was found in the store never changes what comes after.
    """
    digest = hashlib.sha256(f"{seed}/{role}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def repeatable(count: int) -> bytes:
    """Return ``count`` bytes of torch's generator: whoever knows the seed knows the secret."""
    return bytes(torch.randint(256, (count,), dtype=torch.uint8).tolist())


def roles_of(config: Config) -> Roles:
    """Return who holds which samples, read once a process.

    Args:
        config: a cell's, of which ``data`` and ``output_dir`` are read.
    """
    source, folder = source_of(config["data"]), Path(config["output_dir"]) / "data"
    return _roles(source, Shares(**config["data"]["roles"]), cache_file(source, folder)[0])


@functools.lru_cache(maxsize=2)
def _roles(source: Any, shares: Shares, file: Path) -> Roles:
    """Return what ``open_data`` does; the last two are kept in memory.

    ``file``: where the decoded data lie, named by the files that the source reads now.
    """
    return open_data(source, shares, file.parent)


def samples_of(roles: Roles, party: str, fraction: float) -> Samples:
    """Return the first ``fraction`` of the samples on which ``party`` trains.

    The owner's, the attacker's, or a pool of innocents': the calibration and the evaluation
    innocents have disjoint halves of all training data.
    """
    held = {"owner": roles.owner, "attacker": roles.attacker}
    if party not in held:
        pools = halves(roles.training, 0)
        held = dict(zip(("calibration", "evaluation"), pools, strict=True))
    if party not in held:
        raise InputError(f"party {party!r}: owner, attacker, or the innocents' own pool")
    return held[party][: max(2, round(fraction * len(held[party])))]
