"""How a sweep is watched: curves as a CSV file beside the artefact, a sweep in W&B, or nothing.

In W&B each stage that is made is one run whose id is its address, each verdict another, and their
models are linked as artefacts. Nothing here imports torch before a stage trains.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from softmark.data import name_of
from softmark.errors import InputError
from softmark.lineage import artefact, facts_of, use

if TYPE_CHECKING:
    from softmark.store import Stage
    from softmark.tables import Row

Config = dict[str, Any]
JOBS = {
    "watermarked": "watermark",
    "suspect": "attack",
    "forged": "attack",
}  # what a run does, by its stage's role
NAMES = ("method", "attack", "data", "model", "seed", "scale")
VERDICT = (
    *NAMES,
    "victim_accuracy",
    "watermarked_accuracy",
    "suspect_accuracy",
    "watermark_accuracy",
    "p_value",
    "claimed",
    "status",
    "address",
)
UPLOADING = {False: 15, True: 600}  # seconds that a run's end may take, without and with weights


@contextlib.contextmanager
def watch(
    config: Config, role: str, told: Config, parents: Sequence[Stage], workshop: Path
) -> Iterator[Callable]:
    """``logger(name)`` for ``Fit``, while one stage is made in ``workshop`` (ADDRESS.making).

    ``told``: the stage's own config. In W&B the model that was made is logged at the end.
    """
    kind = config["logger"]["name"]
    if kind not in ("csv", "wandb", "none"):
        raise InputError(f"logger={kind}: csv, wandb or none")
    if _wandb(config["logger"]):
        with _stage(config, role, told, parents, workshop) as run:
            yield functools.partial(_curves, run, [])
    else:
        yield functools.partial(_csv, workshop) if kind == "csv" else _nothing


@contextlib.contextmanager
def _nothing(name: str) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def _csv(folder: Path, name: str) -> Iterator[Any]:
    from pytorch_lightning.loggers import CSVLogger

    number = len(list(folder.glob("curves/*")))
    logger = CSVLogger(folder, name="curves", version=f"{number:02d}-{name}")
    yield logger
    logger.save()


@contextlib.contextmanager
def _curves(run: Any, seen: list[str], name: str) -> Iterator[Any]:
    """The curves of one training: its name before each, with a number from the second on."""
    from pytorch_lightning.loggers import WandbLogger

    seen.append(name)
    prefix = name if seen.count(name) == 1 else f"{name}-{seen.count(name)}"
    # Each training of a stage counts its epochs from 0.
    run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
    logger = WandbLogger(experiment=run, save_dir=run.dir, prefix=prefix)
    logger.LOGGER_JOIN_CHAR = "/"
    yield logger


@contextlib.contextmanager
def _stage(
    config: Config, role: str, told: Config, parents: Sequence[Stage], workshop: Path
) -> Iterator[Any]:
    folder = workshop.with_suffix("")
    kind = role.split("/")[0]
    # A victim and an innocent belong to every cell.
    tags = [config["method"]["name"]] if kind in JOBS else []
    tags += [told["attack"]["name"]] if "attack" in told else []
    facts = facts_of(role, folder.name, told, parents)
    with _open(
        config,
        name=" ".join([role, *tags, f"seed {told['seed']}"]),
        job_type=JOBS.get(kind, kind),
        id=folder.name,
        tags=[*tags, name_of(config["data"])],
        config={**told, **facts},
    ) as run:
        with _surviving("what the stage was made from"):
            use(run, config, parents)
        yield run
        with _surviving("the model"):
            run.log_artifact(artefact(config, facts, workshop, folder))


def log_verdict(config: Config, record: Config, stages: Sequence[Stage], *, cached: bool) -> None:
    """One run with the figures of a judged cell; ``stages``: those whose models were judged.

    A ``cached`` verdict was logged when it was made; only a W&B agent waits for it again.
    """
    if not _wandb(config["logger"]) or (cached and not _agent()):
        return
    names = {name: record[name] for name in NAMES}
    with (
        _surviving("the verdict"),
        _open(
            config,
            name=f"{names['method']} under {names['attack']} seed {names['seed']}",
            job_type="verdict",
            tags=[names["method"], names["attack"], names["data"]],
            # The names stand beside the whole config, for a person to group by.
            config={**names, "address": record["address"], "cell": record["config"]},
            **{"id": record["address"], **_agent()},
        ) as run,
    ):
        told = (*NAMES, "config", "path", "overrides")
        run.summary.update({key: value for key, value in record.items() if key not in told})
        use(run, config, stages)


def log_sweep(config: DictConfig, rows: Sequence[Row], varied: Sequence[str]) -> None:
    """One run with a sweep's table and pictures, from its records alone."""
    if not _wandb(config.logger):
        return
    import wandb

    from softmark import figures, tables

    names = tables.columns(rows, brief=False)
    body = [[*row.name, *tables.cells(row, names)] for row in rows]
    records = [record for row in rows for record in row.records if record]
    verdicts = [[record.get(name) for name in VERDICT] for record in records]
    group = config.logger.group or os.environ.get("WANDB_RUN_GROUP")
    told = {"overrides": list(config.hydra.overrides.task), "varied": list(varied)}
    with _surviving("the sweep"), _open(config, name=group, job_type="sweep", config=told) as run:
        drawn = {f"pictures/{name}": it for name, it in figures.pictures(rows, varied).items()}
        run.log(
            {
                "table": wandb.Table(columns=[*varied, *names], data=body),
                "verdicts": wandb.Table(columns=list(VERDICT), data=verdicts),
                **{name: wandb.Image(figure) for name, figure in drawn.items()},
            }
        )
        claimed = sum(record["claimed"] for record in records)
        run.summary.update({"cells": len(records), "claimed": claimed})


