"""Every method and every attack of conf/, by the contract: nothing to edit when one is added."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conftest import ROOT
from softmark import lab, stages
from softmark.attacks.attack import Query, Suspect, expose
from softmark.errors import InputError
from softmark.lab import plan, roles_of, run_cell
from softmark.methods.watermark import Key

METHODS = sorted(path.stem for path in (ROOT / "conf/method").glob("*.yaml"))
ATTACKS = sorted(path.stem for path in (ROOT / "conf/attack").glob("*.yaml"))
FIELDS = {
    "method",
    "attack",
    "data",
    "model",
    "seed",
    "scale",
    "victim_accuracy",
    "watermarked_accuracy",
    "suspect_accuracy",
    "watermark_accuracy",
    "p_value",
    "null",
    "claimed",
    "status",
    "stages",
    "seconds",
    "versions",
    "overrides",
}


def silent(line: str) -> None:
    pass


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("method", METHODS)
def test_every_cell_leaves_a_whole_record(method, attack, cell):
    config = cell(f"method={method}", f"attack={attack}")
    record = run_cell(config, [f"method={method}", f"attack={attack}"], silent)
    written = json.loads(plan(config).record.read_text())
    assert record == {**written, "made": record["made"]}
    assert set(written) >= FIELDS
    assert (written["method"], written["attack"], written["status"]) == (method, attack, "done")
    for name in ("victim", "watermarked", "suspect"):
        assert 0 <= written[f"{name}_accuracy"] <= 1
    if written["p_value"] is None:
        assert not written["claimed"]
        assert written["null"] is None
        assert written["reason"]
    else:
        assert 0 < written["p_value"] <= 1
        assert 0 <= written["watermark_accuracy"] <= 1
    assert run_cell(config, [], silent)["made"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_no_secret_leaves_the_key(method, cell):
    config = cell(f"method={method}", "attack=none")
    run_cell(config, [], silent)
    draft = plan(config)
    folder = lab.store_of(config).folder(draft.watermarked)
    key = stages.load_key(folder, config["method"])
    if key is None:
        assert not (folder / stages.KEY).exists()
        return
    secrets = [bytes(key.secret.tolist()).hex(), str(key.secret.tolist())]
    written = list(Path(config["output_dir"]).rglob("*.json"))
    assert draft.record in written
    for path in written:
        assert not any(secret in path.read_text() for secret in secrets)
    assert key.check(roles_of(config).judge) == json.loads(draft.record.read_text())["commitment"]


def reachable(thing: Any, seen: set[int]) -> Iterator[Any]:
    """``thing`` and all that its attributes, items and closures lead to.

    What a ``Query`` answers with is the wall between thief and model, and not looked behind.
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


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("method", [name for name in METHODS if name != "none"])
def test_a_thief_holds_no_key_no_secret_and_no_data_of_the_owner(
    method, attack, cell, monkeypatch, tmp_path
):
    config = cell(f"method={method}", f"attack={attack}")
    run_cell(config, [], silent)
    draft, roles = plan(config), roles_of(config)
    key = stages.load_key(lab.store_of(config).folder(draft.watermarked), config["method"])
    thief = stages.make(config["attack"])
    handed = []
    real = type(thief).apply
    monkeypatch.setattr(
        type(thief), "apply", lambda *args: handed.append(args) or real(*args), raising=True
    )
    lab.make_stage(config, "suspect", draft.suspect.config, (draft.watermarked,), tmp_path)
    secrets = {name: t for name, t in key.state_dict().items() if t.numel() > 1}
    things = list(reachable(handed[0], set()))
    assert any(thing is roles.attacker for thing in things)
    assert not any(isinstance(thing, Key) for thing in things)
    tensors = [thing for thing in things if isinstance(thing, Tensor)]
    for tensor in tensors:
        for name, secret in secrets.items():
            same = tensor.shape == secret.shape and torch.equal(tensor.cpu(), secret)
            assert not same, f"the thief holds {name}"
        for held in (roles.owner.images, roles.judge.images):
            assert tensor.data_ptr() != held.data_ptr()
    if thief.access != "weights":
        assert not any(isinstance(thing, nn.Module) for thing in reachable(handed[0][1], set()))


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


def test_innocents_depend_neither_on_seed_nor_on_method(cell):
    plans = [plan(cell(*line)) for line in (["seed=0"], ["seed=1"], ["method=csp", "attack=prune"])]
    for draft in plans[1:]:
        assert draft.calibration == plans[0].calibration
        assert draft.evaluation == plans[0].evaluation
    assert plans[1].victim.address != plans[0].victim.address
    assert plans[2].victim.address == plans[0].victim.address


def test_no_innocent_descends_from_another_pool_or_from_the_victim(cell):
    draft = plan(cell("innocents.calibration=14", "innocents.evaluation=14"))

    def line(stage):
        return {stage.address}.union(*(line(parent) for parent in stage.parents))

    calibration = set().union(*map(line, draft.calibration))
    evaluation = set().union(*map(line, draft.evaluation))
    assert not calibration & evaluation
    assert draft.victim.address not in calibration | evaluation
    assert len({stage.address for stage in draft.calibration}) == 14


