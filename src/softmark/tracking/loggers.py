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
            yield functools.partial(_wandb_logger, run, []) if run else _no_logger
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


class OpenRun:
    """A run of W&B, which may be lost while it is open.

    Args:
        handle: As ``wandb.init`` returned it.
    """

    def __init__(self, handle: Any):
        self.handle, self.is_lost = handle, False

    @contextlib.contextmanager
    def losing(self, what: str) -> Iterator[None]:
        """Report what W&B refuses in one line, once a run, so that no training is lost."""
        try:
            yield
        except Exception as error:
            if not self.is_lost:
                report(f"W&B: {what} isn't logged ({_one_line(error)})")
            self.is_lost = True


@contextlib.contextmanager
def _wandb_logger(run: OpenRun, trainings: list[str], name: str) -> Iterator[Any]:
    """Yield the logger of one training: its name is a prefix, numbered from the second on."""
    from pytorch_lightning.loggers import WandbLogger

    class Logger(WandbLogger):
        """Its run may be lost, the training goes on."""

        LOGGER_JOIN_CHAR = "/"

        def log_metrics(self, *arguments: Any, **options: Any) -> None:
            with run.losing(f"the curve of {name}"):
                super().log_metrics(*arguments, **options)

        def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
            with run.losing(f"the curve of {name}"):
                super().log_hyperparams(*arguments, **options)

        def finalize(self, *arguments: Any) -> None:
            with run.losing(f"the curve of {name}"):
                super().finalize(*arguments)

    trainings.append(name)
    number = trainings.count(name)
    prefix = name if number == 1 else f"{name}-{number}"
    # Each training of a stage counts its epochs from 0.
    with run.losing(f"the curve of {name}"):
        run.handle.define_metric(f"{prefix}/*", step_metric=f"{prefix}/epoch")
    yield Logger(experiment=run.handle, save_dir=run.handle.dir, prefix=prefix)


@contextlib.contextmanager
def _wandb_run(settings: Config, stage: Stage, unfinished: Path) -> Iterator[OpenRun | None]:
    """Yield the run of one stage, if W&B gives one; link its parents' models and its own to it."""
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
        if run is None:
            yield None
            return
        with run.losing("the lineage of the stage"):
            link_inputs(run.handle, settings, stage.parents)
        yield run
        with run.losing("the model"):
            run.handle.log_artifact(artifact(settings, metadata, unfinished, folder))


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
    with open_run(
        config,
        name=f"{names['method']} under {names['attack']} seed {names['seed']}",
        job_type="verdict",
        tags=[names["method"], names["attack"], names["data"]],
        # The names stand beside the whole config, for a person to group by.
        config={**names, "address": record["address"], "cell": record["config"]},
        **{"id": record["address"], **_agent_ids()},
    ) as run:
        if run is None:
            return
        left_out = (*CELL_FIELDS, "config", "path", "overrides")
        figures = {name: value for name, value in record.items() if name not in left_out}
        with run.losing("the verdict"):
            run.handle.summary.update(figures)
            link_inputs(run.handle, config, stages)


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
def open_run(settings: Any, **options: Any) -> Iterator[OpenRun | None]:
    """Open a run of W&B, and finish it in the end; yield None where W&B gives none.

    Args:
        settings: With ``logger`` and ``output_dir``.
        options: For ``wandb.init``.
    """
    started = _start_run(settings["logger"], Path(settings["output_dir"]).resolve(), options)
    if started is None:
        yield None
        return
    run, failed = OpenRun(started), True
    try:
        yield run
        failed = False
    finally:
        start = time.monotonic()
        with run.losing(f"the end of {options['name']}"):
            started.finish(exit_code=int(failed))
        if run.is_lost:
            _stop_service()
        elif not started.offline and time.monotonic() - start > started.settings.finish_timeout:
            _change_mode("offline", "the server took too long to take a run")


def _start_run(logger: Any, folder: Path, options: dict[str, Any]) -> Any:
    """Return a run in the mode that was decided, or offline where the server is gone since.

    None where wandb starts none at all.
    """
    agent = _agent_ids()  # before wandb reads the environment
    sweep = options.pop("sweep_id", None)

    def init(mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            # The server gets more time than this before it is given up.
            init_timeout=5,
            finish_timeout=FINISH_TIMEOUT[bool(logger["weights"])],
            x_graphql_timeout_seconds=10,
            x_graphql_retry_max=2,
            x_graphql_retry_wait_max_seconds=2,
            sweep_id=sweep,
            console="off",
            silent=True,
        )
        return wandb.init(
            mode=mode,
            # An agent's sweep has a project, and lineage ends at its border.
            project=(agent and os.environ.get("WANDB_PROJECT")) or logger["project"],
            group=logger["group"],
            dir=folder,
            # Any other setting makes the runs of one process one run.
            reinit="create_new",
            settings=settings,
            **options,
        )

    # A service that was killed is started anew; a server that is gone is done without.
    for mode in (_mode(logger), "offline"):
        try:
            run = init(mode=mode)
        except Exception as error:
            reason = _one_line(error)
            # wandb keeps the id of a run that it couldn't start.
            _stop_service()
        else:
            if mode != _mode(logger):
                _change_mode(mode, reason)
            return run
    _change_mode("disabled", reason)
    return None


def _stop_service() -> None:
    """Forget wandb's process, whatever is left of it: the next run starts another."""
    with contextlib.suppress(Exception):
        import wandb

        wandb.teardown()


def _change_mode(mode: str, why: str) -> None:
    os.environ["WANDB_MODE"] = mode
    report(f"W&B: {mode} from here ({why})")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
