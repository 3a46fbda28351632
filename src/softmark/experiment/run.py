"""One cell is run: what is missing is made, the judge is asked, one record is left."""

from __future__ import annotations

import contextlib
import datetime
import time
import typing
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hydra.utils import get_class

from softmark.data.roles import name_of
from softmark.errors import InputError
from softmark.experiment import provenance
from softmark.experiment.plan import UNHASHED, Plan, plan, precision, steps_of
from softmark.experiment.record import Record, read_record
from softmark.store.address import Stage
from softmark.store.store import Store, write_json
from softmark.tracking.loggers import log_verdict

Config = dict[str, Any]
Report = Callable[[str], None]
UNDERTRAINED = 0.05  # what longer training may still add to a victim's accuracy
TRAINED = 0.5  # the part of the way from chance to 1 that a victim must have gone


def run_cell(config: Config, overrides: list[str], report: Report) -> dict[str, Any]:
    """Makes what is missing, judges, and leaves one record. A finished cell is only read.

    Whatever fails after planning is recorded as failed, with its reason, and raised.
    """
    cell = plan(config)
    with contextlib.suppress(InputError):
        record = read_record(cell.record)
        if record and record["status"] == "done":
            log_verdict(config, record, (cell.suspect, cell.watermarked), cached=True)
            return {**record, "made": 0}
    start = time.perf_counter()
    store = Store.under(config["output_dir"], report)
    record = describe(cell, overrides)
    try:
        check(config)
        # A sweep has made nearly all before its cells, and has said how many.
        if (missing := len(_missing(cell.verdict, store))) > 3:
            report(f"{missing} stages to make; other cells share most of them")
        for stage in cell.verdict.parents:
            store.once(stage)
        record |= _judge(cell, store)
        record["warnings"] = warnings(record, cell)
        record["status"] = "done"
    except Exception as error:
        record["reason"] = str(error) or type(error).__name__
        raise
    except BaseException:
        # Interrupted: it is neither done nor failed.
        record["status"] = ""
        raise
    finally:
        if record["status"]:
            record["seconds"] = round(time.perf_counter() - start, 3)
            write_json(cell.record, record)
    log_verdict(config, record, (cell.suspect, cell.watermarked), cached=False)
    return {**record, "made": len(store.made)}


def _missing(stage: Stage, store: Store) -> set[str]:
    """The addresses of what ``stage`` needs and isn't there."""
    found: set[str] = set()
    for parent in stage.parents:
        if parent.address not in found and not store.has(parent):
            found |= {parent.address, *_missing(parent, store)}
    return found


def _judge(cell: Plan, store: Store) -> dict[str, Any]:
    from softmark.experiment.judge import judge
    from softmark.experiment.stages import Making, roles_of

    verdict = cell.verdict
    roles = roles_of(cell.config)
    return judge(cell, Making(None, verdict.config, roles, None, verdict.parents, store))


def make_only(config: Config, wanted: list[str], report: Report) -> None:
    """Makes the stages ROLE/ADDRESS of the cell ``config``, but for those that miss a parent.

    A parent that couldn't be made has failed in a wave before; each cell that needs it says why.
    """
    store = Store.under(config["output_dir"], report)
    todo = list(plan(config).verdict.parents)
    found = {}
    while todo:
        stage = todo.pop()
        found[f"{stage.role}/{stage.address}"] = stage
        todo += stage.parents
    if strange := set(wanted) - set(found):
        raise InputError(f"only={sorted(strange)}: the cell has no such stage")
    check(config)
    for name in wanted:
        if all(map(store.has, found[name].parents)):
            store.once(found[name])


