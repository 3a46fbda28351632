"""Make each stage.

``plan`` says which stages there are. Each function here writes ``model.safetensors``,
``key.safetensors`` or evidence into its folder and returns what its manifest notes.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from safetensors.torch import save_file
from torch import Tensor, nn

from softmark.data.roles import Samples
from softmark.experiment.cell import Config
from softmark.experiment.checkpoints import Checkpoints
from softmark.experiment.context import (
    CHOSEN,
    StageContext,
    repeatable,
    roles_of,
    seed_torch,
)
from softmark.experiment.evidence import gather_evidence
from softmark.experiment.interface import save_log, save_transforms
from softmark.methods.contract import check_marked
from softmark.models.networks import build
from softmark.store.address import Stage
from softmark.store.store import TRAINING, Store
from softmark.tracking.loggers import stage_logger
from softmark.training import Classifier, Fit


def make_stage(settings: Config, stage: Stage, folder: Path) -> dict[str, Any]:
    """Make ``stage`` in ``folder``; return what its manifest notes.

    Args:
        settings: the cell's config, which says where the stage runs and how it is watched.
        stage: its first root of code names the function that makes it.
        folder: empty; what is written into it is the stage.
    """
    roles, config = roles_of(settings), stage.config
    with stage_logger(settings, stage, folder) as logger:
        seed_torch(config.get("seed", 0), stage.role)
        checkpoints = Checkpoints(folder.with_suffix(TRAINING))
        # The system's secrets are others the second time: no training goes on from the first.
        repeats = config.get("secrets") != "system"
        more = {"entropy": repeatable, "checkpoints": checkpoints.callbacks} if repeats else {}
        trainer = settings["trainer"]
        fit = Fit(
            trainer["accelerator"],
            config["precision"],
            logger,
            threads=trainer["threads"],
            **more,
        )
        context = StageContext(stage, folder, roles, fit, Store.under(settings["output_dir"]))
        context.check_data()
        notes = MAKERS[stage.code[0].partition(":")[2]](context)
    checkpoints.remove()
    return notes


def train_classifier(context: StageContext) -> dict[str, Any]:
    """Train a victim or an innocent: a plain classifier on the samples of one party."""
    owner, classes = context.roles.owner, len(context.roles.classes)
    network, data = build(context.make("model"), owner, classes), context.data()
    context.save(context.fit(Classifier(network, context.make("recipe")), data, "classifier"))
    return {"samples": len(data)}


def train_control(context: StageContext) -> dict[str, Any]:
    """Train the victim on for as long as the watermarked model, without a mark."""
    control = context.make("control")
    context.save(control.train(context.network(), context.data(), context.fit))
    return {}


def embed(context: StageContext) -> dict[str, Any]:
    """Train the watermarked model, and draw its key, which nobody has committed to yet."""
    method = context.make("method")
    marked = method.embed(context.network(), context.data(), context.fit)
    context.save(*check_marked(method, marked))
    return {"secrets": context.config["secrets"]}


def commit(context: StageContext) -> dict[str, Any]:
    """Bind the key to its method, to the terms of a claim and to the judge's probes.

    Where the verifier asks for sure ones, the unmarked victim's confidence chooses, no key does.
    """
    verifier = context.make("verifier")
    key = context.key(context.parent("watermarked"), context.make("method"))
    if key is None:
        return {"commitment": None}
    if verifier.inputs == "sure":
        answers = context.suspect(context.parent("victim")).answers(context.roles.judge)
        save_file({"places": most_confident(answers, verifier.probes)}, context.folder / CHOSEN)
    commitment = key.commit(context.config["method"], verifier.terms, context.pool(verifier))
    context.save_key(key)
    return {"commitment": commitment}


def certify(context: StageContext) -> dict[str, Any]:
    """Say within which l2 distance of the marked model's weights a claim by triggers is certain."""
    method, verifier = context.make("method"), context.make("verifier")
    key = context.key(context.parent("key"), method)
    pool = context.pool(verifier)
    # A method with two marks is asked for its triggers besides the probes.
    triggers = method.trigger_probes(key, pool)
    triggers = triggers if len(triggers) else method.probes(key, pool)
    marked = context.suspect(context.parent("watermarked")).network
    certificate, level = context.make("certificate"), verifier.levels["exact"]
    test = functools.partial(method.trigger_claim, key)
    return certificate.certify(marked, triggers, test, level)


def most_confident(answers: Tensor, count: int) -> Tensor:
    """Return the places of the ``count`` most confident of ``answers`` (N, K), in order."""
    order = answers.amax(1).sort(descending=True, stable=True).indices  # (N,)
    return order[:count].sort().values  # (count,)


def attack(context: StageContext) -> dict[str, Any]:
    """Make one step of an attack: what its access allows of each target, the attacker's data."""
    attacks = context.config["attacks"]
    attacker = context.attacker()
    targets = context.targets(attacker.access)
    data, fit = context.data(), Counted(context.fit)
    stolen = attacker.apply(targets if attacks[-1].get("merges") else targets[0], data, fit)
    context.save(stolen.network, stolen.key)
    before = context.store.folder(context.stage.parents[0])
    save_transforms(attacker.transform, before, context.folder, len(attacks) - 1)
    save_log(targets, context.folder)
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
        super().__init__(
            fit.accelerator, fit.precision, fit.logger, fit.entropy, fit.threads, fit.checkpoints
        )
        self.seen = 0

    def __call__(self, module: LightningModule, data: Any, name: str) -> nn.Module:
        if isinstance(data, Samples):
            self.seen += module.epochs * len(data)
        return super().__call__(module, data, name)


# By the name that a stage's code begins with.
MAKERS = {
    "train_classifier": train_classifier,
    "train_control": train_control,
    "embed": embed,
    "commit": commit,
    "certify": certify,
    "attack": attack,
    "gather_evidence": gather_evidence,
}
