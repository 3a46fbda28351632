"""Loggers of training curves and verdicts: CSV files beside the models, runs in W&B, or nothing.

In W&B each stage that makes a model is one run whose id is its address, each verdict another, and
their models are linked as artifacts. Nothing here imports torch before a stage trains.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from softmark.console import report
from softmark.data.roles import name_of
from softmark.errors import InputError
from softmark.store.address import Stage
from softmark.tracking.artifacts import artifact, link_inputs, metadata_of

Config = dict[str, Any]
JOB_TYPES = {"watermarked": "watermark", "suspect": "attack"}  # by the stage's role
ROLES_WITHOUT_MODEL = ("key", "evidence")  # their stages train nothing
CELL_FIELDS = ("method", "attack", "data", "model", "seed", "scale")  # of a record
FINISH_TIMEOUT = {False: 15, True: 600}  # seconds, without and with weights to upload


@contextlib.contextmanager
def stage_logger(settings: Config, stage: Stage, folder: Path) -> Iterator[Callable]:
    """Yield ``logger(name)`` for ``Fit``, while ``stage`` is made.

    In W&B the model that was made is logged at the end; a stage without one has no run.

    Args:
        settings: the cell's config.
        stage: the one that is made.
        folder: where its files go, ADDRESS.making.

    Raises:
        InputError: there is no such logger.
    """
    kind = settings["logger"]["name"]
    if kind not in ("csv", "wandb", "none"):
        raise InputError(f"logger={kind}: csv, wandb or none")
    if kind == "csv":
        yield functools.partial(_csv_logger, folder)
    elif stage.role not in ROLES_WITHOUT_MODEL and in_wandb(settings["logger"]):
        with _wandb_run(settings, stage, folder) as run:
            yield functools.partial(_wandb_logger, run, [])
    else:
        yield _no_logger


@contextlib.contextmanager
def _no_logger(name: str) -> Iterator[None]:
    yield None


@contextlib.contextmanager
def _csv_logger(folder: Path, name: str) -> Iterator[Any]:
    from pytorch_lightning.loggers import CSVLogger

    number = len(list(folder.glob("curves/*")))
    logger = CSVLogger(folder, name="curves", version=f"{number:02d}-{name}")
    yield logger
    logger.save()


@contextlib.contextmanager
def _wandb_logger(run: Any, trainings: list[str], name: str) -> Iterator[Any]:
    """Yield the logger of one training: its name is a prefix, numbered from the second on."""
    from pytorch_lightning.loggers import WandbLogger

    trainings.append(name)
    number = trainings.count(name)
    prefix = name if number == 1 else f"{name}-{number}"
    # Each training of a stage counts its epochs from 0.
    run.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
    logger = WandbLogger(experiment=run, save_dir=run.dir, prefix=prefix)
    logger.LOGGER_JOIN_CHAR = "/"
    yield logger


@contextlib.contextmanager
def _wandb_run(settings: Config, stage: Stage, unfinished: Path) -> Iterator[Any]:
    """Yield the run of one stage; link its parents' models and its own to it."""
    folder, config = unfinished.with_suffix(""), stage.config
    kind = stage.role.split("/")[0]
    # A victim, a control and an innocent belong to cells of any method.
    tags = [settings["method"]["name"]] if kind in JOB_TYPES else []
    tags += [config["attacks"][-1]["name"]] if "attacks" in config else []
    metadata = metadata_of(stage.role, folder.name, config["seed"], stage.parents)
    with open_run(
        settings,
        name=" ".join([stage.role, *tags, f"seed {config['seed']}"]),
        job_type=JOB_TYPES.get(kind, kind),
        id=folder.name,
        tags=[*tags, name_of(settings["data"])],
        config={**config, **metadata},
    ) as run:
        with wandb_errors_reported("the inputs of the stage"):
            link_inputs(run, settings, stage.parents)
        yield run
        with wandb_errors_reported("the model"):
            run.log_artifact(artifact(settings, metadata, unfinished, folder))


