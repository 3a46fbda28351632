"""One cell, from its config to its stages. Nothing is made and torch isn't imported.

An attack's YAML may say, beside what its class takes: ``steps``, a mapping of attacks that follow
each other; ``colluders``, the messages of customers whose models the attackers hold as well;
``merges``, whether the attack takes all models that are held and leaves one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from softmark.data.cache import fingerprint
from softmark.errors import InputError
from softmark.store.address import Stage

Config = dict[str, Any]
# Where a cell runs and how it is watched: never part of what it is.
UNHASHED = ("output_dir", "trainer", "logger", "table", "only")
# What the making of a stage may read of the cell's config beside the stage's own.
SURROUNDINGS = ("output_dir", "data", "trainer", "logger", "method")
# Whose pictures an attacker holds: their own, or the owner's, of which a copy has leaked.
PICTURES = {"own": "attacker", "owner": "owner"}
# What decides the result of every stage that trains, beside its own function and its config.
CODE = (
    "softmark.experiment.stages:seed_torch",
    "softmark.experiment.stages:repeatable",
    "softmark.experiment.stages:party",
    "softmark.experiment.front:served",
    "softmark.data.roles:share",
    "softmark.models.access:expose",
    "softmark.training:Fit",
)
# What decides evidence and verdicts, beside the method, the verifier and the function itself.
JUDGING = ("softmark.experiment.front:served", "softmark.training:predict")


@dataclass(frozen=True)
class InnocentStage:
    """An independent model: its pool (calibration or evaluation), its kind, its stage."""

    pool: str
    kind: str
    stage: Stage


@dataclass(frozen=True)
class Plan:
    """The stages of one cell; ``verdict`` descends from all others.

    ``control``: the victim trained on without a mark, None where the method names none. ``key``:
    the committed key. ``links``: the attack's steps in order, of which ``suspect`` is the last.
    ``evidence``: what the innocents show of the key.
    """

    config: Config
    victim: Stage
    control: Stage | None
    watermarked: Stage
    key: Stage
    links: tuple[Stage, ...]
    innocents: tuple[InnocentStage, ...]
    evidence: Stage
    verdict: Stage

    @property
    def suspect(self) -> Stage:
        return self.links[-1]

    @property
    def record(self) -> Path:
        return Path(self.config["output_dir"]) / "records" / f"{self.verdict.address}.json"


def plan(config: Config) -> Plan:
    """The stages of the cell ``config`` (plain containers, interpolations resolved).

    Raises ``InputError`` for settings that no stage can be made of.
    """
    draft = _Draft(config)
    victim = draft.classifier("victim", config["seed"], {"party": "owner"})
    watermarked = draft.watermarked(config["method"], victim)
    control = draft.control(victim)
    links = draft.attacked(victim, watermarked)
    innocents = (*draft.innocents("calibration"), *draft.innocents("evaluation"))
    method = without(config["method"], "control")
    judging = {"method": method, "verifier": config["verifier"], **draft.common}
    key = draft.stage("key", "commit", judging, (watermarked,))
    named = [[each.pool, each.kind] for each in innocents]
    evidence = draft.stage(
        "evidence",
        "innocents_evidence",
        {**judging, "innocents": named},
        (key, *(each.stage for each in innocents)),
        judges=True,
    )
    parents = (victim, *([control] if control else []), watermarked, key, *links, evidence)
    verdict = Stage(
        role="verdict",
        config={
            **judging,
            # Two cells may share every model and still be two cells: attack=none and method=none.
            "cell": [config["attack"]["name"], config["method"]["name"], config["seed"]],
            # Changes no result; whether the attack can be made at all depends on it.
            "access": config["attacker"]["access"],
            "attacks": [link.config["attack"] for link in links],
        },
        code=("softmark.experiment.judge:judge", *JUDGING),
        parents=parents,
        judges=True,
    )
    return Plan(config, victim, control, watermarked, key, links, innocents, evidence, verdict)


class _Draft:
    """Makes the stages of one config."""

    def __init__(self, config: Config):
        self.config = config
        self.around = {name: config[name] for name in SURROUNDINGS}
        folder = Path(config["output_dir"]) / "data"
        self.common = {
            "data": [fingerprint(source_of(config["data"]), folder), config["data"]["roles"]],
            "precision": precision(config["precision"]),
        }

    def stage(
        self,
        role: str,
        maker: str,
        own: Config,
        parents: tuple[Stage, ...],
        *,
        judges: bool = False,
    ) -> Stage:
        """A stage made by the function ``maker`` of ``softmark.experiment.stages``."""
        code = (f"softmark.experiment.stages:{maker}", *(JUDGING if judges else CODE))
        make = functools.partial(_make, self.around, maker, role, own, parents)
        return Stage(role, own, code, parents, make, judges)

    def classifier(self, role: str, seed: int, own: Config) -> Stage:
        base = {"model": self.config["model"], "recipe": self.config["recipe"], "seed": seed}
        return self.stage(role, "train_classifier", {**self.common, **base, **own}, ())

    def watermarked(self, method: Config, victim: Stage) -> Stage:
        own = {
            **self.common,
            "method": without(method, "control"),
            "party": "owner",
            "secrets": self.config["secrets"],
            "seed": self.config["seed"],
        }
        return self.stage("watermarked", "embed", own, (victim,))

    def control(self, victim: Stage) -> Stage | None:
        node = self.config["method"].get("control")
        if not node:
            return None
        own = {**self.common, "control": node, "party": "owner", "seed": self.config["seed"]}
        return self.stage("control", "train_control", own, (victim,))

    def attacked(self, victim: Stage, watermarked: Stage) -> tuple[Stage, ...]:
        """The links of the attack, the suspect last; what colluders hold goes the same way."""
        steps = list(steps_of(self.config["attack"]))
        held = [watermarked, *self._colluders(steps, victim)]
        share = self.config["attacker"]["share"]
        if not 0 < share <= 1:
            raise InputError(f"attacker.share={share}: a fraction above 0, at most 1")
        pictures = self.config["attacker"]["pictures"]
        if pictures not in PICTURES:
            raise InputError(f"attacker.pictures={pictures}: own or owner")
        links: list[Stage] = []
        for step in steps:
            own = {**self.common, "party": PICTURES[pictures], "share": share}
            own |= {"attack": without(step, "colluders"), "seed": self.config["seed"]}
            groups = [tuple(held)] if step.get("merges") else [(each,) for each in held]
            held = [self.stage("suspect", "attack", own, group) for group in groups]
            links += held
        if len(held) > 1:
            raise InputError("attack.colluders: no step of this attack merges their models")
        return tuple(links)

    def _colluders(self, steps: list[Config], victim: Stage) -> Iterator[Stage]:
        method = self.config["method"]
        for message in dict.fromkeys(
            name for step in steps for name in step.get("colluders") or ()
        ):
            if message == method.get("message"):
                raise InputError(f"attack.colluders names {message!r}, the marked model's own")
            # A method without messages gives each customer the same model.
            own = {**method, "message": message} if "message" in method else method
            yield self.watermarked(own, victim)

    def innocents(self, pool: str) -> Iterator[InnocentStage]:
        """As many models as ``innocents.POOL`` says, of its kinds in turn.

        They never depend on the experiment's seed. A pool's models are trained on that pool's half
        of all training data, unless their kind says whose data they take, and an attack is made on
        models of the same pool, so that no model of one descends from the other.
        """
        settings = self.config["innocents"]
        count, kinds = settings[pool], settings["pools"][pool]
        if count < 0:
            raise InputError(f"innocents.{pool}={count}: it can't be negative")
        if count and not kinds:
            raise InputError(f"innocents.pools.{pool} names no kind")
        plain: list[Stage] = []
        for number in range(count):
            name = kinds[number % len(kinds)]
            kind = self._named("kinds", name)
            role, seed = f"innocent/{pool}/{number}", number // len(kinds)
            if not ({"attack", "method"} & set(kind)):
                made = self._independent(role, seed, {"party": pool, **kind})
                plain.append(made)
            elif not plain:
                raise InputError(f"innocents.pools.{pool}: the first can't be an attacked model")
            else:
                made = self._derived(role, seed, {"party": pool, **kind}, plain)
            yield InnocentStage(pool, name, made)

    def _named(self, group: str, name: str) -> Config:
        """What ``innocents.GROUP`` has under ``name``, which another part of ``innocents`` uses."""
        there = self.config["innocents"][group]
        if name not in there:
            raise InputError(f"innocents.{group} has no {name!r}; there are: {', '.join(there)}")
        return there[name]

    def _independent(self, role: str, seed: int, kind: Config) -> Stage:
        own = {
            "party": kind["party"],
            "recipe": {**self.config["recipe"], **kind.get("recipe", {})},
        }
        if network := kind.get("network"):
            own["model"] = self._named("networks", network)
        return self.classifier(role, seed, own)

    def _derived(self, role: str, seed: int, kind: Config, plain: list[Stage]) -> Stage:
        """An attacked or marked model: of the pool's latest plain one, or of the last three."""
        own = {**self.common, "party": kind["party"], "share": 1.0, "seed": seed}
        if name := kind.get("method"):
            own |= {"method": self._named("methods", name), "secrets": "repeatable"}
            return self.stage(role, "embed", without(own, "share"), (plain[-1],))
        step = self._named("attacks", kind["attack"])
        if "steps" in step:
            raise InputError(f"innocents.attacks.{kind['attack']}: an attack of one step is needed")
        parents = tuple(plain[-3:]) if step.get("merges") else (plain[-1],)
        return self.stage(role, "attack", {**own, "attack": step}, parents)


def _make(
    around: Config, maker: str, role: str, own: Config, parents: tuple[Stage, ...], folder: Path
) -> dict[str, Any]:
    """Makes a stage. Torch is imported here and not before."""
    from softmark.experiment import stages

    return stages.make_stage(around, maker, role, own, parents, folder)


def steps_of(attack: Config) -> Iterator[Config]:
    """The steps of an attack, each with the name of its own; a step may consist of steps."""
    if not attack.get("steps"):
        yield attack
        return
    for step in attack["steps"].values():
        yield from steps_of(step)


def without(node: Config, *names: str) -> Config:
    return {key: value for key, value in node.items() if key not in names}


def source_of(data: Config):
    """Where the samples of the node ``data`` come from."""
    return instantiate(data["source"])


def precision(wanted: str) -> str:
    """``auto`` is bf16-mixed where the processor or a GPU computes in bfloat16, else 32-true."""
    if wanted != "auto":
        return wanted
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            return "bf16-mixed"
    return "bf16-mixed" if Path("/proc/driver/nvidia/version").exists() else "32-true"
