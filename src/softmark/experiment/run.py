"""Run one cell: make what is missing, ask the judge, leave one record."""

from __future__ import annotations

import contextlib
import datetime
import functools
import time
import typing
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from hydra.utils import get_class

from softmark.errors import InputError
from softmark.experiment import provenance
from softmark.experiment.cell import Config, Plan, steps_of
from softmark.experiment.plan import UNHASHED, decode_data, plan
from softmark.experiment.record import Record, names_of, record_of
from softmark.store.address import Stage
from softmark.store.store import Store, write_json
from softmark.tracking.loggers import log_verdict

Report = Callable[[str], None]
UNDERTRAINED = 0.05  # what longer training may still add to a victim's accuracy
TRAINED = 0.5  # the part of the way from chance to 1 that a victim must have gone


def missing_stages(cell: Plan, store: Store) -> dict[str, Stage]:
    """Return the stages of ``cell`` that ``store`` lacks, by address."""
    todo, missing = list(cell.verdict.parents), {}
    while todo:
        stage = todo.pop()
        if stage.address not in missing and not store.has(stage):
            missing[stage.address] = stage
            todo += stage.parents
    return missing


def make_all(cell: Plan, store: Store) -> None:
    """Make every stage of ``cell`` that isn't in ``store`` yet, parents before children."""
    from softmark.experiment.stages import make_stage

    # A sweep has made nearly all before its cells, and has said how many.
    if (missing := len(missing_stages(cell, store))) > 3:
        store.report(f"{missing} stages to make; other cells share most of them")
    for stage in cell.verdict.parents:
        store.once(stage, functools.partial(make_stage, cell.config))


def run_cell(
    config: Config,
    overrides: list[str],
    report: Report,
    make: Callable[[Plan, Store], None] = make_all,
) -> dict[str, Any]:
    """Make what is missing, judge, and leave one record. A finished cell is only read.

    Whatever fails after planning is recorded as failed, with its reason, and raised.

    Args:
        config: the cell's, plain containers, interpolations resolved.
        overrides: what the user gave on the command line; the record keeps it.
        report: gets one line for each stage that is made.
        make: makes the missing stages of the cell.

    Returns:
        The record, and under ``made`` how many stages were made for it.

    Raises:
        InputError: a setting can't be used.

    Example:
        It trains three models, in seconds.

        >>> from softmark.settings import composed
        >>> config = composed("config", ["method=csp", "attack=finetune", "scale=smoke"])
        >>> run_cell(config, [], report=print)["p_value"] < 1e-3  # doctest: +SKIP
        True
    """
    decode_data(config)
    cell = plan(config)
    with contextlib.suppress(InputError):
        record = record_of(cell)
        if record and record["status"] == "done":
            log_verdict(config, record, (cell.suspect, cell.watermarked), cached=True)
            return {**record, "made": 0}
    start = time.perf_counter()
    store = Store.under(config["output_dir"], report)
    record = describe(cell, overrides)
    try:
        check(config)
        make(cell, store)
        record |= judge(cell, store)
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


def judge(cell: Plan, store: Store) -> dict[str, Any]:
    """Return the figures of ``cell``, all stages of which are in ``store``."""
    from softmark.experiment.context import StageContext, roles_of
    from softmark.experiment.judge import load, verdict

    context = StageContext(cell.verdict, None, roles_of(cell.config), None, store)
    return verdict(load(cell, context))


def check(config: Config) -> None:
    """Build everything that has numbers, so that a wrong one stops the cell before it trains.

    Raises:
        InputError: a number can't be used.
    """
    from softmark.devices import compute_on
    from softmark.experiment.context import roles_of
    from softmark.methods.contract import check_class
    from softmark.models.sizes import check_networks
    from softmark.nodes import make

    for name in ("recipe", "method", "verifier"):
        make(config[name], name)
    check_class(get_class(config["method"]["_target_"]), f"method={config['method']['name']}")
    check_networks(config)
    if control := config["method"].get("control"):
        make(control, "method.control")
    if certificate := config["method"].get("certificate"):
        make(certificate, "method.certificate")
    if unknown := set(config["attacker"]) - {"access", "pictures", "fraction"}:
        raise InputError(f"attacker.{min(unknown)}: there are access, pictures and fraction")
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
    """Check that the first step of an attack needs no more than the attacker has.

    The steps after it work on what the first one has left in the attacker's hands.

    Raises:
        InputError: it needs more, or ``has`` or an attack's ``access`` names no access.
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
    """Return what a record says before anything has run."""
    config = cell.config
    pools = {
        pool: [innocent.stage.address for innocent in cell.innocents if innocent.pool == pool]
        for pool in ("calibration", "evaluation")
    }
    record = Record(
        **names_of(config),
        seed=config["seed"],
        address=cell.verdict.address,
        path=str(cell.record),
        stages={
            "victim": cell.victim.address,
            "control": cell.control.address if cell.control else None,
            "watermarked": cell.watermarked.address,
            "key": cell.key.address,
            "certificate": cell.certificate.address if cell.certificate else None,
            "links": [link.address for link in cell.links],
            "suspect": cell.suspect.address,
            "evidence": cell.evidence.address,
            **pools,
        },
        overrides=overrides,
        config={name: value for name, value in config.items() if name not in UNHASHED},
        precision=provenance.precision(config["precision"], config["trainer"]["accelerator"]),
        threads=config["trainer"]["threads"],
        secrets=config["secrets"],
        versions=provenance.versions(),
        commit=provenance.commit(),
        machine=provenance.machine(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return asdict(record)


def warnings(record: dict[str, Any], cell: Plan) -> list[str]:
    """Return what makes a verdict mean little, and what to raise against it."""
    lines = []
    classes = record["classes"]
    needed = 1 / classes + TRAINED * (1 - 1 / classes)
    if record["victim_accuracy"] < needed:
        lines.append(
            f"the victim is right on {100 * record['victim_accuracy']:.0f} % only: too little "
            "trained for a mark to mean anything; raise recipe.epochs, or give it more data"
        )
    if copies := record["copies_left_out"]:
        lines.append(
            f"{copies} pictures are left out of the data: the judge or the owner holds the same"
        )
    if (control := record["control_accuracy"]) is not None:
        better = control - record["victim_accuracy"]
        if better > UNDERTRAINED:
            lines.append(
                f"the control, the victim trained on for longer, is {100 * better:.0f} points "
                "better: the victim is trained too little; raise recipe.epochs"
            )
    p_value, levels = record["p_before_attack"], record["levels"]
    if p_value is not None and levels and p_value > max(levels.values()):
        lines.append(
            f"the mark isn't claimed even before an attack (p {p_value:.1g}): raise "
            f"{' or '.join(stronger(cell.config['method']))}"
        )
    return lines


def stronger(method: Config) -> tuple[str, ...]:
    """Return the settings that make a mark of this method easier to see."""
    return get_class(method["_target_"]).strengthened_by