def log_verdict(config: Config, record: Config, stages: Sequence[Stage], *, cached: bool) -> None:
    """Log the record of a judged cell as one run of W&B.

    Args:
        config: the cell's.
        record: the cell's.
        stages: those whose models were judged.
        cached: whether the verdict was logged before; only a W&B agent waits for it again.
    """
    if not in_wandb(config["logger"]) or (cached and not _agent_ids()):
        return
    names = {name: record[name] for name in CELL_FIELDS}
    with (
        wandb_errors_reported("the verdict"),
        open_run(
            config,
            name=f"{names['method']} under {names['attack']} seed {names['seed']}",
            job_type="verdict",
            tags=[names["method"], names["attack"], names["data"]],
            # The names stand beside the whole config, for a person to group by.
            config={**names, "address": record["address"], "cell": record["config"]},
            **{"id": record["address"], **_agent_ids()},
        ) as run,
    ):
        left_out = (*CELL_FIELDS, "config", "path", "overrides")
        run.summary.update({name: value for name, value in record.items() if name not in left_out})
        link_inputs(run, config, stages)


def in_wandb(logger: Any) -> bool:
    """Return whether the config node ``logger`` asks for W&B, and W&B isn't disabled."""
    return logger["name"] == "wandb" and _mode(logger) != "disabled"


def _mode(logger: Any) -> str:
    """Return what the parent process decided; without one, nobody asked the server."""
    return os.environ.get("WANDB_MODE") or logger["mode"] or "offline"


@functools.cache
def _agent_ids() -> dict[str, str]:
    """Return the ids of the run that a W&B agent waits for, and of its sweep: the verdict's ids.

    They are taken out of the environment, where every run of this process would become that one.
    """
    os.environ.pop("WANDB_SWEEP_PARAM_PATH", None)
    run, sweep = (os.environ.pop(f"WANDB_{name}_ID", None) for name in ("RUN", "SWEEP"))
    ids = {"id": run, "sweep_id": sweep}
    return {key: value for key, value in ids.items() if value} if sweep else {}


@contextlib.contextmanager
def open_run(settings: Any, **options: Any) -> Iterator[Any]:
    """Open a run of W&B, and finish it in the end; ``options`` are for ``wandb.init``."""
    run = _start_run(settings["logger"], Path(settings["output_dir"]).resolve(), options)
    failed = True
    try:
        yield run
        failed = False
    finally:
        start = time.monotonic()
        run.finish(exit_code=int(failed))
        if not run.offline and time.monotonic() - start > run.settings.finish_timeout:
            _go_offline("the server took too long to take a run")


def _start_run(logger: Any, folder: Path, options: dict[str, Any]) -> Any:
    """Start a run in the mode that was decided, or offline where the server is gone since."""
    agent = _agent_ids()  # before wandb reads the environment
    import wandb

    settings = wandb.Settings(
        # The server gets more time than this before it is given up.
        init_timeout=5,
        finish_timeout=FINISH_TIMEOUT[bool(logger["weights"])],
        x_graphql_timeout_seconds=10,
        x_graphql_retry_max=2,
        x_graphql_retry_wait_max_seconds=2,
        sweep_id=options.pop("sweep_id", None),
        console="off",
        silent=True,
    )
    init = functools.partial(
        wandb.init,
        # An agent's sweep has a project, and lineage ends at its border.
        project=(agent and os.environ.get("WANDB_PROJECT")) or logger["project"],
        group=logger["group"],
        dir=folder,
        # Any other setting makes the runs of one process one run.
        reinit="create_new",
        settings=settings,
        **options,
    )
    try:
        return init(mode=_mode(logger))
    except Exception as error:
        if _mode(logger) != "online":
            raise
        _go_offline(_one_line(error))
        # wandb keeps the id of a run that it couldn't start.
        wandb.teardown()
        return init(mode="offline")


def _go_offline(why: str) -> None:
    os.environ["WANDB_MODE"] = "offline"
    report(f"W&B: offline from here ({why})")


@contextlib.contextmanager
def wandb_errors_reported(what: str) -> Iterator[None]:
    """Report what W&B refuses in one line, so that no training is lost."""
    try:
        yield
    except Exception as error:
        report(f"W&B: {what} isn't logged ({_one_line(error)})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
