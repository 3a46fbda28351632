"""Real marks on real digits: that they are there, that they bind, and that nothing else claims.

Trained once a session, long enough for a mark to mean something.
"""

import copy
import json

import pytest
import torch

from helpers.soft_labels import believe
from softmark.errors import InputError
from softmark.experiment.context import StageContext, repeatable, roles_of
from softmark.experiment.evidence import labelled, load_evidence
from softmark.experiment.interface import KEY, load_key
from softmark.experiment.plan import plan
from softmark.experiment.run import run_cell
from softmark.methods.key_verifier import KeyVerifier
from softmark.models.access import Suspect
from softmark.nodes import make
from softmark.store import store as stores
from softmark.store.store import Store
from softmark.tails import compute_victim_stats
from softmark.training import Recipe

METHODS = ("csp", "usp")
# Half of the small protocol's epochs, and one of each kind of innocent that needs no second mark.
REAL = (
    "scale=small",
    "recipe.epochs=10",
    "verifier.probes=300",
    "innocents.calibration=6",
    "innocents.evaluation=6",
    "~method.simulated_attacks.distill",
)


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """``real("csp", "none")``: config, record, plan and store of a cell; each is run once."""
    from helpers.cells import composed

    output = tmp_path_factory.mktemp("real")
    made = {}

    def run(method: str, attack: str = "none"):
        if (method, attack) not in made:
            lines = (f"output_dir={output}", f"method={method}", f"attack={attack}", *REAL)
            config = copy.deepcopy(composed(lines))
            record = run_cell(config, list(lines), silent)
            made[method, attack] = (config, record, plan(config), Store.under(str(output)))
        return made[method, attack]

    return run


def key_verifier_of(config, cell, store) -> tuple[KeyVerifier, dict]:
    """The key as the verdict has it, and the innocents of each pool."""
    method, verifier = make(cell.key.config["method"]), make(config["verifier"])
    pool = roles_of(config).probes(verifier.inputs, verifier.probes)
    key = load_key(store.folder(cell.key) / KEY, method)
    context = StageContext(cell.verdict, None, None, None, store)
    key_verifier = KeyVerifier(method, verifier, key, labelled(context, method, pool))
    pools, _ = load_evidence(store.folder(cell.evidence))
    return key_verifier, pools


def meet(stage, store) -> Suspect:
    return StageContext(stage, None, None, None, store).suspect(stage)


def p_of(key_verifier: KeyVerifier, suspect: Suspect) -> float:
    return max(key_verifier.verifier.p_values(key_verifier.evidence(suspect), ()).values())


@pytest.mark.parametrize("method", METHODS)
def test_a_marked_model_is_claimed_and_costs_little(method, real):
    _, record, _, _ = real(method)
    assert record["claimed"]
    assert record["p_value"] < 1e-12
    assert record["p_value"] == record["p_before_attack"]
    assert record["victim_accuracy"] > 0.93
    assert record["control_accuracy"] - record["watermarked_accuracy"] < 0.03
    assert record["warnings"] == []


@pytest.mark.parametrize("method", METHODS)
def test_the_detector_tells_its_model_from_innocents(method, real):
    _, record, _, _ = real(method)
    assert record["watermark_accuracy"] > 0.9


@pytest.mark.parametrize("method", METHODS)
def test_a_distilled_copy_is_claimed(method, real):
    _, record, _, _ = real(method, "distill")
    assert record["claimed"]
    assert record["queries"] == 599
    assert not record["innocent_suspect"]


@pytest.mark.parametrize("method", METHODS)
def test_no_innocent_is_claimed(method, real):
    _, record, _, _ = real(method, "innocent_independent")
    assert not record["claimed"]
    assert record["p_value"] > 1e-3
    assert record["innocent_suspect"]
    assert record["false_claims"] == 0
    assert record["innocents"] == 6


@pytest.mark.parametrize("method", METHODS)
def test_tails_in_reverse_are_the_same_mark_and_said_to_be_so(method, real, monkeypatch):
    config, _, cell, store = real(method)
    key_verifier, _ = key_verifier_of(config, cell, store)
    suspect = meet(cell.watermarked, store)
    p = p_of(key_verifier, suspect)
    assert p < 1e-12
    (test,) = key_verifier.evidence(suspect).tests.values()
    assert not test.strongest.about.endswith("in reverse")
    straight = type(key_verifier.method).pattern
    believe(monkeypatch, type(key_verifier.method), lambda self, key: -straight(self, key))
    (test,) = key_verifier.evidence(suspect).tests.values()
    assert test.strongest.about.endswith("in reverse")
    assert p_of(key_verifier, suspect) < 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_another_key_finds_nothing_in_the_marked_model(method, real):
    config, _, cell, store = real(method)
    key_verifier, _ = key_verifier_of(config, cell, store)
    suspect = meet(cell.watermarked, store)
    for number in range(20):
        torch.manual_seed(number)
        key_verifier.key = key_verifier.method.draw(key_verifier.pool, 10, repeatable)
        assert p_of(key_verifier, suspect) > 1e-4


