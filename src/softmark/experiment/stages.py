"""How each stage is made: what is loaded, who gets which data, what is written.

``plan`` says which stages there are. Each function here writes ``model.safetensors`` or
``key.safetensors`` into its folder and returns what its manifest notes.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from softmark.data.cache import open_data
from softmark.data.roles import Roles, Samples, Shares, halves
from softmark.errors import InputError
from softmark.experiment.front import FRONT, KEY, LOG, MODEL, Front, load_key, load_log, save_log
from softmark.experiment.plan import source_of
from softmark.methods.key import Key
from softmark.models.access import Query, Suspect, expose
from softmark.models.files import load_network, read_tensors, save_network
from softmark.models.networks import build
from softmark.nodes import make
from softmark.store.address import Stage
from softmark.store.store import Store, manifest
from softmark.tracking.loggers import watch
from softmark.training import Classifier, Fit
from softmark.verification.judge import Verifier

Config = dict[str, Any]
CHOSEN = "probes.safetensors"  # the places of sure probes among the judge's samples
_met: dict[Path, Suspect] = {}


@dataclass(frozen=True)
class Making:
    """What the making of a stage may use: its config, everybody's data, a trainer, its parents.

    A verdict is made like a stage, without a trainer and a folder.

    What is reached through it doesn't count as code of the stage (``store.address``): reading and
    writing files, and building objects, decide no result.
    """

    folder: Path | None
    own: Config
    roles: Roles
    fit: Fit | None
    parents: tuple[Stage, ...]
    store: Store

    def make(self, name: str) -> Any:
        """The object of the node ``name`` in the stage's config."""
        return make(self.own[name], name)

    def data(self) -> Samples:
        """The samples of the party that trains."""
        return party(self.roles, self.own["party"], self.own.get("share", 1.0))

    def network(self) -> nn.Module:
        """The first parent's network."""
        return self._load(self.parents[0])

    def key(self, stage: Stage, method: Any) -> Key | None:
        """The key that ``stage`` left; None where it left none."""
        return load_key(self.store.folder(stage) / KEY, method)

    def notes(self, stage: Stage) -> dict[str, Any]:
        """The manifest of ``stage``: what its making noted, its seconds."""
        return manifest(self.store.folder(stage))

    def suspect(self, stage: Stage) -> Suspect:
        """The model of ``stage`` as the judge meets it.

        The last few hundred are kept with their answers: every cell asks the same innocents.
        """
        folder = self.store.folder(stage)
        if folder not in _met:
            while len(_met) >= 256:
                _met.pop(next(iter(_met)))
            network = self._load(stage)
            answer = Front.of(stage, self.store).answer(network)
            _met[folder] = Suspect(answer, network, load_log(folder / LOG))
        return _met[folder]

    def targets(self, access: str) -> list[nn.Module | Query]:
        """Each parent as an attacker with ``access`` meets it."""
        classes, met = len(self.roles.classes), []
        for parent in self.parents:
            network = self._load(parent)
            front = Front.of(parent, self.store)
            met.append(expose(network, access, classes, front.answer(network), keep=front.logs))
        return met

    def _load(self, stage: Stage) -> nn.Module:
        """The network of ``stage``; it may be of any class that the user's own config names."""
        return load_network(self.store.folder(stage) / MODEL, stage.targets)

    def pool(self, verifier: Verifier, key: Stage | None = None) -> Samples:
        """What the judge asks; ``key``: the stage that has chosen it, where the probes are sure."""
        folder = self.folder if key is None else self.store.folder(key)
        chosen = read_tensors(folder / CHOSEN)[0]["places"] if verifier.inputs == "sure" else None
        return self.roles.probes(verifier.inputs, verifier.probes, chosen)

    def save(self, network: nn.Module, key: Key | None = None) -> None:
        save_network(network, self.folder / MODEL)
        if key is not None:
            key.save(self.folder / KEY)


def make_stage(
    around: Config, maker: str, role: str, own: Config, parents: tuple[Stage, ...], folder: Path
) -> dict[str, Any]:
    """Makes one stage by the function ``maker``.

    ``around``: where it runs and how it is watched (``plan.SURROUNDINGS``).
    """
    roles = roles_of(around)
    with watch(around, role, own, parents, folder) as logger:
        seed_torch(own.get("seed", 0), role)
        entropy = {} if own.get("secrets") == "system" else {"entropy": repeatable}
        fit = Fit(around["trainer"]["accelerator"], own["precision"], logger, **entropy)
        store = Store.under(around["output_dir"])
        return globals()[maker](Making(folder, own, roles, fit, parents, store))


