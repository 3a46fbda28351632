"""How cells are watched: curves as a CSV file beside the artefact, runs in W&B, or nothing.

In W&B each stage that makes a model is one run whose id is its address, each verdict another, and
their models are linked as artefacts. Nothing here imports torch before a stage trains.
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
from softmark.tracking.artifacts import artefact, facts_of, use

Config = dict[str, Any]
JOBS = {"watermarked": "watermark", "suspect": "attack"}  # what a run does, by its stage's role
MODELLESS = ("key", "evidence")  # roles whose stages hold no model and train nothing
NAMES = ("method", "attack", "data", "model", "seed", "scale")
UPLOADING = {False: 15, True: 600}  # seconds that a run's end may take, without and with weights


@contextlib.contextmanager
def watch(settings: Config, stage: Stage, folder: Path) -> Iterator[Callable]:
    """Yield ``logger(name)`` for ``Fit``, while ``stage`` is made in ``folder`` (ADDRESS.making).

    In W&B the model that was made is logged at the end; a stage without one has no run.

    Args:
        settings: the cell's config.
        stage: the one that is made.
        folder: where its files go.

    Raises:
        InputError: there is no such logger.
    """
    kind = settings["logger"]["name"]
    if kind not in ("csv", "wandb", "none"):
        raise InputError(f"logger={kind}: csv, wandb or none")
    if kind == "csv":
        yield functools.partial(_csv, folder)
    elif stage.role not in MODELLESS and in_wandb(settings["logger"]):
        with _stage(settings, stage, folder) as run:
            yield functools.partial(_curves, run, [])
    else:
        yield _nothing


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
def _stage(settings: Config, stage: Stage, making: Path) -> Iterator[Any]:
    folder, config = making.with_suffix(""), stage.config
    kind = stage.role.split("/")[0]
    # A victim, a control and an innocent belong to cells of any method.
    tags = [settings["method"]["name"]] if kind in JOBS else []
    tags += [config["attacks"][-1]["name"]] if "attacks" in config else []
    facts = facts_of(stage.role, folder.name, config, stage.parents)
    with open_run(
        settings,
        name=" ".join([stage.role, *tags, f"seed {config['seed']}"]),
        job_type=JOBS.get(kind, kind),
        id=folder.name,
        tags=[*tags, name_of(settings["data"])],
        config={**config, **facts},
    ) as run:
        with surviving("what the stage was made from"):
            use(run, settings, stage.parents)
        yield run
        with surviving("the model"):
            run.log_artifact(artefact(settings, facts, making, folder))


def log_verdict(config: Config, record: Config, stages: Sequence[Stage], *, cached: bool) -> None:
    """One run with the record of a judged cell; ``stages``: those whose models were judged.

    A ``cached`` verdict was logged when it was made; only a W&B agent waits for it again.
    """
    if not in_wandb(config["logger"]) or (cached and not _agent()):
        return
    names = {name: record[name] for name in NAMES}
    with (
        surviving("the verdict"),
        open_run(
            config,
            name=f"{names['method']} under {names['attack']} seed {names['seed']}",
            job_type="verdict",
            tags=[names["method"], names["attack"], names["data"]],
            # The names stand beside the whole config, for a person to group by.
            config={**names, "address": record["address"], "cell": record["config"]},
            **{"id": record["address"], **_agent()},
        ) as run,
    ):
        elsewhere = (*NAMES, "config", "path", "overrides")
        run.summary.update({key: value for key, value in record.items() if key not in elsewhere})
        use(run, config, stages)


def in_wandb(logger: Any) -> bool:
    """Whether the config node ``logger`` asks for W&B, and W&B isn't disabled."""
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
    run, sweep = (os.environ.pop(f"WANDB_{name}_ID", None) for name in ("RUN", "SWEEP"))
    ids = {"id": run, "sweep_id": sweep}
    return {key: value for key, value in ids.items() if value} if sweep else {}


@contextlib.contextmanager
def open_run(around: Any, **given: Any) -> Iterator[Any]:
    """A run of W&B, which is finished in the end; ``given``: for ``wandb.init``."""
    run = _begin(around["logger"], Path(around["output_dir"]).resolve(), given)
    failed = True
    try:
        yield run
        failed = False
    finally:
        start = time.monotonic()
        run.finish(exit_code=int(failed))
        if not run.offline and time.monotonic() - start > run.settings.finish_timeout:
            _offline("the server took too long to take a run")


def _begin(logger: Any, folder: Path, given: dict[str, Any]) -> Any:
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
        sweep_id=given.pop("sweep_id", None),
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
        **given,
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
    report(f"W&B: offline from here ({why})")


@contextlib.contextmanager
def surviving(what: str) -> Iterator[None]:
    """Whatever W&B refuses costs a line, and no training."""
    try:
        yield
    except Exception as error:
        report(f"W&B: {what} isn't logged ({_line(error)})")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