def _wandb(logger: Any) -> bool:
    return logger["name"] == "wandb" and _mode(logger) != "disabled"


def _mode(logger: Any) -> str:
    """What the parent decided; without it nobody asked the server."""
    return os.environ.get("WANDB_MODE") or logger["mode"] or "offline"


@functools.cache
def _agent() -> dict[str, str]:
    """The run that a W&B agent waits for, and its sweep: it is the verdict's.

    Taken out of the environment, where every run of this process would become that one.
    """
    os.environ.pop("WANDB_SWEEP_PARAM_PATH", None)
    told = {"id": os.environ.pop("WANDB_RUN_ID", None)}
    told["sweep_id"] = os.environ.pop("WANDB_SWEEP_ID", None)
    return {key: value for key, value in told.items() if value} if told["sweep_id"] else {}


@contextlib.contextmanager
def _open(whole: Any, **told: Any) -> Iterator[Any]:
    run = _begin(whole["logger"], Path(whole["output_dir"]).resolve(), told)
    failed = True
    try:
        yield run
        failed = False
    finally:
        start = time.monotonic()
        run.finish(exit_code=int(failed))
        if not run.offline and time.monotonic() - start > run.settings.finish_timeout:
            _offline("the server took too long to take a run")


def _begin(logger: Any, folder: Path, told: dict[str, Any]) -> Any:
    """A run in the mode that was decided, or offline where the server has gone since."""
    agent = _agent()  # before wandb reads the environment
    import wandb

    settings = wandb.Settings(
        # The server gets more time than this before it is given up.
        init_timeout=5,
        finish_timeout=UPLOADING[bool(logger["weights"])],
        x_graphql_timeout_seconds=10,
        x_graphql_retry_max=2,
        x_graphql_retry_wait_max_seconds=2,
        sweep_id=told.pop("sweep_id", None),
        console="off",
        silent=True,
    )
    begin = functools.partial(
        wandb.init,
        # An agent's sweep has a project, and lineage ends at its border.
        project=(agent and os.environ.get("WANDB_PROJECT")) or logger["project"],
        group=logger["group"],
        dir=folder,
        # Any other setting makes the runs of one process one run.
        reinit="create_new",
        settings=settings,
        **told,
    )
    try:
        return begin(mode=_mode(logger))
    except Exception as error:
        if _mode(logger) != "online":
            raise
        _offline(_line(error))
        # wandb keeps the id of a run that it couldn't begin.
        wandb.teardown()
        return begin(mode="offline")


def _offline(why: str) -> None:
    os.environ["WANDB_MODE"] = "offline"
    _report(f"W&B: offline from here ({why})")


@contextlib.contextmanager
def _surviving(what: str) -> Iterator[None]:
    """Whatever W&B refuses costs a line, and no training."""
    try:
        yield
    except Exception as error:
        _report(f"W&B: {what} isn't logged ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