def seed_torch(seed: int, role: str) -> None:
    """Seeds torch from the experiment's seed and the stage's role.

    The role is not the method: a victim and a watermarked model of one seed stay comparable, and
    what was found in the store never changes what comes after.
    """
    digest = hashlib.sha256(f"{seed}/{role}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def repeatable(count: int) -> bytes:
    """``count`` bytes from torch's generator: whoever knows the seed knows the secret."""
    return bytes(torch.randint(256, (count,), dtype=torch.uint8).tolist())


@functools.lru_cache(maxsize=2)
def _roles(source: Any, shares: Shares, folder: Path) -> Roles:
    return open_data(source, shares, folder)


def roles_of(config: Config) -> Roles:
    """Who holds what, read once a process. ``config``: with ``data`` and ``output_dir``."""
    folder = Path(config["output_dir"]) / "data"
    return _roles(source_of(config["data"]), Shares(**config["data"]["roles"]), folder)


def party(roles: Roles, name: str, share: float) -> Samples:
    """Whose samples a model is trained on, and the first ``share`` of them.

    The owner's, the attacker's, or a pool of innocents': the calibration and the evaluation
    innocents have disjoint halves of all training data.
    """
    whole = {"owner": roles.owner, "attacker": roles.attacker}
    if name not in whole:
        pools = halves(roles.training, 0)
        whole = dict(zip(("calibration", "evaluation"), pools, strict=True))
    if name not in whole:
        raise InputError(f"party {name!r}: owner, attacker, or the innocents' own pool")
    return whole[name][: max(2, round(share * len(whole[name])))]


def train_classifier(now: Making) -> dict[str, Any]:
    """A victim or an innocent: a plain classifier on the samples of one party."""
    network = build(now.make("model"), now.roles.owner, len(now.roles.classes))
    data = now.data()
    now.save(now.fit(Classifier(network, now.make("recipe")), data, "classifier"))
    return {"samples": len(data)}


def train_control(now: Making) -> dict[str, Any]:
    """The victim, trained on for as long as the watermarked model, without a mark."""
    now.save(now.make("control").train(now.network(), now.data(), now.fit))
    return {}


def embed(now: Making) -> dict[str, Any]:
    """The watermarked model, and its key, which nobody has committed to yet."""
    now.save(*now.make("method").embed(now.network(), now.data(), now.fit))
    return {"secrets": now.own["secrets"]}


def commit(now: Making) -> dict[str, Any]:
    """The key, bound to its method, to the terms of a claim and to the judge's probes.

    Where they are the sure ones, the confidence of the unmarked victim chooses, no key does.
    """
    verifier = now.make("verifier")
    key = now.key(now.parents[0], now.make("method"))
    if key is None:
        return {"commitment": None}
    if verifier.inputs == "sure":
        (victim,) = now.parents[0].parents
        answers = now.suspect(victim).answers(now.roles.judge)
        save_file({"places": surest(answers, verifier.probes)}, now.folder / CHOSEN)
    commitment = key.commit(now.own["method"], verifier.terms, now.pool(verifier))
    key.save(now.folder / KEY)
    return {"commitment": commitment}


def surest(answers: Tensor, count: int) -> Tensor:
    """The places of the ``count`` most confident of ``answers`` (N, K), in ascending order."""
    order = answers.amax(1).sort(descending=True, stable=True).indices
    return order[:count].sort().values


def attack(now: Making) -> dict[str, Any]:
    """One step of an attack: what its access allows of each target, and the attacker's data."""
    attacker = now.make("attack")
    targets = now.targets(attacker.access)
    merges = now.own["attack"].get("merges")
    data, fit = now.data(), Counted(now.fit)
    stolen = attacker.apply(targets if merges else targets[0], data, fit)
    now.save(stolen.network, stolen.key)
    if attacker.front is not None:
        save_file(attacker.front.state_dict(), now.folder / FRONT)
    save_log(targets, now.folder / LOG)
    return {
        "access": attacker.access,
        "knows": attacker.knows,
        "innocent": attacker.innocent,
        "queries": stolen.queries,
        "epochs": round(fit.seen / len(data), 2),
        "note": stolen.note,
    }


class Counted(Fit):
    """Trains as ``fit`` does, and counts the pictures that all trainings together have seen."""

    def __init__(self, fit: Fit):
        super().__init__(fit.accelerator, fit.precision, fit.logger, fit.entropy)
        self.seen = 0

    def __call__(self, module: LightningModule, data: Any, name: str) -> nn.Module:
        if isinstance(data, Samples):
            self.seen += module.epochs * len(data)
        return super().__call__(module, data, name)


def innocents_evidence(now: Making) -> dict[str, Any]:
    """What every innocent shows of the key: made once for all attacks on one watermarked model."""
    from softmark.experiment.judge import gather

    return gather(now)
