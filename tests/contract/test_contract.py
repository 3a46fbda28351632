"""Every method and every attack of conf/, by the contract: nothing to edit when one is added.

A sum and not a product: each method meets one attack of each kind, each attack meets usp and csp.
"""

import contextlib
import copy
import inspect
import json
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import ROOT
from softmark.accuracy import utility
from softmark.data.roles import Samples
from softmark.errors import InputError
from softmark.experiment import judge, stages
from softmark.experiment.context import StageContext, roles_of, samples_of
from softmark.experiment.evidence import gather_evidence
from softmark.experiment.interface import KEY, MODEL, load_key
from softmark.experiment.plan import plan
from softmark.experiment.record import NEVER_ASKED, Record
from softmark.experiment.run import check, run_cell, stronger
from softmark.methods.key import Key
from softmark.models.access import Query, expose
from softmark.models.files import read_tensors
from softmark.nodes import make
from softmark.owner.statement import METHODS as OWNERS_METHODS
from softmark.store.store import Store
from softmark.training import Classifier, Fit, predict

METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
ATTACKS = sorted(path.stem for path in (ROOT / "conf/attack").glob("*.yaml"))
# serve is serve_flat by another name: one address and one record.
ATTACKS.remove("serve")
SKETCHED = sorted(path.stem for path in (ROOT / "tests/sketches/conf/method").glob("*.yaml"))
SKETCHED_ATTACKS = sorted(
    path.stem for path in (ROOT / "tests/sketches/conf/attack").glob("*.yaml")
)
# One of each way to train.
STEPPING = (
    "finetune_adversarial",
    "distill",
    "distill_mixtures",
    "finetune_self_distill",
    "repair_nad",
    "repair_unlearn",
)
# One of each access, one that stands before the answers, one whose network is made of two.
KINDS = ("none", "finetune", "distill", "distill_hard", "serve_temperature", "serve_own_tail")
# usp meets all attacks in test_an_attacker_holds_no_key_no_secret_and_no_data_of_the_owner.
CELLS = [
    *((method, attack) for method in (*METHODS, *SKETCHED) for attack in KINDS),
    *(("csp", attack) for attack in (*ATTACKS, *SKETCHED_ATTACKS)),
]
CELLS = list(dict.fromkeys(CELLS))


def silent(line: str) -> None:
    pass


def crossed(cell: Callable[..., dict[str, Any]], method: str, attack: str) -> dict[str, Any]:
    """The config of a method and an attack, put together of two, which other pairs need too.

    Hydra takes a third of a second for each config that it composes.
    """
    attacked = cell(f"attack={attack}")
    if '"method":' in json.dumps(attacked["attack"]):
        return cell(f"method={method}", f"attack={attack}")
    return {**attacked, "method": cell(f"method={method}")["method"]}


@pytest.mark.parametrize(
    "attack", ["distill_finetune", "adaptive_evade", "adaptive_overwrite", "adaptive_forge"]
)
def test_a_config_that_is_put_together_is_the_one_that_hydra_composes(attack, cell):
    assert crossed(cell, "csp", attack) == cell("method=csp", f"attack={attack}")


