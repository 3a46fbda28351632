"""A sweep as one run in W&B: its table, its verdicts and its plots, from its records alone."""

from __future__ import annotations

import os
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from softmark.experiment.record import CSV
from softmark.report.columns import cells, columns
from softmark.report.rows import Row
from softmark.tracking.loggers import CELL_FIELDS, in_wandb, open_run

VERDICT_FIELDS = tuple(dict.fromkeys((*CELL_FIELDS, *CSV)))


def log_sweep(config: DictConfig, rows: Sequence[Row], varied: Sequence[str]) -> None:
    """Log the sweep where ``config.logger`` asks for W&B; report what W&B refuses in one line."""
    if not in_wandb(config.logger):
        return
    import wandb

    from softmark.report import plots

    names = columns(rows, brief=False)
    body = [[*row.name, *cells(row, names)] for row in rows]
    records = [record for row in rows for record in row.records if record]
    verdicts = [[record[name] for name in VERDICT_FIELDS] for record in records]
    group = config.logger.group or os.environ.get("WANDB_RUN_GROUP")
    overrides = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    run_config = {"overrides": overrides, "varied": list(varied)}
    with open_run(config, name=group, job_type="sweep", config=run_config) as run:
        if run is None:
            return
        with run.losing("the sweep"):
            run.handle.log(
                {
                    "table": wandb.Table(columns=[*varied, *names], data=body),
                    "verdicts": wandb.Table(columns=list(VERDICT_FIELDS), data=verdicts),
                    **{
                        f"plots/{name}": wandb.Image(figure)
                        for name, figure in plots.plots(rows, varied).items()
                    },
                }
            )
            claimed = sum(record["claimed"] for record in records)
            run.handle.summary.update({"cells": len(records), "claimed": claimed})
