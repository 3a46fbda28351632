"""One cell, from its config to its record: ``plan`` names the stages, ``run_cell`` runs them.

Planning imports no torch, so that a table finds its records in a fraction of a second.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from softmark.data import Roles, Samples, Shares, fingerprint, name_of, open_data
from softmark.errors import InputError
from softmark.store import Stage, Store, manifest, targets, write_json
from softmark.tracking import log_verdict, watch

Config = dict[str, Any]
MAKERS = ("softmark.stages",)
# Where a cell runs and how it is watched: never part of what it is.
ELSEWHERE = ("output_dir", "trainer", "logger", "table", "only")
CURVE = (1, 10, 100, 1000, 10_000)  # numbers of probes at which a record shows the p-value


@dataclass(frozen=True)
class Plan:
    """The stages of one cell; ``verdict`` has all the others as parents."""

    config: Config
    victim: Stage
    watermarked: Stage
    suspect: Stage
    calibration: tuple[Stage, ...]
    evaluation: tuple[Stage, ...]
    verdict: Stage

    @property
    def record(self) -> Path:
        return Path(self.config["output_dir"]) / "records" / f"{self.verdict.address}.json"


def plan(config: Config) -> Plan:
    """The stages of the cell ``config`` (plain containers, interpolations resolved)."""
    drawn = _Draft(config)
    victim = drawn.classifier("victim", config["seed"], {"party": "owner"})
    watermarked = drawn.trained(
        "watermarked", config["seed"], {"method": config["method"]}, (victim,)
    )
    suspect = drawn.suspect(victim, watermarked)
    if config["attack"].get("forged"):
        watermarked = drawn.forged(watermarked)
    pools = {
        pool: drawn.innocents(pool, config["innocents"][pool])
        for pool in ("calibration", "evaluation")
    }
    verdict = Stage(
        role="verdict",
        config={
            "method": config["method"],
            "verifier": config["verifier"],
            # Two cells may share every model and still be two cells: attack=none and method=none.
            "cell": [config["attack"]["name"], config["method"]["name"], config["seed"]],
        },
        code=("softmark.lab:judge", "softmark.training", *sorted(targets(config))),
        parents=(victim, watermarked, suspect, *pools["calibration"], *pools["evaluation"]),
        judges=True,
    )
    return Plan(config, victim, watermarked, suspect, **pools, verdict=verdict)


class _Draft:
    """Makes the stages of one config."""

    def __init__(self, config: Config):
        self.config = config
        self.source = _source(config)
        self.folder = Path(config["output_dir"]) / "data"
        self.common = {
            "data": [fingerprint(self.source, self.folder), config["data"]["roles"]],
            "precision": precision(config["precision"]),
        }

    def trained(self, role: str, seed: int, own: Config, parents: tuple[Stage, ...]) -> Stage:
        told = {**self.common, **own, "seed": seed}
        code = (*MAKERS, *sorted(targets(told)))
        make = functools.partial(make_stage, self.config, role, told, parents)
        return Stage(role, told, code, parents, make)

    def classifier(self, role: str, seed: int, own: Config) -> Stage:
        base = {"model": self.config["model"], "recipe": self.config["recipe"]}
        return self.trained(role, seed, {**base, **own}, ())

    def attacked(self, role: str, seed: int, attack: Config, *targets: Stage) -> Stage:
        model = attack.get("network") or targets[0].config.get("model") or self.config["model"]
        return self.trained(role, seed, {"attack": attack, "model": model}, targets)

    def suspect(self, victim: Stage, watermarked: Stage) -> Stage:
        """What the attack leaves; ``after``: of what another attack left before.

        ``accomplices``: messages of other customers, whose models the thief holds as well.
        """
        attack, method, seed = (self.config[name] for name in ("attack", "method", "seed"))
        first = attack.get("after")
        attack = {key: value for key, value in attack.items() if key != "after"}
        holds = [watermarked]
        for message in attack.get("accomplices") or ():
            if message == method.get("message"):
                raise InputError(f"attack.accomplices names {message!r}, the marked model's own")
            # A method without messages gives each customer the same model.
            own = {**method, "message": message} if "message" in method else method
            holds.append(self.trained("watermarked", seed, {"method": own}, (victim,)))
        if first:
            holds = [self.attacked("suspect", seed, first, *holds)]
        return self.attacked("suspect", seed, attack, *holds)

    def forged(self, watermarked: Stage) -> Stage:
        """What a thief of ``watermarked`` lays before the judge: that model and a key of their own.

        It takes the owner's place in the verdict, so that a claim is a forgery.
        """
        claim = {"method": self.config["method"], "attack": self.config["attack"]}
        return self.trained("forged", self.config["seed"], claim, (watermarked,))

    def innocents(self, pool: str, count: int) -> tuple[Stage, ...]:
        """``count`` models of ``innocents.kinds`` in turn; an attack is made on the one before.

        They never depend on the experiment's seed, and no model of one pool descends from another
        pool's.
        """
        if count < 0:
            raise InputError(f"innocents.{pool}={count}: it can't be negative")
        made: list[Stage] = []
        teacher: Stage | None = None
        kinds = self.config["innocents"]["kinds"]
        for number in range(count):
            kind = dict(kinds[number % len(kinds)])
            role = f"innocent/{pool}/{number}"
            if attack := kind.get("attack"):
                if teacher is None:
                    raise InputError("innocents.kinds: the first can't be an attack")
                config = self.config["innocents"]["attacks"][attack]
                made.append(self.attacked(role, number, config, teacher))
                continue
            recipe = {**self.config["recipe"], **kind.pop("recipe", {})}
            network = kind.pop("network", None)
            model = (
                self.config["innocents"]["networks"][network] if network else self.config["model"]
            )
            teacher = self.classifier(role, number, {**kind, "recipe": recipe, "model": model})
            made.append(teacher)
        return tuple(made)


def _source(config: Config):
    from hydra.utils import instantiate

    return instantiate(config["data"]["source"])


def precision(wanted: str) -> str:
    """``auto`` is bf16-mixed where the processor or a GPU computes in bfloat16, else 32-true."""
    if wanted != "auto":
        return wanted
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return "bf16-mixed"
    return "bf16-mixed" if Path("/proc/driver/nvidia/version").exists() else "32-true"


@functools.lru_cache(maxsize=2)
def _roles(source, shares: Shares, folder: Path) -> Roles:
    return open_data(source, shares, folder)


def roles_of(config: Config) -> Roles:
    """Who holds what, read once a process."""
    folder = Path(config["output_dir"]) / "data"
    return _roles(_source(config), Shares(**config["data"]["roles"]), folder)


def make_stage(
    config: Config, role: str, told: Config, parents: tuple[Stage, ...], folder: Path
) -> dict[str, Any]:
    """Makes a stage that trains: what every role has in common, then the role's own function."""
    from softmark import stages
    from softmark.training import Fit

    roles = roles_of(config)
    with watch(config, role, told, parents, folder) as logger:
        fit = Fit(config["trainer"]["accelerator"], told["precision"], logger)
        stages.seed_torch(told["seed"], role)
        if not parents:
            return stages.train_classifier(folder, told, roles, fit)
        models = [
            stages.load_model(
                store_of(config).folder(parent), parent.config.get("model", config["model"]), roles
            )
            for parent in parents
        ]
        if role == "watermarked":
            return stages.embed(folder, told, roles, fit, models[0])
        if role == "forged":
            from softmark.attacks.forge import claim

            return claim(folder, told, roles, fit, models[0])
        return stages.attack(folder, told, roles, fit, models)


