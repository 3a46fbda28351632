"""Build the W&B workspace for sweeps of softmark: from code, so that it stays as it is.

    python scripts/dashboard.py --project softmark

Saved where the server accepts stored credentials, else written as JSON whose path is printed.
Needs `pip install -e '.[dashboard]'`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("WANDB_SILENT", "true")

try:
    import wandb_workspaces.reports.v2 as reports
    import wandb_workspaces.workspaces as workspaces
except ImportError:
    sys.exit("error: wandb-workspaces is missing: pip install -e '.[dashboard]'")

from softmark.errors import InputError
from softmark.tracking.wandb_mode import decide_mode

TRAININGS = ("classifier", "control", "marking", "detector", "finetune", "student")
GROUPS = ("method", "attack")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--project", default="softmark", help="as logger.project")
    parser.add_argument("--entity", help="user or team; the credentials' own, where none is given")
    parser.add_argument("--to", type=Path, default=Path("outputs/dashboard.json"), metavar="FILE")
    options = parser.parse_args()
    try:
        mode, reason = decide_mode(None)
    except InputError as error:
        sys.exit(f"error: {error}")
    if mode != "online":
        print(f"not saved in W&B: {reason}", file=sys.stderr)
        options.to.parent.mkdir(parents=True, exist_ok=True)
        view = dashboard(options.entity or "", options.project)._to_model()
        options.to.write_text(view.model_dump_json(by_alias=True, indent=1) + "\n")
        print(options.to)
        return
    import wandb

    entity = options.entity or wandb.Api().default_entity
    print(dashboard(entity, options.project).save().url)


def dashboard(entity: str, project: str) -> workspaces.Workspace:
    """Return the workspace of ``project``."""
    sections = {
        "Verdicts": verdicts(),
        "Accuracy": accuracy(),
        "Sweep": sweep(),
        "Curves": curves(),
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name="softmark",
        sections=[
            workspaces.Section(name=name, panels=panels, is_open=True)
            for name, panels in sections.items()
        ],
        runset_settings=workspaces.RunsetSettings(
            pinned_columns=[
                "config:method",
                "config:attack",
                "summary:claimed",
                "summary:p_value",
                "summary:watermark_accuracy",
            ]
        ),
    )


def bars(metric: str, group: str) -> reports.BarPlot:
    """Return a plot: the mean of one number of the verdicts, a bar for each value of ``group``."""
    return reports.BarPlot(
        title=f"{metric} by {group}",
        metrics=[metric],
        groupby=reports.Config(group),
        groupby_aggfunc="mean",
        orientation="h",
    )


def verdicts() -> list:
    """Return the panels of p-values and watermark accuracies."""
    p_value = reports.SummaryMetric("p_value")
    return [
        # Bars have no logarithmic axis.
        *(
            reports.ScatterPlot(
                title=f"p_value over {x}", x=reports.SummaryMetric(x), y=p_value, log_y=True
            )
            for x in ("watermark_accuracy", "suspect_accuracy")
        ),
        *(bars("watermark_accuracy", group) for group in GROUPS),
    ]


def accuracy() -> list:
    """Return the panels of all models' accuracies."""
    names = [f"{name}_accuracy" for name in ("victim", "control", "watermarked", "suspect")]
    return [bars(name, group) for group in GROUPS for name in names]


def sweep() -> list:
    """Return the panels of whole sweeps: tables and plots."""
    return [
        *(reports.WeavePanelSummaryTable(table_name=name) for name in ("table", "verdicts")),
        reports.MediaBrowser(title="plots", media_keys=["plots/probes", "plots/tradeoff"]),
    ]


def curves() -> list:
    """Return the panels of training curves."""
    return [
        reports.LinePlot(title=name, x=f"{name}/epoch", y=[f"{name}/loss"], log_y=True)
        for name in TRAININGS
    ]


if __name__ == "__main__":
    main()