@pytest.mark.parametrize("method", METHODS)
def test_what_is_usual_is_the_unmarked_victims_and_nothing_that_was_learnt_moves_p(method, real):
    config, record, cell, store = real(method)
    key_verifier, _ = key_verifier_of(config, cell, store)
    victim = meet(cell.victim, store).answers(roles_of(config).owner)
    torch.testing.assert_close(key_verifier.key.victim_stats, compute_victim_stats(victim))
    suspect = meet(cell.suspect, store)
    assert p_of(key_verifier, suspect) == record["p_value"]
    for tensor in key_verifier.key.detector.state_dict().values():
        tensor.copy_(torch.randn_like(tensor))
    assert p_of(key_verifier, suspect) == record["p_value"]


@pytest.mark.parametrize("method", METHODS)
def test_calibration_and_evaluation_are_other_models(method, real):
    config, _, cell, store = real(method)
    _, pools = key_verifier_of(config, cell, store)
    scores = [
        {tuple(each.evidence.scores.tolist()) for each in pools[name]}
        for name in ("calibration", "evaluation")
    ]
    assert len(scores[0]) == len(scores[1]) == 6
    assert not scores[0] & scores[1]


def spoil(folder, change) -> None:
    """Changes the key in ``folder`` as somebody would who can write anything in the store."""
    path = folder / KEY
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, framework="pt") as file:
        about = file.metadata()
    tensors = load_file(path)
    change(tensors, about)
    save_file(tensors, path, about)
    noted = json.loads((folder / "stage.json").read_text())
    noted["files"][KEY] = stores._sha256(path)
    (folder / "stage.json").write_text(json.dumps(noted))


def of_another_secret(tensors, about):
    tensors["secret"][0] ^= 1


def of_another_detector(tensors, about):
    name = next(name for name in tensors if name.startswith("detector.network"))
    tensors[name] += 1e-3


def of_weaker_terms(tensors, about):
    about["terms"] = about["terms"].replace("1e-06", "0.5")


def recommitted(tensors, about):
    """Another secret, and a commitment that fits it."""
    from softmark.methods.key import Key

    tensors["secret"][0] ^= 1
    drawn = (tensors[name] for name in ("secret", "salt", "message"))
    key = Key(*drawn, int(about["classes"]), tensors["usual"])
    for name, tensor in tensors.items():
        if "." in name:
            owner, _, last = name.rpartition(".")
            at = key
            for part in owner.split("."):
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_buffer(last, tensor)
    key.method, key.terms = about["method"], json.loads(about["terms"])
    key.probes = about["probes"]
    about["commitment"] = key.digest()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_another_secret, "isn't what was committed to"),
        (of_another_detector, "isn't what was committed to"),
        (of_weaker_terms, "isn't what was committed to"),
        (recommitted, "isn't the published one"),
    ],
)
def test_a_tampered_key_is_refused_by_the_cell(change, words, real):
    config, _, cell, store = real("csp")
    folder = store.folder(cell.key)
    contents = {path: path.read_bytes() for path in (*folder.iterdir(), cell.record)}
    try:
        cell.record.unlink()
        spoil(folder, change)
        with pytest.raises(InputError, match=words):
            run_cell(config, [], silent)
        assert json.loads(cell.record.read_text())["claimed"] is False
    finally:
        for path, content in contents.items():
            path.write_bytes(content)


def test_the_control_is_trained_as_long_as_the_mark(real):
    config, _, cell, store = real("csp")
    control = make(cell.control.config["control"])
    assert control.training_recipe == make(config["method"], "method").marking_recipe
    assert control.training_recipe.epochs == 20
    assert isinstance(control.training_recipe, Recipe)
    models = [meet(stage, store).network for stage in (cell.victim, cell.control)]
    first, second = (torch.cat([p.flatten() for p in m.parameters()]) for m in models)
    assert not torch.equal(first, second)


def test_a_forged_key_claims_nothing(real):
    _, record, _, _ = real("csp", "adaptive_forge")
    assert record["claimed"]
    assert record["forged_claimed"] is False
    assert 1e-6 < record["forged_p_value"] <= 1