def make_only(config: Config, wanted: list[str], report: Callable[[str], None]) -> None:
    """Makes the stages ROLE/ADDRESS of the cell ``config``, but for those that miss a parent.

    A parent that couldn't be made has failed in a wave before; each cell that needs it says why.
    """
    store = store_of(config, report)
    todo = list(plan(config).verdict.parents)
    found = {}
    while todo:
        stage = todo.pop()
        found[f"{stage.role}/{stage.address}"] = stage
        todo += stage.parents
    if strange := set(wanted) - set(found):
        raise InputError(f"only={sorted(strange)}: the cell has no such stage")
    _check(config)
    for name in wanted:
        if all(map(store.has, found[name].parents)):
            store.once(found[name])


def store_of(config: Config, report: Callable[[str], None] = lambda line: None) -> Store:
    return Store(Path(config["output_dir"]) / "store", report)


def read_record(path: Path) -> dict[str, Any] | None:
    """The record, or None where there is none yet. Raises ``InputError`` where it is broken."""
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a whole record ({error}); remove it") from error
    if not isinstance(record, dict) or record.get("status") not in ("done", "failed"):
        raise InputError(f"{path}: not a record of softmark; remove it")
    return record


def run_cell(config: Config, overrides: list[str], report: Callable[[str], None]) -> dict[str, Any]:
    """Makes what is missing, judges, and leaves one record. A finished cell is only read.

    Whatever fails after planning is recorded as failed, with its reason, and raised.
    """
    cell = plan(config)
    with contextlib.suppress(InputError):
        record = read_record(cell.record)
        if record and record["status"] == "done":
            log_verdict(config, record, (cell.suspect, cell.watermarked), cached=True)
            return {**record, "made": 0}
    start = time.perf_counter()
    store = store_of(config, report)
    record = _describe(cell, overrides)
    try:
        _check(config)
        for stage in cell.verdict.parents:
            store.once(stage)
        record |= judge(cell, store) | {"status": "done"}
    except Exception as error:
        record |= {"status": "failed", "reason": str(error) or type(error).__name__}
        raise
    finally:
        if "status" in record:
            record["seconds"] = round(time.perf_counter() - start, 3)
            write_json(cell.record, record)
    log_verdict(config, record, (cell.suspect, cell.watermarked), cached=False)
    return {**record, "made": len(store.made)}