def test_where_it_runs_is_no_part_of_an_address(cell):
    base = plan(cell()).verdict.address
    assert plan(cell("trainer=cpu", "logger=csv", "trainer.threads=2")).verdict.address == base
    for changed in ("precision=bf16-mixed", "recipe.lr=0.3", "verifier.probes=40", "seed=5"):
        assert plan(cell(changed)).verdict.address != base


def test_a_failed_cell_says_why_and_is_tried_again(cell):
    config = cell("recipe.lr=1.0e9", "attack=none", "method=none")
    with pytest.raises(InputError, match="the loss became"):
        run_cell(config, [], silent)
    record = json.loads(plan(config).record.read_text())
    assert record["status"] == "failed"
    assert "at step" in record["reason"]
    assert not lab.store_of(config).folder(plan(config).victim).exists()
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
    for path in lab.store_of(config).folder(draft.suspect).iterdir():
        path.unlink()
    again = run_cell(config, [], silent)
    assert again["made"] == 1
    for name in ("suspect_accuracy", "p_value", "watermark_accuracy"):
        assert again[name] == first[name]


def test_too_many_probes_are_refused(cell):
    with pytest.raises(InputError, match=r"verifier\.probes=100000"):
        run_cell(cell("verifier.probes=100000"), [], silent)


def test_messages_are_identified_and_collusion_needs_two_models(cell):
    lines = ["method=csp", "attack=collude_weights", "verifier.messages=[softmark,accomplice]"]
    config = cell(*lines)
    draft = plan(config)
    assert [parent.role for parent in draft.suspect.parents] == ["watermarked"] * 2
    assert draft.suspect.parents[0].address == draft.watermarked.address
    accomplice = plan(cell("method=csp", "method.message=accomplice"))
    assert draft.suspect.parents[1].address == accomplice.watermarked.address
    record = run_cell(config, lines, silent)
    assert list(record["identification"]) == ["softmark", "accomplice"]
    assert record["identified"] in (None, "softmark", "accomplice")
    assert record["innocents_identified"] == 0


def test_an_accomplice_is_somebody_else(cell):
    with pytest.raises(InputError, match=r"attack\.accomplices names 'softmark'"):
        plan(cell("method=csp", "attack=collude_answers", "attack.accomplices=[softmark]"))


def test_an_attack_after_another_shares_its_suspect(cell):
    chained = plan(cell("attack=distill_finetune"))
    assert chained.suspect.parents[0].address == plan(cell("attack=distill")).suspect.address
    assert chained.suspect.address != plan(cell("attack=finetune")).suspect.address


def test_the_curve_ends_with_the_verdict(cell):
    record = run_cell(cell("method=csp", "attack=none"), [], silent)
    assert list(record["p_by_probes"]) == ["1", "10", "50"]
    assert record["p_by_probes"]["50"] == record["p_value"]
    assert all(0 < p <= 1 for p in record["p_by_probes"].values())


@pytest.mark.parametrize("inputs", ["blends", "noise"])
def test_other_probes_make_another_verdict_on_the_same_models(inputs, cell):
    plain, other = cell("method=usp"), cell("method=usp", f"verifier.inputs={inputs}")
    assert plan(plain).suspect.address == plan(other).suspect.address
    assert plan(plain).verdict.address != plan(other).verdict.address
    assert run_cell(other, [], silent)["status"] == "done"


def test_evidence_of_a_suspect_without_probabilities_is_none(cell):
    config = cell("method=csp", "attack=none")
    run_cell(config, [], silent)
    draft, roles = plan(config), roles_of(config)
    key = stages.load_key(lab.store_of(config).folder(draft.watermarked), config["method"])

    class Broken(nn.Module):
        def forward(self, images):
            return torch.full((len(images), 10), float("nan"))

    for method in METHODS:
        if method == "none":
            continue
        judged = stages.make(cell(f"method={method}")["method"])
        found = judged.evidence(Suspect(Broken()), key, roles.judge[:20])
        assert found.tests == ()
        assert "not finite" in found.why


def test_a_forger_lays_the_stolen_model_and_a_key_of_their_own_before_the_judge(cell):
    config = cell("method=csp", "attack=forge")
    draft, honest = plan(config), plan(cell("method=csp", "attack=none"))
    assert draft.watermarked.role == "forged"
    assert [parent.address for parent in draft.watermarked.parents] == [honest.watermarked.address]
    run_cell(config, [], silent)
    store = lab.store_of(config)
    stolen, owned = (store.folder(d.watermarked) for d in (draft, honest))
    assert (stolen / stages.MODEL).read_bytes() == (owned / stages.MODEL).read_bytes()
    keys = [stages.load_key(folder, config["method"]) for folder in (stolen, owned)]
    assert not torch.equal(keys[0].secret, keys[1].secret)


def test_a_forger_is_no_luckier_than_the_number_of_keys_allows(cell):
    """The smallest of N exact p-values is about 1 / N."""
    torch.manual_seed(0)
    method = stages.make(cell("method=csp")["method"])
    answers = torch.rand(200, 10).softmax(1)
    drawn = []
    for _ in range(200):
        tensors = Key.draw("thief")
        tensors |= method.pattern(tensors, 10) | {"baseline": torch.zeros(10, 10)}
        drawn.append(method.exact(answers, tensors))
    best = max(drawn, key=lambda test: test.score)
    assert best.p_value() == min(test.p_value() for test in drawn)
    assert 1e-5 < best.p_value() < 0.05
