"""One cell, or many with ``-m``: mark a model, attack it, judge what is left.

    python run.py -m method=usp,csp attack=finetune,prune,distill

Only Hydra is imported here: ``--help`` and a mistyped override answer at once.
"""

import contextlib
import os
import sys
import traceback

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from softmark.errors import InputError
from softmark.overrides import check

# Threads that wait actively stall each other as soon as two processes share the cores: the digits'
# victim took 27.5 s instead of 2.6 s beside another job. Read when torch starts.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def cell(config: DictConfig) -> None:
    from softmark.lab import make_only, run_cell
    from softmark.sweep import above_the_line
    from softmark.tables import print_verdict, report

    job = HydraConfig.get()
    sweeping = job.mode == RunMode.MULTIRUN
    with above_the_line() if sweeping else contextlib.nullcontext():
        try:
            plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            if plain["only"]:
                make_only(plain, plain["only"], report)
            else:
                record = run_cell(plain, list(job.overrides.task), report)
                print_verdict(record, brief=sweeping)
        except Exception as error:
            # Its record says why it failed; the other cells of a sweep go on.
            if isinstance(error, InputError):
                report(f"error: {error}")
            else:
                traceback.print_exc()
            if not sweeping:
                raise SystemExit(2) from None


def main() -> None:
    try:
        check(sys.argv[1:])
        cell()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: finished stages are kept, the same command goes on from there")


if __name__ == "__main__":
    main()