def _check(config: Config) -> None:
    """Builds everything that has numbers, so that a wrong one stops the cell before it trains."""
    from softmark.stages import make
    from softmark.training import choose_device, set_threads

    for name in ("recipe", "method", "attack", "verifier"):
        make(config[name])
    set_threads(config["trainer"]["threads"])
    choose_device(config["trainer"]["accelerator"])
    verifier = config["verifier"]
    roles_of(config).probes(verifier["inputs"], verifier["probes"])


def _describe(cell: Plan, overrides: list[str]) -> dict[str, Any]:
    """What a record says before anything has run; what a method doesn't have is null."""
    config = cell.config
    return {
        "method": config["method"]["name"],
        "attack": config["attack"]["name"],
        "data": name_of(config["data"]),
        "model": config["model"]["name"],
        "seed": config["seed"],
        "scale": config["scale"]["name"],
        "victim_accuracy": None,
        "watermarked_accuracy": None,
        "suspect_accuracy": None,
        "watermark_accuracy": None,
        "p_value": None,
        "null": None,
        "claimed": False,
        "reason": None,
        "address": cell.verdict.address,
        "path": str(cell.record),
        "stages": {
            "victim": cell.victim.address,
            "watermarked": cell.watermarked.address,
            "suspect": cell.suspect.address,
            "calibration": [stage.address for stage in cell.calibration],
            "evaluation": [stage.address for stage in cell.evaluation],
        },
        "overrides": overrides,
        "config": {key: value for key, value in config.items() if key not in ELSEWHERE},
        "precision": cell.victim.config["precision"],
        "threads": config["trainer"]["threads"],
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("softmark", "torch", "pytorch-lightning", "hydra-core")
        }
        | {"python": platform.python_version()},
        "commit": commit(),
        "machine": machine(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def commit() -> str | None:
    """The commit of the code that runs, with a + where it was changed since; None outside git."""
    checkout = Path(__file__).parents[2]
    # Installed elsewhere, git would tell the commit of whatever project lies around it.
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+"]
    with contextlib.suppress(OSError):
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        return told.stdout.strip() or None
    return None


@functools.cache
def machine() -> str:
    """The processor's name, its cores, and the GPU."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{os.cpu_count()} cores of {name}{gpu}"


@functools.lru_cache(maxsize=64)
def _suspect(folder: Path, model: str, roles: Roles):
    """The model in ``folder``, kept with its answers: every cell asks the same innocents."""
    from softmark.attacks.attack import Suspect
    from softmark.stages import load_model

    return Suspect(load_model(folder, json.loads(model), roles))


def judge(cell: Plan, store: Store) -> dict[str, Any]:
    """The verdict on the suspect, its innocents judged with the same key and probes."""
    from softmark.stages import load_key, make
    from softmark.training import utility

    config, roles = cell.config, roles_of(cell.config)
    method, verifier = make(config["method"]), make(config["verifier"])
    probes = roles.probes(verifier.inputs, verifier.probes)

    def load(stage: Stage):
        model = stage.config.get("model", config["model"])
        return _suspect(store.folder(stage), json.dumps(model), roles)

    key = load_key(store.folder(cell.watermarked), config["method"])
    commitment = key.check(roles.judge) if key else None
    suspect = load(cell.suspect)
    # A method without a mark has nothing to ask the innocents.
    calibration, evaluation = (
        [load(stage) for stage in pool if key] for pool in (cell.calibration, cell.evaluation)
    )

    def evidence(models: list, asked: Samples) -> list:
        return [method.evidence(model, key, asked) for model in models]

    def p_value(asked: Samples) -> float | None:
        return verifier.p_value(*evidence([suspect], asked), evidence(calibration, asked))

    def identify(model):
        accused = method.accuse(model, key, probes, verifier.messages) if key else {}
        return verifier.identify(accused)

    (found,) = evidence([suspect], probes)
    verdict = asdict(
        verifier.judge(found, evidence(calibration, probes), evidence(evaluation, probes))
    )
    curve = {str(count): p_value(probes[:count]) for count in CURVE if count < len(probes)}
    named = identify(suspect)
    worth = {
        name: utility(load(stage).answers(roles.judge), roles.judge.labels)
        for name, stage in (
            ("victim", cell.victim),
            ("watermarked", cell.watermarked),
            ("suspect", cell.suspect),
        )
    }
    flat = {f"{name}_{what}": v for name, row in worth.items() for what, v in row.items()}
    verdict["reason"] = verdict.pop("why") or None
    return {
        **flat,
        **verdict,
        "probes": len(probes),
        "levels": verifier.levels,
        "p_by_probes": {**curve, str(len(probes)): verdict["p_value"]},
        "identified": named.name if named else None,
        "identification": named and named.p_values,
        "innocents_identified": sum(bool(i and i.name) for i in map(identify, evaluation)),
        "queries": manifest(store.folder(cell.suspect))["notes"]["queries"],
        "commitment": commitment,
        "stage_seconds": {
            stage.role: manifest(store.folder(stage))["seconds"] for stage in cell.verdict.parents
        },
    }