@pytest.mark.parametrize(("method", "attack"), CELLS)
def test_a_cell_leaves_a_whole_record(method, attack, cell):
    config = crossed(cell, method, attack)
    record = run_cell(config, [f"method={method}", f"attack={attack}"], silent)
    written = json.loads(plan(config).record.read_text())
    assert record == {**written, "made": record["made"]}
    assert set(written) == set(Record.__dataclass_fields__)
    assert (written["method"], written["attack"], written["status"]) == (method, attack, "done")
    for name in ("victim", "watermarked", "suspect"):
        assert 0 <= written[f"{name}_accuracy"] <= 1
    if written["p_value"] is None:
        assert not written["claimed"]
        assert written["null"] is None
        assert written["reason"]
    else:
        assert 0 < written["p_value"] <= 1
        assert written["mark_recall"] is not None or 0 <= written["watermark_accuracy"] <= 1
    assert written["innocents"] + written["skipped"] in (0, 2, 4)
    assert run_cell(config, [], silent)["made"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_no_secret_leaves_the_key(method, cell):
    config = cell(f"method={method}", "attack=none")
    run_cell(config, [], silent)
    draft = plan(config)
    folder = Store.under(config["output_dir"]).folder(draft.key)
    key = load_key(folder / KEY, make(config["method"]))
    if key is None:
        assert not (folder / KEY).exists()
        return
    secrets = [bytes(key.secret.tolist()).hex(), str(key.secret.tolist())]
    written = list(Path(config["output_dir"]).rglob("*.json"))
    assert draft.record in written
    for path in written:
        assert not any(secret in path.read_text() for secret in secrets)
    verifier = make(config["verifier"])
    pool = roles_of(config).probes(verifier.inputs, verifier.probes)
    committed = key.check(draft.key.config["method"], verifier.terms, pool)
    assert committed == json.loads(draft.record.read_text())["commitment"]


def reachable(thing: Any, seen: set[int]) -> Iterator[Any]:
    """``thing`` and all that its attributes, items and closures lead to.

    What a ``Query`` answers with is the wall between attacker and model, and not looked behind.
    """
    if id(thing) in seen or isinstance(thing, str | bytes | int | float | type(None) | type):
        return
    seen.add(id(thing))
    yield thing
    below: list[Any] = []
    if isinstance(thing, dict):
        below += list(thing.values())
    elif isinstance(thing, list | tuple | set):
        below += list(thing)
    elif callable(thing) and getattr(thing, "__closure__", None):
        below += [hole.cell_contents for hole in thing.__closure__]
    if isinstance(thing, Query):
        below.append(thing.classes)
    elif hasattr(thing, "__dict__") and not isinstance(thing, Tensor):
        below += list(vars(thing).values())
    for item in below:
        yield from reachable(item, seen)


@pytest.mark.parametrize("attack", [*ATTACKS, *SKETCHED_ATTACKS])
def test_an_attacker_holds_no_key_no_secret_and_no_data_of_the_owner(
    attack, cell, monkeypatch, tmp_path
):
    """And what a step makes is the same when it is made again."""
    config = crossed(cell, "usp", attack)
    assert run_cell(config, [], silent)["status"] == "done"
    draft, roles = plan(config), roles_of(config)
    store = Store.under(config["output_dir"])
    key = load_key(store.folder(draft.key) / KEY, make(config["method"]))
    secrets = {name: t for name, t in key.state_dict().items() if t.numel() > 1}
    pattern = make(config["method"]).pattern(key)
    for link in draft.links:
        attacker = make(link.config["attacks"][-1], "attack")
        handed: list[Any] = []
        real = type(attacker).apply

        def watched(*args, handed=handed, real=real):
            handed.append(args)
            return real(*args)

        monkeypatch.setattr(type(attacker), "apply", watched)
        stages.make_stage(config, link, tmp_path)
        things = list(reachable(handed[0], set()))
        assert any(
            isinstance(thing, Tensor) and thing.data_ptr() == roles.attacker.inputs.data_ptr()
            for thing in things
        )
        assert not any(isinstance(thing, Key) for thing in things)
        for tensor in (thing for thing in things if isinstance(thing, Tensor)):
            for name, secret in {**secrets, "pattern": pattern}.items():
                same = tensor.shape == secret.shape and torch.equal(tensor.cpu(), secret)
                assert not same, f"the attacker holds {name}"
            for held in (roles.owner.inputs, roles.judge.inputs):
                assert tensor.data_ptr() != held.data_ptr()
        if attacker.access != "weights":
            met = list(reachable(handed[0][1], set()))
            assert not any(isinstance(thing, nn.Module) for thing in met)
        monkeypatch.setattr(type(attacker), "apply", real)
        made = read_tensors(store.folder(link) / MODEL)[0]
        again = read_tensors(tmp_path / MODEL)[0]
        assert all(torch.equal(again[name], value) for name, value in made.items())


class Waiting(TorchDispatchMode):
    """Where a step reads a tensor's values: a GPU would have to finish all its work first."""

    READ = ("_local_scalar_dense", "nonzero", "masked_select")

    def __init__(self):
        super().__init__()
        self.lines: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        chosen = args[1] if "aten.index" in name and len(args) > 1 else ()
        masks = [t for t in chosen if isinstance(t, Tensor) and t.dtype == torch.bool]
        if masks or any(word in name for word in self.READ):
            frames = traceback.extract_stack()
            own = [f"{f.name}: {f.line}" for f in frames if "/src/softmark/" in f.filename]
            self.lines.add(own[-1])
        return function(*args, **(kwargs or {}))


def step_elsewhere(module: Classifier, data: Samples) -> None:
    """One step on torch's meta device, which no tensor of the CPU may meet, nor one of a GPU."""
    module = copy.deepcopy(module).train().to("meta")
    module.loss(next(iter(module.batches(data)))).backward()


@pytest.mark.parametrize(
    ("method", "attack"),
    [*((method, "none") for method in METHODS), *(("none", attack) for attack in STEPPING)],
)
def test_no_step_of_a_training_waits_for_values_or_needs_the_cpu(method, attack, cell, monkeypatch):
    real, seen, train = Classifier.training_step, Waiting(), Fit.__call__

    def watched(self, batch, step):
        with seen:
            return real(self, batch, step)

    def moved(self, module, data, name):
        if isinstance(module, Classifier):
            with monkeypatch.context() as patch:
                patch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
                step_elsewhere(module, data)
        return train(self, module, data, name)

    monkeypatch.setattr(Classifier, "training_step", watched)
    monkeypatch.setattr(Fit, "__call__", moved)
    config = cell(f"method={method}", f"attack={attack}", "seed=1", "recipe.epochs=1")
    run_cell(config, [], silent)
    # one_hot reads them on a CPU alone, and so does the loss that an owner calls.
    waiting = [line for line in seen.lines if "one_hot" not in line and "_check" not in line]
    assert waiting == []


def nodes(config: Any) -> Iterator[dict[str, Any]]:
    """Every node of ``config`` that names a class."""
    if isinstance(config, dict):
        if "_target_" in config:
            yield config
        for value in config.values():
            yield from nodes(value)


@pytest.mark.parametrize("group", ["attack", "method", "model", "table"])
def test_every_yaml_is_called_by_its_name(group):
    """Records and tables call a thing by its name, command lines by its file's."""
    for path in (ROOT / "conf" / group).glob("*.yaml"):
        node = OmegaConf.load(path)
        assert (node.table if group == "table" else node).name == path.stem


@pytest.mark.parametrize("attack", ATTACKS)
def test_every_number_of_an_attack_stands_in_its_yaml(attack, cell):
    """No default of a class, which would be a second place for a number, is ever used."""
    for node in nodes(cell(f"attack={attack}")["attack"]):
        taken = inspect.signature(get_class(node["_target_"])).parameters.values()
        left = [each.name for each in taken if each.default is not each.empty]
        left = [name for name in left if name not in node]
        assert not left, f"the node of {node['_target_']} leaves {left} to their defaults"


def test_a_query_counts_and_tells_labels_only():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    query = expose(network, "labels", 3)
    images = torch.randint(256, (7, 1, 8, 8), dtype=torch.uint8)
    answers = query(images)
    assert query.count == 7
    assert set(answers.unique().tolist()) <= {0.0, 1.0}
    assert (answers.sum(1) == 1).all()
    soft = expose(network, "probabilities", 3)(images)
    assert torch.equal(soft.argmax(1), answers.argmax(1))
    assert ((soft > 0) & (soft < 1)).all()


# --- The plan ----------------------------------------------------------------------------------


def pool_of(draft, name: str) -> list:
    return [each.stage for each in draft.innocents if each.pool == name]


def test_innocents_depend_neither_on_seed_nor_on_method(cell):
    plans = [plan(cell(*line)) for line in (["seed=0"], ["seed=1"], ["method=csp", "attack=prune"])]
    for draft in plans[1:]:
        assert draft.innocents == plans[0].innocents
    assert plans[1].victim.address != plans[0].victim.address
    assert plans[2].victim.address == plans[0].victim.address


def line_of(stage) -> set[str]:
    return {stage.address}.union(*(line_of(parent) for parent in stage.parents))


def test_no_innocent_descends_from_another_pool_or_from_the_victim(cell):
    draft = plan(cell("innocents.calibration=14", "innocents.evaluation=28"))
    calibration, evaluation = (
        set().union(*map(line_of, pool_of(draft, name))) for name in ("calibration", "evaluation")
    )
    assert not calibration & evaluation
    assert draft.victim.address not in calibration | evaluation
    assert len({stage.address for stage in pool_of(draft, "evaluation")}) == 28


def test_the_pools_are_trained_on_disjoint_halves(cell):
    config = cell("innocents.calibration=14", "innocents.evaluation=14")
    draft, roles = plan(config), roles_of(config)
    parties = {
        name: {stage.config["party"] for stage in pool_of(draft, name)}
        for name in ("calibration", "evaluation")
    }
    assert parties["calibration"] == {"calibration"}
    assert parties["evaluation"] == {"evaluation", "owner", "attacker"}
    halves = [samples_of(roles, name, 1.0) for name in ("calibration", "evaluation")]
    both = torch.cat([half.inputs for half in halves])
    training = torch.cat([roles.owner.inputs, roles.attacker.inputs])
    # Each picture lies in one of them, and as often as there.
    for one, other in zip(
        both.unique(dim=0, return_counts=True),
        training.unique(dim=0, return_counts=True),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_false_claims_are_counted_on_the_evaluation_pool(cell):
    record = run_cell(cell("method=csp", "attack=none", "innocents.evaluation=3"), [], silent)
    assert record["innocents"] == 3
    assert {kind: each["innocents"] for kind, each in record["by_kind"].items()} == {
        "plain": 1,
        "smoothed": 1,
        "distilled": 1,
    }


def made_of(config) -> tuple:
    """The plan of a cell that is run, and the context of its verdict."""
    run_cell(config, [], silent)
    draft = plan(config)
    store = Store.under(config["output_dir"])
    return draft, StageContext(draft.verdict, None, roles_of(config), None, store)


@pytest.mark.parametrize("method", ["coswm", "dawn_often"])
def test_a_mark_of_answers_is_looked_for_where_the_interface_was_asked(method, cell):
    records = [run_cell(crossed(cell, method, name), [], silent) for name in ("none", "distill")]
    assert [record["reason"] == NEVER_ASKED for record in records] == [True, False]
    assert records[0]["p_value"] is None is records[0]["p_before_attack"]
    assert records[1]["p_value"] is not None


def test_the_innocents_recall_stands_beside_the_suspects(cell):
    record = run_cell(crossed(cell, "content", "none"), [], silent)
    assert record["mark_recall"] is not None
    assert 0 <= record["innocent_recall"] <= 1


def test_the_judge_asks_what_the_attacker_serves(cell):
    draft, context = made_of(cell("method=csp", "attack=serve_temperature"))
    suspect, samples = context.suspect(draft.suspect), context.roles.judge[:20]
    plain = predict(suspect.network, samples.inputs)
    expected = (plain.clamp_min(1e-12).log() / 4).softmax(1)
    torch.testing.assert_close(suspect.answers(samples), expected)


def test_an_attacker_asks_what_the_owner_serves(cell):
    config = cell("method=altered_answers", "attack=distill")
    draft, context = made_of(config)
    attacking = replace(context, stage=draft.suspect)
    (query,) = attacking.targets("probabilities")
    (network,) = attacking.targets("weights")
    images = context.roles.attacker.inputs
    lies = query(images).argmax(1) != predict(network, images).argmax(1)
    assert 0.04 < float(lies.float().mean()) < 0.2
    # The suspect's log holds the pictures with the labels that the interface answered.
    log = context.suspect(draft.suspect).log
    assert torch.equal(log.inputs, images)
    assert torch.equal(log.labels, query(images).argmax(1))


def test_all_accuracies_are_on_the_judges_pictures(cell):
    config = crossed(cell, "csp", "distill")
    draft, context = made_of(config)
    record, samples = json.loads(draft.record.read_text()), context.roles.judge
    right = {}
    for name in ("victim", "control", "watermarked", "suspect"):
        answers = predict(context.suspect(getattr(draft, name)).network, samples.inputs)
        right[name] = answers.argmax(1) == samples.labels
        for what, value in utility(answers, samples.labels).items():
            assert record[f"{name}_{what}"] == pytest.approx(value, rel=1e-4)
    for name in ("victim", "control"):
        other = right[name] != right["watermarked"]
        assert record[f"{name}_disagreement"] == pytest.approx(float(other.float().mean()))
    assert record["judged_samples"] == len(samples)


def test_the_judge_expects_the_unmarked_victims_answers(cell, monkeypatch, tmp_path):
    """Of the suspect, of the marked model before the attack, and of each innocent."""
    draft, context = made_of(cell("method=csp", "attack=none"))
    kind, seen = get_class(draft.config["method"]["_target_"]), []
    evidence = kind.evidence

    def watched(self, suspect, key, probes):
        seen.append(probes.labels)
        return evidence(self, suspect, key, probes)

    monkeypatch.setattr(kind, "evidence", watched)
    judge.verdict(judge.load(draft, context))
    gather_evidence(replace(context, folder=tmp_path, stage=draft.evidence))
    probes = context.roles.judge[:50]
    victim, marked = (
        context.suspect(stage).answers(probes).argmax(1)
        for stage in (draft.victim, draft.watermarked)
    )
    assert not torch.equal(victim, marked)
    assert not torch.equal(victim, probes.labels)
    # The curve's first two places, then the whole.
    assert sorted(map(len, seen)) == [1, 10] + [50] * (2 + len(draft.innocents))
    assert all(torch.equal(labels, victim[: len(labels)]) for labels in seen)


def test_what_a_table_calls_a_method_is_no_part_of_its_key(cell):
    run_cell(cell("method=csp", "attack=none"), [], silent)
    config = cell("method=csp", "method.name=mine", "attack=prune")
    record = run_cell(config, [], silent)
    assert (record["status"], record["method"]) == ("done", "mine")
    assert plan(config).key.address == plan(cell("method=csp", "attack=none")).key.address


def test_what_the_attacker_cannot_have_is_named(cell):
    config = cell("+attacker.share=0.1")
    with pytest.raises(InputError, match=r"attacker\.share: there are access, pictures and frac"):
        check(config)


def test_planning_decodes_nothing(cell, tmp_path):
    config = {**cell(), "output_dir": str(tmp_path)}
    with pytest.raises(InputError, match="data has no decoded data of this source yet"):
        plan(config)
    assert not list(tmp_path.iterdir())


def test_where_it_runs_is_no_part_of_an_address(cell):
    base = plan(cell()).verdict.address
    assert plan(cell("trainer=cpu", "logger=csv", "trainer.threads=2")).verdict.address == base
    for changed in ("precision=bf16-mixed", "recipe.lr=0.3", "verifier.probes=40", "seed=5"):
        assert plan(cell(changed)).verdict.address != base


def test_what_the_judge_asks_changes_no_model(cell):
    base, other = plan(cell()), plan(cell("verifier.probes=40", "verifier.levels.exact=0.001"))
    assert (base.suspect, base.watermarked, base.control) == (
        other.suspect,
        other.watermarked,
        other.control,
    )
    assert base.key.address != other.key.address
    assert base.evidence.address != other.evidence.address


def test_the_innocents_evidence_is_shared_by_all_attacks_on_a_key(cell):
    evidence = {plan(cell(f"attack={name}")).evidence.address for name in ("none", "distill")}
    assert len(evidence) == 1
    assert plan(cell("seed=1")).evidence.address not in evidence


def test_methods_share_their_control(cell):
    one, other = (plan(cell(f"method={name}")) for name in ("usp", "csp"))
    assert one.control.address == other.control.address
    assert (
        plan(cell("method=usp", "method.epochs_factor=1.0")).control.address != one.control.address
    )
    assert plan(cell("method=none")).control is None


def test_every_step_of_a_chain_of_chains_is_made(cell):
    draft = plan(cell("attack=distill_finetune", "attack@attack.steps.1=distill_finetune"))
    made = [link.config["attacks"][-1]["name"] for link in draft.links]
    assert made == ["distill", "finetune", "finetune"]
    assert (
        draft.suspect.parents[0].parents[0].address == plan(cell("attack=distill")).suspect.address
    )


def test_a_chain_shares_its_links_and_counts_all_queries(cell):
    chained, first = cell("attack=distill_finetune"), cell("attack=distill")
    assert plan(chained).links[0].address == plan(first).suspect.address
    queries = run_cell(first, [], silent)["queries"]
    assert queries > 0
    assert run_cell(chained, [], silent)["queries"] == queries


def test_a_chains_epochs_are_summed(cell):
    config = crossed(cell, "csp", "distill_finetune_prune")
    distill, finetune, _ = config["attack"]["steps"].values()
    alone = crossed(cell, "csp", "finetune")
    tuned = run_cell(alone, [], silent)["epochs"]  # fewer than are asked for, at this scale
    assert 0 < tuned < finetune["epochs"]
    assert run_cell(config, [], silent)["epochs"] == distill["recipe"]["epochs"] + tuned


def test_finetune_then_collude_averages_both_models(cell):
    draft = plan(cell("method=csp", "attack=finetune_collude"))
    assert [parent.role for parent in draft.suspect.parents] == ["suspect"] * 2
    owners = [parent.parents[0].address for parent in draft.suspect.parents]
    assert owners[0] == draft.watermarked.address
    accomplice = plan(cell("method=csp", "method.message=accomplice"))
    assert owners[1] == accomplice.watermarked.address


def test_collude_then_finetune_plans_the_accomplices(cell):
    draft = plan(cell("method=csp", "attack=collude_finetune"))
    assert [link.config["attacks"][-1]["name"] for link in draft.links] == [
        "collude_weights",
        "finetune",
    ]
    assert [parent.role for parent in draft.links[0].parents] == ["watermarked"] * 2


def test_colluders_need_a_step_that_merges(cell):
    with pytest.raises(InputError, match=r"attack\.colluders: no step"):
        plan(cell("attack=collude_weights", "attack.merges=false"))


@pytest.mark.parametrize("attack", ["collude_weights", "collude_answers", "collude_ensemble"])
def test_a_number_of_copies_is_that_of_the_models_that_become_one(attack, cell):
    node = cell(f"attack={attack}")["attack"]
    for count, others in ((2, "accomplice"), (4, "accomplice,accomplice 2,accomplice 3")):
        config = cell(f"attack={attack}")
        drawn, named = (
            plan({**config, "attack": {**node, "colluders": colluders}}).suspect
            for colluders in (count, others.split(","))
        )
        assert drawn.address == named.address
        assert len({parent.address for parent in drawn.parents}) == count


@pytest.mark.parametrize("count", [0, 1, 65, -2])
def test_a_number_of_copies_that_cannot_be_is_one_line(count, cell):
    with pytest.raises(InputError, match=r"attack\.colluders") as error:
        plan(cell("attack=collude_weights", f"attack.colluders={count}"))
    assert "\n" not in str(error.value)


def test_an_accomplice_is_somebody_else(cell):
    with pytest.raises(InputError, match=r"attack\.colluders names 'softmark'"):
        plan(cell("method=csp", "attack=collude_answers", "attack.colluders=[softmark]"))


def test_a_student_of_another_architecture_says_what_it_is(cell):
    from softmark.models.files import load_network

    config = cell("attack=distill", "model@attack.network=vgg11", "attack.network.width=8")
    run_cell(config, [], silent)
    folder = Store.under(config["output_dir"]).folder(plan(config).suspect)
    assert type(load_network(folder / MODEL)).__name__ == "VGG"


def test_the_attackers_share_of_the_data_is_a_setting(cell):
    config = cell("attack=distill", "attacker.fraction=0.1")
    record = run_cell(cell("attack=distill"), [], silent)
    assert run_cell(config, [], silent)["queries"] == round(record["queries"] / 10)
    assert plan(config).watermarked.address == plan(cell("attack=distill")).watermarked.address
    with pytest.raises(InputError, match=r"attacker\.fraction=0"):
        plan(cell("attacker.fraction=0.0"))


@pytest.mark.parametrize(
    ("has", "attack", "needed"),
    [
        ("probabilities", "finetune", "weights"),
        ("labels", "distill_finetune", "probabilities"),
        ("labels", "distill_hard", None),
        ("probabilities", "distill_finetune", None),
    ],
)
def test_the_first_step_needs_no_more_than_the_attacker_has(has, attack, needed, cell):
    config = cell(f"attack={attack}", f"attacker.access={has}")
    if needed is None:
        check(config)
        return
    with pytest.raises(InputError, match=rf"attacker\.access={has}: .* needs {needed}"):
        check(config)


def test_a_cell_that_is_refused_leaves_no_record_where_another_has_its_own(cell):
    weights, labels = (
        plan(cell("attack=finetune")),
        plan(cell("attack=finetune", "attacker.access=labels")),
    )
    assert weights.suspect.address == labels.suspect.address
    assert weights.record != labels.record


# --- Failures and caches -----------------------------------------------------------------------


def test_a_failed_cell_says_why_and_is_tried_again(cell):
    config = cell("recipe.lr=1.0e9", "attack=none", "method=none")
    with pytest.raises(InputError, match="the loss became"):
        run_cell(config, [], silent)
    record = json.loads(plan(config).record.read_text())
    assert record["status"] == "failed"
    assert "in epoch 1" in record["reason"]
    assert not Store.under(config["output_dir"]).folder(plan(config).victim).exists()
    with pytest.raises(InputError, match="the loss became"):
        run_cell(config, [], silent)


def test_a_record_cut_in_half_is_made_anew(cell):
    config = cell("method=none", "attack=none")
    run_cell(config, [], silent)
    path = plan(config).record
    path.write_text(path.read_text()[:100])
    assert run_cell(config, [], silent)["status"] == "done"
    assert json.loads(path.read_text())["status"] == "done"


def test_a_cache_hit_changes_nothing_that_comes_after(cell, tmp_path):
    """A suspect made after its parents were loaded is the one made after they were trained."""
    config = cell("method=csp", "attack=distill", f"output_dir={tmp_path}")
    first = run_cell(config, [], silent)
    draft = plan(config)
    draft.record.unlink()
    for path in Store.under(config["output_dir"]).folder(draft.suspect).iterdir():
        path.unlink()
    again = run_cell(config, [], silent)
    assert again["made"] == 1
    for name in ("suspect_accuracy", "p_value", "watermark_accuracy"):
        assert again[name] == first[name]


def test_too_many_probes_are_refused(cell):
    with pytest.raises(InputError, match=r"verifier\.probes=100000"):
        run_cell(cell("verifier.probes=100000"), [], silent)


def test_messages_are_identified(cell):
    lines = ["method=csp", "attack=collude_weights", "verifier.messages=[softmark,accomplice]"]
    record = run_cell(cell(*lines), lines, silent)
    assert list(record["identification"]) == ["softmark", "accomplice"]
    assert record["identified"] in (None, "softmark", "accomplice")
    assert record["innocents_identified"] == 0
    # What is left where both collude, of the owner's half and of each customer's.
    assert list(record["colluders"]) == ["softmark", "accomplice"]
    assert all(0 < p <= 1 for p in (record["owner_p_value"], *record["colluders"].values()))
    alone = run_cell(cell("method=csp", "attack=none"), [], silent)
    assert (alone["owner_p_value"], alone["colluders"]) == (None, None)


def test_the_curve_ends_with_the_verdict(cell):
    record = run_cell(cell("method=csp", "attack=none"), [], silent)
    assert list(record["p_by_probes"]) == ["1", "10", "50"]
    assert record["p_by_probes"]["50"] == record["p_value"]
    assert all(0 < p <= 1 for p in record["p_by_probes"].values())


@pytest.mark.parametrize("inputs", ["sure", "blends", "noise"])
def test_other_probes_make_another_verdict_on_the_same_models(inputs, cell):
    plain, other = cell("method=usp"), cell("method=usp", f"verifier.inputs={inputs}")
    assert plan(plain).suspect.address == plan(other).suspect.address
    assert plan(plain).verdict.address != plan(other).verdict.address
    assert run_cell(other, [], silent)["status"] == "done"


def test_sure_probes_are_the_judges_that_the_victim_is_surest_of_whatever_the_key(cell):
    pools = []
    for message in ("one", "two"):
        lines = ["method=csp", "attack=none", "verifier.inputs=sure", f"method.message={message}"]
        config = cell(*lines)
        run_cell(config, lines, silent)
        drawn, store = plan(config), Store.under(config["output_dir"])
        context = StageContext(drawn.verdict, None, roles_of(config), None, store)
        pools.append(context.pool(make(config["verifier"])))
    judge = context.roles.judge
    sure = context.suspect(drawn.victim).answers(judge).amax(1)
    least = context.suspect(drawn.victim).answers(pools[0]).amax(1).min()
    assert pools[0].fingerprint == pools[1].fingerprint
    assert len(pools[0]) == 50
    assert (sure > least).sum() < 50 <= (sure >= least).sum()


def test_a_victim_that_has_learnt_too_little_is_said_to_have(cell):
    record = run_cell(cell("method=csp", "attack=none", "recipe.epochs=1"), [], silent)
    assert record["victim_accuracy"] < 0.5
    assert "raise recipe.epochs" in record["warnings"][0]


@pytest.mark.parametrize("method", METHODS)
def test_a_mark_that_is_too_weak_says_what_to_raise_of_what_its_method_has(method, cell):
    config = cell(f"method={method}")
    for key in stronger(config["method"]):
        assert OmegaConf.select(OmegaConf.create(config), key) is not None


def test_owners_may_use_the_methods_that_say_so(cell):
    kinds = {name: get_class(cell(f"method={name}")["method"]["_target_"]) for name in METHODS}
    assert {name for name, kind in kinds.items() if kind.supports_owner} == set(OWNERS_METHODS)


def test_secrets_of_the_system_are_others_each_time(cell, tmp_path):
    keys = []
    for number in range(2):
        config = cell(
            "method=csp", "attack=none", "secrets=system", f"output_dir={tmp_path}/{number}"
        )
        assert run_cell(config, [], silent)["secrets"] == "system"
        folder = Store.under(config["output_dir"]).folder(plan(config).key)
        keys.append(load_key(folder / KEY, make(config["method"])))
    assert not torch.equal(keys[0].secret, keys[1].secret)
    with pytest.raises(InputError, match="secrets=none: repeatable or system"):
        run_cell(cell("secrets=none"), [], silent)
