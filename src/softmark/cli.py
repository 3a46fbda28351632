"""The command line: one cell, or many with ``-m``. Mark a model, attack it, judge what is left.

    python run.py -m method=usp,csp attack=finetune,prune,distill
    softmark run attack=prune     # the same, from an installed wheel

Only Hydra is imported here: ``--help`` and a mistyped override answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from softmark.choice_help import help_of_choices
from softmark.console import quiet_streams, report
from softmark.errors import InputError, reason_of
from softmark.renamed import current
from softmark.settings import CONF, configs, with_absolute_paths
from softmark.sweep.command_line import check_arguments, to_hydra_arguments
from softmark.sweep.own_method import with_own_method
from softmark.sweep.spelling import folders_of, spelled

# Threads that wait actively stall each other as soon as two processes share the cores: the digits'
# victim took 27.5 s instead of 2.6 s beside another job. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def cell(config: DictConfig) -> None:
    """Run one cell, or work for the sweep that ``config.worker`` names; Hydra calls it."""
    from softmark.experiment.run import make_all, run_cell
    from softmark.report.terminal import print_verdict
    from softmark.sweep.job import work
    from softmark.sweep.progress import live_stderr
    from softmark.sweep.workers import make_cell

    job = HydraConfig.get()
    if config.worker:
        work(Path(config.worker), functools.partial(print_verdict, brief=True), config)
        return
    # As they were given: iterating would resolve the interpolations in them.
    overrides = OmegaConf.to_container(job.overrides.task, resolve=False)
    sweeping = job.mode == RunMode.MULTIRUN
    with live_stderr() if sweeping else contextlib.nullcontext():
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            # Where the command began: hydra.job.chdir may have left that.
            plain = with_absolute_paths(plain, job.runtime.cwd)
            # A sweep has made what its cells share before them.
            make = make_all if sweeping else make_cell
            record = run_cell(plain, overrides, report, make)
            print_verdict(record, brief=sweeping)
        except Exception as error:
            # Its record says why it failed; the other cells of a sweep go on.
            if reason := reason_of(error):
                where = f" in {' '.join(overrides)}" if sweeping else ""
                report(f"error{where}: {reason}")
            else:
                traceback.print_exc()
            if not sweeping:
                raise SystemExit(1) from None


@quiet_streams()
def main() -> None:
    """Check the command line, run it, and exit: 0 for success, 1 with one line for an error."""
    # Hydra raises what it would print as a traceback otherwise.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        sys.argv[1:] = spelled(with_own_method(sys.argv[1:]))
        with configs(folders_of(sys.argv[1:])):
            sys.argv[1:] = current(sys.argv[1:])
            if text := help_of_choices(sys.argv[1:]):
                print(text)
                return
            check_arguments(sys.argv[1:])
            sys.argv[1:] = to_hydra_arguments(sys.argv[1:])
        cell()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: finished stages are kept, the same command goes on from there")
    except Exception as error:
        # Only Hydra knows which settings of its own are right.
        hydra_words = [word for word in sys.argv[1:] if word.lstrip("+~").startswith("hydra.")]
        if not hydra_words:
            raise
        reason = str(error.__cause__ or error) or type(error).__name__
        sys.exit(f"error: {' '.join(hydra_words)}: {reason}")
