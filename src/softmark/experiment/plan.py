"""One cell, from its config to its stages. Nothing is made and torch isn't imported.

An attack's YAML may say, beside what its class takes: ``steps``, a mapping of attacks that follow
each other; ``colluders``, the messages of customers whose models the attackers hold as well, or
the number of copies;
``merges``, whether the attack takes all models that are held and leaves one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from softmark.data.cache import decode, fingerprint
from softmark.data.sources import source_of
from softmark.errors import InputError
from softmark.experiment.cell import (
    Config,
    InnocentStage,
    Plan,
    colluders_of,
    marking,
    steps_of,
    without,
)
from softmark.experiment.provenance import precision
from softmark.store.address import Stage

# Where a cell runs and how it is watched: never part of what it is.
UNHASHED = ("output_dir", "trainer", "logger", "table", "worker")
# All settings that innocents depend on, beside the content of the data.
SHARED = ("data", "model", "recipe", "innocents", "precision", "trainer", "output_dir")
# Whose pictures an attacker holds: their own, or the owner's, of which a copy has leaked.
PICTURES = {"own": "attacker", "owner": "owner"}
# What decides the result of every stage that trains, beside its own function and its config.
CODE = (
    "softmark.experiment.context:seed_torch",
    "softmark.experiment.context:repeatable",
    "softmark.experiment.context:samples_of",
    "softmark.experiment.interface:served",
    "softmark.data.roles:share",
    "softmark.models.access:expose",
    "softmark.training:Fit",
)
# What decides evidence and verdicts, beside the method, the verifier and the function itself.
JUDGING = (
    "softmark.experiment.interface:served",
    "softmark.methods.key_verifier:KeyVerifier",
    "softmark.training:predict",
)


def plan(
    config: Config,
    content: str | None = None,
    innocents: tuple[InnocentStage, ...] | None = None,
    stages: dict[Any, Stage] | None = None,
) -> Plan:
    """Return the stages of the cell ``config`` (plain containers, interpolations resolved).

    Args:
        config: the cell's.
        content: as of ``content_of``, if it is known.
        innocents: as of ``plan_innocents``, if they are known from a cell that shares them.
        stages: those of other cells, to share: what is planned here is added.

    Raises:
        InputError: no stage can be made of these settings.

    Example:
        >>> from softmark.settings import composed
        >>> cell = plan(composed("config", ["method=csp", "attack=prune"]), "0" * 64)
        >>> [parent.role for parent in cell.suspect.parents]
        ['watermarked']
    """
    content = content or content_of(config)
    draft = _Draft(config, content, stages)
    if innocents is None:
        innocents = plan_innocents(config, content)
    victim = draft.classifier("victim", config["seed"], {"party": "owner"})
    watermarked = draft.watermarked(config["method"], victim)
    control = draft.control(victim)
    links = draft.attacked(victim, watermarked)
    method = marking(config["method"])
    judging = {"method": method, "verifier": config["verifier"], **draft.common}
    key = draft.stage("key", "commit", judging, (watermarked, victim))
    certificate = draft.certificate(judging, (key, watermarked))
    named = [[innocent.pool, innocent.kind] for innocent in innocents]
    evidence = draft.stage(
        "evidence",
        "gather_evidence",
        {**judging, "innocents": named},
        (key, victim, *(innocent.stage for innocent in innocents)),
        judges=True,
    )
    # A forger's key may be judged by the calibration innocents themselves.
    others = [innocent.stage for innocent in innocents]
    optional = [stage for stage in (control, certificate) if stage]
    parents = (victim, *optional, watermarked, key, *links, evidence, *others)
    verdict = Stage(
        role="verdict",
        config={
            **judging,
            "seed": config["seed"],
            # Changes no result; whether the attack can be made at all depends on it.
            "access": config["attacker"]["access"],
            "attacks": [link.config["attacks"][-1] for link in links],
        },
        code=("softmark.experiment.judge:verdict", "softmark.experiment.judge:load", *JUDGING),
        parents=parents,
        judges=True,
    )
    marked = (victim, control, watermarked, key, certificate)
    return Plan(config, *marked, links, innocents, evidence, verdict)


def plan_innocents(config: Config, content: str | None) -> tuple[InnocentStage, ...]:
    """Return both pools of innocents: cells with the same ``SHARED`` settings share them."""
    draft = _Draft(config, content)
    return (*draft.innocents("calibration"), *draft.innocents("evaluation"))


class _Draft:
    """Makes the stages of one config."""

    def __init__(self, config: Config, content: str | None, stages: dict[Any, Stage] | None = None):
        self.config = config
        self.stages = {} if stages is None else stages
        if content is None:
            folder = Path(config["output_dir"]) / "data"
            raise InputError(f"{folder} has no decoded data of this source yet: a run decodes them")
        self.common = {
            "data": [content, config["data"]["roles"]],
            "precision": precision(config["precision"], config["trainer"]["accelerator"]),
        }

    def stage(
        self,
        role: str,
        maker: str,
        config: Config,
        parents: tuple[Stage, ...],
        *,
        judges: bool = False,
    ) -> Stage:
        """Return a stage that the function ``maker`` of ``experiment.stages`` makes."""
        code = (f"softmark.experiment.stages:{maker}", *(JUDGING if judges else CODE))
        # A stage that cells share has its address computed once.
        identity = (role, maker, json.dumps(config), tuple(map(id, parents)))
        return self.stages.setdefault(identity, Stage(role, config, code, parents, judges))

    def classifier(self, role: str, seed: int, settings: Config) -> Stage:
        """Return a plain classifier; ``settings``: its party, and what differs from the cell's."""
        base = {"model": self.config["model"], "recipe": self.config["recipe"], "seed": seed}
        return self.stage(role, "train_classifier", {**self.common, **base, **settings}, ())

    def watermarked(self, method: Config, victim: Stage) -> Stage:
        """Return ``victim`` with the mark of ``method``."""
        config = {
            **self.common,
            "method": marking(method),
            "party": "owner",
            "secrets": self.config["secrets"],
            "seed": self.config["seed"],
        }
        return self.stage("watermarked", "embed", config, (victim,))

    def control(self, victim: Stage) -> Stage | None:
        """Return ``victim`` trained on without a mark; None where the method names no control."""
        node = self.config["method"].get("control")
        if not node:
            return None
        config = {**self.common, "control": node, "party": "owner", "seed": self.config["seed"]}
        return self.stage("control", "train_control", config, (victim,))

    def certificate(self, judging: Config, parents: tuple[Stage, ...]) -> Stage | None:
        """Return what bounds the weights' move; None where the method names no certificate."""
        node = self.config["method"].get("certificate")
        if not node:
            return None
        config = {**judging, "certificate": node}
        return self.stage("certificate", "certify", config, parents, judges=True)

    def attacked(self, victim: Stage, watermarked: Stage) -> tuple[Stage, ...]:
        """Return the steps of the attack; the last makes the suspect.

        What colluders hold goes the same way, until a step merges all models into one.
        """
        steps = list(steps_of(self.config["attack"]))
        held = [watermarked, *self._colluders(steps, victim)]
        links: list[Stage] = []
        for step in steps:
            groups = [tuple(held)] if step.get("merges") else [(model,) for model in held]
            held = [self._attack("suspect", step, self._attacker(), group) for group in groups]
            links += held
        if len(held) > 1:
            raise InputError("attack.colluders: no step of this attack merges their models")
        return tuple(links)

    def _attacker(self) -> Config:
        """Return whose samples the attacker trains on, how many of them, and the seed."""
        fraction = self.config["attacker"]["fraction"]
        if not 0 < fraction <= 1:
            raise InputError(f"attacker.fraction={fraction}: a fraction above 0, at most 1")
        pictures = self.config["attacker"]["pictures"]
        if pictures not in PICTURES:
            raise InputError(f"attacker.pictures={pictures}: own or owner")
        seed = self.config["seed"]
        return {"party": PICTURES[pictures], "fraction": fraction, "seed": seed}

    def _attack(
        self, role: str, step: Config, attacker: Config, targets: tuple[Stage, ...]
    ) -> Stage:
        """Return ``step``, made on ``targets``; its config names the steps before it as well."""
        before = targets[0].config.get("attacks", [])
        attacks = [*before, without(step, "colluders")]
        config = {**self.common, **attacker, "attacks": attacks}
        return self.stage(role, "attack", config, targets)

    def _colluders(self, steps: list[Config], victim: Stage) -> Iterator[Stage]:
        """Yield ``victim`` with the message of each customer that ``steps`` name."""
        method = self.config["method"]
        for message in dict.fromkeys(name for step in steps for name in colluders_of(step)):
            if message == method.get("message"):
                raise InputError(f"attack.colluders names {message!r}, the marked model's own")
            # A method without messages gives each customer the same model.
            named = {**method, "message": message} if "message" in method else method
            yield self.watermarked(named, victim)

    def innocents(self, pool: str) -> Iterator[InnocentStage]:
        """Yield as many models as ``innocents.POOL`` says, of its kinds in turn.

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
                stage = self._independent(role, seed, {"party": pool, **kind})
                plain.append(stage)
            elif not plain:
                raise InputError(f"innocents.pools.{pool}: the first can't be an attacked model")
            else:
                stage = self._derived(role, seed, {"party": pool, **kind}, plain)
            yield InnocentStage(pool, name, stage)

    def _named(self, group: str, name: str) -> Config:
        """Return what ``innocents.GROUP`` has under ``name``, which another part of it uses."""
        choices = self.config["innocents"][group]
        if name not in choices:
            raise InputError(f"innocents.{group} has no {name!r}; there are: {', '.join(choices)}")
        return choices[name]

    def _independent(self, role: str, seed: int, kind: Config) -> Stage:
        """Return a model that is trained as the victim is, but for what ``kind`` says."""
        settings = {
            "party": kind["party"],
            "recipe": {**self.config["recipe"], **kind.get("recipe", {})},
        }
        if network := kind.get("network"):
            settings["model"] = self._named("networks", network)
        return self.classifier(role, seed, settings)

    def _derived(self, role: str, seed: int, kind: Config, plain: list[Stage]) -> Stage:
        """Return an attacked or marked model: of the pool's latest plain one, or of three."""
        party = {"party": kind["party"], "seed": seed}
        if name := kind.get("method"):
            method = {"method": self._named("methods", name), "secrets": "repeatable"}
            return self.stage(role, "embed", {**self.common, **party, **method}, (plain[-1],))
        step = self._named("attacks", kind["attack"])
        if "steps" in step:
            raise InputError(f"innocents.attacks.{kind['attack']}: an attack of one step is needed")
        parents = tuple(plain[-3:]) if step.get("merges") else (plain[-1],)
        return self._attack(role, step, {**party, "fraction": 1.0}, parents)


def decode_data(config: Config) -> None:
    """Decode the cell's data, unless that is done: a plan needs to know what they hold."""
    decode(source_of(config["data"]), Path(config["output_dir"]) / "data")


def content_of(config: Config) -> str | None:
    """Return the fingerprint of the decoded data; None where a run has yet to decode them."""
    return fingerprint(source_of(config["data"]), Path(config["output_dir"]) / "data")