def check(config: Config) -> None:
    """Builds everything that has numbers, so that a wrong one stops the cell before it trains."""
    from softmark.experiment.stages import roles_of
    from softmark.nodes import make
    from softmark.training import compute_on

    for name in ("recipe", "method", "verifier"):
        make(config[name], name)
    if control := config["method"].get("control"):
        make(control, "method.control")
    steps = [make(step, "attack") for step in steps_of(config["attack"])]
    check_access(config["attacker"]["access"], steps)
    if config["secrets"] not in ("repeatable", "system"):
        raise InputError(f"secrets={config['secrets']}: repeatable or system")
    compute_on(config["trainer"]["accelerator"], config["trainer"]["threads"])
    verifier = config["verifier"]
    # Which ones are sure, the victim says once it is there.
    inputs = "samples" if verifier["inputs"] == "sure" else verifier["inputs"]
    roles_of(config).probes(inputs, verifier["probes"])


def check_access(has: str, steps: list[Any]) -> None:
    """Raises ``InputError`` where the first step of an attack needs more than the attacker has.

    The steps after it work on what the first one has left in the attacker's hands.
    """
    from softmark.models.access import Access

    most_first = typing.get_args(Access)  # each includes those after it
    if has not in most_first:
        raise InputError(f"attacker.access={has}: weights, probabilities or labels")
    for step in steps:
        if getattr(step, "access", None) not in most_first:
            raise InputError(
                f"{type(step).__name__}: access = 'weights', 'probabilities' or 'labels' is "
                "needed in the class"
            )
    first = steps[0]
    if most_first.index(first.access) < most_first.index(has):
        raise InputError(
            f"attacker.access={has}: {type(first).__name__} needs {first.access}; begin with an "
            "attack that needs less, such as distill_hard"
        )


def describe(cell: Plan, overrides: list[str]) -> dict[str, Any]:
    """What a record says before anything has run."""
    config = cell.config
    pools = {
        pool: [each.stage.address for each in cell.innocents if each.pool == pool]
        for pool in ("calibration", "evaluation")
    }
    record = Record(
        method=config["method"]["name"],
        attack=config["attack"]["name"],
        data=name_of(config["data"]),
        model=config["model"]["name"],
        seed=config["seed"],
        scale=config["scale"]["name"],
        address=cell.verdict.address,
        path=str(cell.record),
        stages={
            "victim": cell.victim.address,
            "control": cell.control.address if cell.control else None,
            "watermarked": cell.watermarked.address,
            "key": cell.key.address,
            "links": [link.address for link in cell.links],
            "suspect": cell.suspect.address,
            "evidence": cell.evidence.address,
            **pools,
        },
        overrides=overrides,
        config={key: value for key, value in config.items() if key not in UNHASHED},
        precision=precision(config["precision"]),
        threads=config["trainer"]["threads"],
        secrets=config["secrets"],
        versions=provenance.versions(),
        commit=provenance.commit(),
        machine=provenance.machine(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return asdict(record)


def warnings(record: dict[str, Any], cell: Plan) -> list[str]:
    """What makes a verdict mean little, and what to raise against it."""
    found = []
    classes = record["classes"]
    needed = 1 / classes + TRAINED * (1 - 1 / classes)
    if record["victim_accuracy"] < needed:
        found.append(
            f"the victim is right on {100 * record['victim_accuracy']:.0f} % only: too little "
            "trained for a mark to mean anything; raise recipe.epochs, or give it more data"
        )
    if (control := record["control_accuracy"]) is not None:
        better = control - record["victim_accuracy"]
        if better > UNDERTRAINED:
            found.append(
                f"the control, the victim trained on for longer, is {100 * better:.0f} points "
                "better: the victim is trained too little; raise recipe.epochs"
            )
    p_value, levels = record["p_before_attack"], record["levels"]
    if p_value is not None and levels and p_value > max(levels.values()):
        found.append(
            f"the mark isn't claimed even before an attack (p {p_value:.1g}): raise "
            f"{' or '.join(stronger(cell.config['method']))}"
        )
    return found


def stronger(method: Config) -> tuple[str, ...]:
    """Return the settings that make a mark of this method easier to see."""
    return get_class(method["_target_"]).strengthened_by
