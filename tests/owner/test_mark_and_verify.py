"""Marking a model of one's own, and verifying a suspect, outside of any experiment."""

from __future__ import annotations

import copy
import functools
import json
import stat
import subprocess
import sys
from random import Random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import softmark
from helpers import nearly, owners
from softmark import InputError
from softmark.methods.csp import CSP
from softmark.owner.commitment import publication
from softmark.owner.committed_key_verifier import CommittedKeyVerifier
from softmark.owner.new_key import commit_key
from softmark.owner.verify import examine
from softmark.owner.watermarks import owner_config, watermark_of_config, watermark_of_statement
from softmark.tails import compute_victim_stats
from softmark.training import predict
from softmark.verification.nulls import Measured


@functools.cache
def marked(method: str = "csp") -> softmark.Marked:
    return softmark.mark(owners.victim(), owners.owned(), "licence 7", method, owners.probes())


def accuracy(model):
    inputs, labels = owners.rows()
    return float(
        (predict(model, inputs[owners.REST]).argmax(1) == labels[owners.REST]).float().mean()
    )


@pytest.mark.parametrize("method", ["csp", "usp"])
def test_a_marked_model_is_claimed_and_others_are_not(method):
    mark = marked(method)
    assert mark.verdict.claimed
    assert mark.verdict.p_value < 1e-7
    assert mark.max_customers > 1
    for other in (owners.victim(), owners.innocent()):
        assert not softmark.verify(other, mark.key, mark.probes).claimed
    assert accuracy(mark.model) > accuracy(owners.victim()) - 0.04


def test_the_owners_model_is_left_as_it_was():
    model = owners.trained(3).train()
    before = copy.deepcopy(model.state_dict())
    softmark.mark(model, owners.owned(), "x", probes=owners.probes(), recipe={"epochs": 1})
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_weak_mark_is_trained_anew_and_longer(capsys):
    weak = ["method.marking.beta=0.0", "method.marking.eps=0.0", "method.marking.feature_weight=0"]
    mark = softmark.mark(
        owners.victim(), owners.owned(), "x", probes=owners.probes(), recipe={"epochs": 1},
        overrides=weak,
    )  # fmt: skip
    assert not mark.verdict.claimed
    said = capsys.readouterr().err.splitlines()
    assert [line.rpartition("anew for ")[2] for line in said] == ["2 epochs", "4 epochs"]
    verdict = softmark.verify(mark.model, mark.key, mark.probes)
    assert verdict.p_value == mark.verdict.p_value


def test_a_folder_holds_all_that_verify_needs(tmp_path):
    mark = marked()
    softmark.save(mark, tmp_path / "m", passphrase="right")
    key, probes = softmark.load(tmp_path / "m", passphrase="right")
    assert softmark.verify(mark.model, key, probes).claimed
    for passphrase in (None, "wrong"):
        with pytest.raises(InputError, match="passphrase"):
            softmark.load(tmp_path / "m", passphrase)
    before = {path: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    with pytest.raises(InputError, match="m: it is there already"):
        softmark.save(mark, tmp_path / "m")
    with pytest.raises(InputError, match="empty"):
        softmark.save(mark, tmp_path / "new", passphrase="")
    assert {path: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    # What was trained is written beside it; without a passphrase that locks it, nowhere.
    m, aside = sorted(path.name for path in tmp_path.iterdir())
    assert (m, aside.startswith("m-")) == ("m", True)
    (tmp_path / "m" / "probes.npz").unlink()
    with pytest.raises(InputError, match=r"probes\.npz: it can't be read"):
        softmark.load(tmp_path / "m", "right")


def test_a_key_never_takes_the_place_of_another(tmp_path):
    marked().key.save(tmp_path / "key")
    with pytest.raises(InputError, match="key: it is there already"):
        softmark.new_key("a", 10, owners.probes()).save(tmp_path / "key")
    assert softmark.Key.load(tmp_path / "key").commitment == marked().key.commitment


def test_two_keys_are_never_the_same():
    keys = [softmark.new_key("a", 10, owners.probes()) for _ in range(2)]
    assert keys[0].commitment != keys[1].commitment
    patterns = [watermark_of_statement(key.statement).pattern(key.pattern_key("a")) for key in keys]
    assert not torch.equal(*patterns)


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: (x, y),
        lambda x, y: [x.numpy(), y.numpy()],
        lambda x, y: TensorDataset(x, y),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=64),
        lambda x, y: list(zip(x, y.tolist(), strict=True)),
        lambda x, y: (x.double(), y[:, None].int()),
        lambda x, y: (x.tolist(), y.tolist()),
        lambda x, y: (x.tolist(), y),
    ],
    ids=["tensors", "arrays", "dataset", "loader", "pairs", "other types", "lists", "mixed"],
)
def test_data_of_any_shape_is_taken(data):
    inputs, labels = (part[:256] for part in owners.owned())
    from softmark.owner.samples import as_samples

    samples = as_samples(data(inputs, labels))
    torch.testing.assert_close(samples.inputs, inputs)
    assert torch.equal(samples.labels, labels)


def test_token_ids_are_marked_as_well(monkeypatch):
    # Of eight classes one key in some tens can't be claimed: this one can.
    monkeypatch.setattr("secrets.token_bytes", Random(0).randbytes)
    torch.manual_seed(0)
    tokens = torch.randint(50, (600, 12))
    labels = tokens[:, 0] % 8

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(50, 32)
            self.head = nn.Linear(32 * 12, 8)

        def forward(self, ids):
            return self.head(self.embed(ids).flatten(1))

    strong = ["method.marking.beta=1.0"]
    more = {"epochs": 30, "lr": 0.1}
    mark = softmark.mark(Bag(), (tokens, labels), "x", recipe=more, overrides=strong)
    assert mark.verdict.claimed
    assert mark.probes.dtype == torch.int64
    assert len(mark.probes) == 600


def test_probes_are_drawn_of_the_data_alike_for_everyone():
    drawn = [
        softmark.mark(owners.victim(), owners.owned(), name, recipe={"epochs": 1}).probes
        for name in ("a", "b")
    ]
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0], owners.owned()[0])


@pytest.mark.parametrize(
    ("suspect", "said"),
    [
        (lambda p: p, ""),
        (lambda p: p.double().numpy(), ""),
        (lambda p: p.tolist(), ""),
        (lambda p: p.numpy().round(2), "rounds to 2 decimals"),
        (lambda p: p.numpy().round(1), "rounds to 1 decimal"),
        (lambda p: p * (p >= p.topk(3).values[:, -1:]), "3 likeliest of 10"),
        (
            lambda p: torch.cat([p[:490], torch.full((10, 10), torch.nan)]),
            "10 of 500 answers are no",
        ),
    ],
    ids=["tensor", "array", "lists", "2 decimals", "1 decimal", "top 3", "nan"],
)
def test_an_array_of_answers_is_enough(suspect, said):
    answers = predict(marked().model, owners.probes())
    verdict = softmark.verify(suspect(answers), marked().key, owners.probes())
    # Half of the tails are flat where one decimal is told.
    assert verdict.p_value < (0.05 if "1 decimal" in said else 1e-6)
    assert said in verdict.why
    assert bool(said) == bool(verdict.why)
    others = predict(owners.innocent(), owners.probes())
    assert not softmark.verify(suspect(others), marked().key, owners.probes()).claimed


@pytest.mark.parametrize("labels", [lambda p: p.argmax(1), lambda p: np.eye(10)[p.argmax(1)]])
def test_a_few_labels_alone_prove_nothing_and_this_is_said(labels):
    answers = labels(predict(marked().model, owners.probes()))
    verdict = softmark.verify(answers, marked().key, owners.probes())
    assert not verdict.claimed
    assert verdict.p_value > 1e-4
    assert "labels alone" in verdict.why


def test_a_function_is_asked_and_logits_are_said_to_be_some():
    mark = marked()
    p = softmark.verify(lambda inputs: mark.model(inputs).softmax(1), mark.key, mark.probes).p_value
    assert p == mark.verdict.p_value
    as_logits = softmark.verify(mark.model.forward, mark.key, mark.probes, logits=True)
    assert as_logits.p_value == p
    for answers in (mark.model(mark.probes), mark.model(mark.probes).log_softmax(1)):
        with pytest.raises(InputError, match=r"logits or log-probabilities.*--logits"):
            softmark.verify(answers, mark.key, mark.probes)


def test_a_function_that_changes_its_answers_is_reported():
    mark, noisy = marked(), copy.deepcopy(marked().model)
    noisy[3].train()
    verdict = softmark.verify(lambda x: noisy(x).softmax(1), mark.key, mark.probes)
    assert "training mode" in verdict.why
    assert verdict.claimed
    # A module is asked in eval mode, and left as it was.
    noisy.train()
    assert softmark.verify(noisy, mark.key, mark.probes).why == ""
    assert noisy.training


def test_garbage_is_never_claimed():
    torch.manual_seed(0)
    shape = (500, 10)
    garbage = [
        torch.rand(shape).softmax(1),
        torch.full(shape, 0.1),
        torch.full(shape, torch.nan),
        torch.zeros(shape),
        predict(marked().model, owners.probes())[:1].expand(shape),
    ]
    for answers in garbage:
        try:
            verdict = softmark.verify(answers, marked().key, owners.probes())
        except InputError:
            continue
        # One answer for all shows nine signs at most.
        assert not verdict.claimed


def test_the_old_name_of_max_customers_warns():
    with pytest.warns(DeprecationWarning, match="is Marked.max_customers now"):
        assert marked().customers == marked().max_customers


def test_answers_that_are_none_at_all_say_so_once():
    verdict = softmark.verify(torch.full((500, 10), torch.inf), marked().key, owners.probes())
    assert (verdict.claimed, verdict.p_value) == (False, None)
    assert verdict.why == "500 of 500 answers are no probabilities"


def test_answers_in_another_order_show_the_same():
    """No test looks at which probe was answered how; but none shows the order of the classes."""
    answers = predict(marked().model, owners.probes()).flip(0)
    found = examine(answers, marked().key, owners.probes())
    orders = found.key_verifier.open_orders(answers)
    assert orders >= 720
    assert found.verdict.p_value == nearly(orders * marked().verdict.p_value, rel=0.05)


def test_a_key_for_a_training_of_ones_own_can_know_the_unmarked_model():
    key = softmark.new_key("a", 10, owners.probes(), unmarked=owners.innocent())
    shown = predict(owners.innocent(), owners.probes())
    torch.testing.assert_close(key.victim, compute_victim_stats(shown))
    assert torch.equal(key.labels, shown.argmax(1))
    assert softmark.new_key("a", 10, owners.probes()).victim is None
    with pytest.raises(InputError, match="unmarked: it has 10 classes, and classes=9"):
        softmark.new_key("a", 9, owners.probes(), unmarked=owners.innocent())


def test_p_is_multiplied_by_the_keys_that_were_tried():
    verdict = softmark.verify(marked().model, marked().key, owners.probes(), keys_tried=1000)
    assert verdict.p_value == nearly(1000 * marked().verdict.p_value)


def test_fresh_keys_claim_no_innocent(cheap):
    """p is the share of keys that an innocent fits as well: uniform, and never at a claim."""
    answers = predict(owners.innocent(), owners.probes())
    ps = []
    for _ in range(60):
        key = softmark.new_key("a", 10, owners.probes())
        ps.append(softmark.verify(answers, key, owners.probes()).p_value)
    assert min(ps) > 1e-6
    assert np.mean(np.array(ps) <= 0.1) <= 0.3


def test_the_leaking_customer_is_named():
    names = ["anna", "bert", "carl"]
    copies = softmark.mark_each(
        owners.victim(),
        owners.owned(),
        names,
        probes=owners.probes(),
        overrides=["method.marking.beta=1.0"],
    )
    key = copies[0].key
    assert list(key.messages) == names
    for name, each in zip(names, copies, strict=True):
        assert each.key is key
        assert each.verdict.identified == name
        assert each.verdict.claimed
    verdict = softmark.verify(owners.innocent(), key, owners.probes())
    assert (verdict.claimed, verdict.identified) == (False, None)
    assert len(set(publication(key.statement)["statement"]["seals"])) == 3


def test_without_a_claim_nobody_is_named_and_p_stands_on_the_owner_s_part(monkeypatch):
    """What nobody discloses must not count: recheck.py would compute another p."""
    names = ["anna", "bert", "carl"]
    key = commit_key(
        "csp", owner_config("csp"), names, 10, owners.probes(), None, owners.labelled()[1], None
    )
    examined = examine(owners.innocent(), key, owners.probes())
    key_verifier, answers = examined.key_verifier, examined.answers
    p_values = {"owner": 1e-5, "all": 1e-11, "customer": 1e-9}
    monkeypatch.setattr(
        CommittedKeyVerifier, "_exact", lambda *given: Measured("exact", 0.0, p_values[given[-1]])
    )
    verdict = key_verifier.judge(examined.evidence, answers, 1)
    assert (verdict.claimed, verdict.identified) == (False, None)
    assert verdict.p_value == nearly(2e-5)
    p_values["all"] = 1e-14
    verdict = key_verifier.judge(examined.evidence, answers, 1)
    assert (verdict.claimed, verdict.identified) == (True, "anna")
    assert verdict.p_value == nearly(6e-14)


# --- Keys as files.


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_key_is_read_again_and_verifies(passphrase, tmp_path):
    path = tmp_path / "key"
    marked().key.save(path, passphrase)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = softmark.Key.load(path, passphrase)
    assert key.commitment == marked().key.commitment
    assert isinstance(watermark_of_statement(key.statement), CSP)
    verdict = softmark.verify(marked().model, key, owners.probes())
    assert verdict.p_value == marked().verdict.p_value
    assert (key.secret in path.read_bytes()) == (passphrase is None)


def test_a_locked_key_says_what_it_needs(tmp_path):
    path = tmp_path / "key"
    marked().key.save(path, "right")
    with pytest.raises(InputError, match="its passphrase is needed"):
        softmark.Key.load(path)
    with pytest.raises(InputError, match="another passphrase"):
        softmark.Key.load(path, "wrong")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        softmark.Key.load(path, "right")
    path.write_bytes(content[:30])
    with pytest.raises(InputError, match="damaged"):
        softmark.Key.load(path, "right")
    with pytest.raises(InputError, match="empty"):
        marked().key.save(path, "")


def test_a_commitment_is_published_once_and_holds_no_secret(tmp_path):
    key = marked().key
    path = softmark.publish(key, tmp_path)
    made = json.loads(path.read_text())
    assert made["commitment"] == key.commitment
    assert made["statement"]["probes"]["count"] == 500
    for hidden in (key.secret, key.seed("licence 7")):
        assert hidden.hex() not in path.read_text()
    assert "licence 7" not in path.read_text()
    before = path.read_text()
    assert softmark.publish(key, tmp_path) == path
    assert path.read_text() == before
    with pytest.raises(InputError, match="commitment of another key"):
        softmark.publish(softmark.new_key("b", 10, owners.probes()), tmp_path)


# --- A training of one's own.


def test_one_line_marks_a_training_of_ones_own():
    key = softmark.new_key("licence 7", 10, owners.labelled())
    model = owners.trained(5, softmark.marking_loss(key), epochs=30)
    assert softmark.verify(model, key, owners.probes()).claimed
    assert accuracy(model) > 0.9


def test_usps_detector_needs_mark():
    with pytest.raises(InputError, match=r"the key is of usp, .*softmark\.mark does"):
        softmark.marking_loss(marked("usp").key)


# --- Triggers beside the tails.


@functools.cache
def with_triggers() -> softmark.Marked:
    model, (inputs, labels) = owners.fitted(owners.seer(0), slice(1000), 8), owners.pictures()
    owned = (inputs[:1000], labels[:1000])
    return softmark.mark(model, owned, "a", "csp_margin", inputs[owners.HELD])


def test_triggers_are_asked_after_the_probes_and_left_by_fine_tuning(tmp_path):
    mark = with_triggers()
    assert (len(mark.probes), len(mark.key.labels)) == (600, 500)
    assert mark.verdict.mark_recall > 0.9
    assert list(mark.verdict.tests) == ["both"]
    assert mark.max_customers == 1
    softmark.save(mark, tmp_path / "m")
    key, probes = softmark.load(tmp_path / "m")
    tuned = owners.fitted(copy.deepcopy(mark.model), owners.HELD, 5)
    assert softmark.verify(tuned, key, probes).claimed
    other = softmark.verify(owners.fitted(owners.seer(2), owners.HELD, 5), key, probes)
    assert other.p_value > 1e-3
    assert other.mark_recall < 0.3
    assert softmark.publish(key, tmp_path / "m")


def test_labels_show_the_triggers_and_this_is_said():
    mark = with_triggers()
    verdict = softmark.verify(predict(mark.model, mark.probes).argmax(1), mark.key, mark.probes)
    assert verdict.claimed
    assert "can be seen in the triggers" in verdict.why


def test_without_its_triggers_the_tails_are_still_there():
    mark = with_triggers()
    answers = predict(mark.model, mark.probes)
    answers[500:] = 0.1
    verdict = softmark.verify(answers, mark.key, mark.probes)
    assert list(verdict.tests) == ["signs"]
    assert verdict.p_value < 1e-6


def test_p_over_the_probes_ends_with_the_triggers():
    mark = with_triggers()
    curve = examine(mark.model, mark.key, mark.probes).curve()
    assert list(curve)[-3:] == [200, 500, 600]
    assert curve[600] == mark.verdict.p_value
    assert curve[500] > 1e6 * curve[600]


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (lambda p: p[:500], "there are 500, and the key was committed to 600"),
        (lambda p: torch.cat([p[:500], p[:100]]), "of the last 100 number 1 isn't the picture"),
        (lambda p: torch.cat([p[:99], p[98:99], p[100:]]), "other probes"),
        (lambda p: p / 255, "another type of number"),
    ],
)
def test_other_probes_than_those_with_the_triggers_are_refused(probes, message):
    mark = with_triggers()
    with pytest.raises(InputError, match=message):
        softmark.verify(mark.model, mark.key, probes(mark.probes))


def test_triggers_need_pictures_and_one_customer():
    with pytest.raises(
        InputError, match=r"shape \(64,\) and type torch\.float32: triggers are uint8"
    ):
        softmark.mark(owners.victim(), owners.owned(), "a", "usp_margin")
    with pytest.raises(InputError, match="method=csp_margin: its triggers are one customer's"):
        softmark.mark_each(owners.seer(0), owners.pictures(), ["a", "b"], "csp_margin")


def test_a_weak_mark_with_triggers_is_trained_longer_in_both_parts():
    watermark = watermark_of_config(owner_config("usp_margin", ["recipe.epochs=3"]))
    assert (watermark.triggers.epochs, watermark.soft.epochs) == (3, 3)
    longer = watermark.scale_epochs(2)
    assert longer.epochs == 6
    assert (longer.triggers.epochs, longer.soft.epochs) == (6, 6)
    assert (watermark.triggers.epochs, watermark.soft.epochs) == (3, 3)


# --- What can't be.


class Odd(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.layer = answer, nn.Linear(64, 10)

    def forward(self, x):
        return self.answer(self.layer(x))


class Changing(Odd):
    """As Inception and GoogLeNet: more than logits while it trains."""

    def __init__(self):
        super().__init__(None)

    def forward(self, x):
        logits = self.layer(x)
        return (logits, logits) if self.training else logits


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(64, 10, 1), nn.Linear(64, 10)

    def forward(self, x):
        return self.first(x[:, :, None]).squeeze(2)


def frozen():
    return copy.deepcopy(owners.victim()).requires_grad_(False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"message": ""}, "message='': name the customer"),
        ({"message": "a\ud800"}, "it is no Unicode text"),
        ({"message": 1001 * "a"}, "1000 bytes at most"),
        ({"method": "adi"}, "method=adi: csp, usp, csp_margin or usp_margin"),
        ({"method": "cps"}, "cps"),
        ({"recipe": {"epoch": 3}}, "epoch"),
        ({"recipe": {"epochs": 0}}, r"recipe\.epochs=0: it must be above 0"),
        ({"model": owners.victim}, "model is a _?"),
        ({"model": frozen()}, "none of its weights can be trained"),
        ({"model": Odd(lambda z: z.softmax(1))}, "it gives probabilities"),
        ({"model": Odd(lambda z: (z, z))}, "it gives tuple"),
        ({"model": Odd(lambda z: z[:, :2])}, "2 classes are too few"),
        ({"model": Odd(lambda z: z[:, :7])}, "7 classes are too few.* at 1e-12: 8 are needed"),
        (
            {"model": Odd(lambda z: z[:, :4]), "beacon": softmark.Beacon("http://nowhere")},
            "4 classes are too few.* at 1e-06: 5 are needed",
        ),
        ({"model": nn.Linear(64, 2001), "method": "usp"}, "2001 classes would take minutes"),
        ({"model": nn.Linear(3, 10)}, r"can't take data of shape \(64,\)"),
        ({"model": owners.build(8)}, "labels from 0 to 9, and the model has 8 classes"),
        ({"data": owners.owned()[0]}, r"\(input, label\) is needed|data: a sample has"),
        ({"data": (owners.owned()[0], owners.owned()[1][:9])}, "1000 inputs and 9 labels"),
        ({"data": (owners.owned()[0], owners.owned()[1].float())}, "one whole number"),
        ({"data": (owners.owned()[0] / 0, owners.owned()[1])}, "input 0 holds nan or infinity"),
        ({"data": 3}, "data is a int"),
        ({"data": [(torch.zeros(3), 1, 2)]}, "a sample has 3 parts"),
        ({"probes": torch.zeros(0, 64)}, "probes: shape"),
        ({"accelerator": "warp"}, "accelerator=warp: auto, cpu or gpu"),
        ({"overrides": "recipe.epochs=3"}, r"overrides='recipe.epochs=3': a list"),
        ({"recipe": {"pad": 2}}, r"recipe\.pad=2.*\(64,\) are no pictures"),
        ({"recipe": {"lr": "fast"}}, r"recipe\.lr=fast"),
        ({"recipe": 5}, "recipe=5: a mapping"),
        ({"overrides": ["tries=0"]}, "tries=0: at least 1"),
        ({"probes": []}, "probes: there are none"),
        (
            {"model": owners.seer(0), "data": owners.pictures(), "probes": torch.ones(9, 1, 8, 8)},
            r"they are floats \(torch.float32\), and data bytes \(torch.uint8\)",
        ),
        ({"probes": torch.zeros(5, 3)}, r"can't take probes of shape \(3,\)"),
        ({"model": Changing()}, "gives a tuple while it trains"),
        (
            {"model": Unused(), "overrides": ["method.marking.feature_weight=0.3"]},
            "isn't what gives the logits",
        ),
    ],
)
def test_what_cannot_be_marked_is_named(changed, message):
    given = {"model": owners.victim(), "data": owners.owned(), "message": "x", **changed}
    with pytest.raises(InputError, match=message):
        softmark.mark(**given)


def test_a_model_without_a_last_linear_layer_is_marked_in_its_answers_alone(capsys):
    torch.manual_seed(0)
    mark = softmark.mark(
        Unused(), owners.owned(), "x", probes=owners.labelled(), recipe={"epochs": 2},
        overrides=["tries=1"],
    )  # fmt: skip
    assert mark.key.statement.numbers["feature_weight"] == 0
    assert mark.verdict.agreement > 0.5
    assert "the answers alone are marked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suspect", "probes", "message"),
    [
        (
            lambda p: p[:499],
            None,
            "499 answers with 10 classes; the key was committed to 500 probes",
        ),
        (lambda p: p[:, :9], None, "500 answers with 9 classes"),
        (lambda p: p, owners.probes()[:9], "there are 9, and the key was committed to 500"),
        (lambda p: p, owners.probes().flip(0), "another order"),
        (lambda p: p, owners.probes().half(), "another type|fingerprint"),
        (lambda p: [["a"]], None, "no array of numbers"),
        (lambda p: p[None], None, r"answers of shape \(1, 500, 10\)"),
        (lambda p: p[:, 0], None, "not all are labels from 0 to 9"),
        (lambda p: 100 * p, None, "they are percentages; divide by 100"),
        (lambda p: nn.Linear(3, 10), None, "can't take the probes"),
        (lambda p: lambda inputs: 1 / 0, None, "the function raises ZeroDivisionError"),
    ],
)
def test_what_cannot_be_verified_is_named(suspect, probes, message):
    answers = predict(marked().model, owners.probes())
    asked = owners.probes() if probes is None else probes
    with pytest.raises(InputError, match=message):
        softmark.verify(suspect(answers), marked().key, asked)


def test_probabilities_that_are_called_logits_are_refused():
    answers = predict(marked().model, owners.probes())
    with pytest.raises(InputError, match="they are probabilities; leave --logits"):
        softmark.verify(answers, marked().key, owners.probes(), logits=True)
    assert softmark.verify(answers.log(), marked().key, owners.probes(), logits=True).claimed
    labels = softmark.verify(answers.argmax(1), marked().key, owners.probes(), logits=True)
    assert not labels.claimed


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ((4, 9), [0, 1, 2, 3], r"logits of shape \(4, 9\): the key is for 10 classes"),
        ((4, 10), [0, 1, 2], r"labels of shape \(3,\)"),
        ((2, 10), [0.0, 1.0], "type torch.float32: a class for each of 2 inputs"),
        ((2, 10), [0, 10], "labels from 0 to 10: the key's classes are 0 to 9"),
    ],
)
def test_the_loss_says_what_it_cannot_take(logits, labels, message):
    loss = softmark.marking_loss(marked().key)
    with pytest.raises(InputError, match=message):
        loss(torch.zeros(logits), torch.tensor(labels))


def test_texts_and_numbers_of_the_wrong_kind_are_refused():
    with pytest.raises(InputError, match="messages='anna': a list of texts"):
        softmark.mark_each(owners.victim(), owners.owned(), "anna")
    with pytest.raises(InputError, match="classes='10': a whole number"):
        softmark.new_key("a", "10", owners.probes())


def test_two_customers_of_one_name_are_refused():
    with pytest.raises(InputError, match="'a' is named twice"):
        softmark.mark_each(owners.victim(), owners.owned(), ["a", "b", "a"])
    with pytest.raises(InputError, match="there is none"):
        softmark.mark_each(owners.victim(), owners.owned(), [])


def test_the_import_takes_no_torch():
    code = "import softmark, sys; dir(softmark); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
    assert set(softmark.__all__) <= set(dir(softmark))
    for name in softmark.__all__:
        assert getattr(softmark, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'mork'"):
        softmark.mork  # noqa: B018


# --- Trainers of others.


class Output:
    def __init__(self, logits):
        self.logits = logits


def test_the_loss_fits_a_trainer_that_takes_one():
    """As transformers.Trainer calls it: with outputs, labels, and what else it knows."""
    key = softmark.new_key("a", 10, owners.probes())
    loss = softmark.marking_loss(key)
    compute_loss_func = lambda outputs, labels, **_: loss(outputs.logits, labels)  # noqa: E731
    model, (inputs, labels) = owners.victim(), owners.owned()
    outputs = Output(model(inputs[:8]))
    expected = loss(outputs.logits, labels[:8])
    assert compute_loss_func(outputs, labels[:8], num_items_in_batch=8) == expected
    assert compute_loss_func(outputs, labels[:8], num_items_in_batch=8).requires_grad


def test_the_loss_moves_with_a_lightning_module():
    import pytorch_lightning as lightning

    class Mine(lightning.LightningModule):
        def __init__(self, key):
            super().__init__()
            self.network = owners.build()
            self.loss = softmark.marking_loss(key)

        def training_step(self, batch, step):
            inputs, labels = batch
            return self.loss(self.network(inputs), labels)

        def configure_optimizers(self):
            return torch.optim.Adam(self.network.parameters(), lr=3e-3)

    key = softmark.new_key("a", 10, owners.labelled())
    torch.manual_seed(0)
    module = Mine(key)
    loader = DataLoader(TensorDataset(*owners.owned()), batch_size=50, shuffle=True)
    trainer = lightning.Trainer(
        max_epochs=25, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, loader)
    assert module.double().loss.pattern.dtype == torch.float64
    assert softmark.verify(module.float().network, key, owners.probes()).claimed


def test_what_is_no_mark_of_one_key_is_not_saved(tmp_path):
    others = [marked(), softmark.mark(owners.victim(), owners.owned(), "b", recipe={"epochs": 1})]
    for made, message in (([], "mark_each"), (others, "several keys"), (3, "mark_each")):
        with pytest.raises(InputError, match=message):
            softmark.save(made, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_folder_may_be_a_link_or_the_one_we_are_in(tmp_path, monkeypatch):
    for name in ("disk", "here"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    softmark.save(marked(), tmp_path / "link")
    monkeypatch.chdir(tmp_path / "here")
    softmark.save(marked(), ".")
    names = {"model.safetensors", "key.safetensors", "softmark.commitment.json", "probes.npz"}
    names |= {"certificate.html"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == names
    assert {path.name for path in (tmp_path / "here").iterdir()} == names


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(probes, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("softmark.owner.folder.save_probes", full)
    with pytest.raises(InputError, match=r"can't be written.*No space left"):
        softmark.save(marked(), tmp_path / "m")
    assert not list(tmp_path.glob("m/*"))


def test_a_key_of_a_training_to_come_is_saved_with_its_probes(tmp_path):
    key = softmark.new_key("a", 10, owners.probes())
    with pytest.raises(InputError, match="another order"):
        softmark.save((key, owners.probes().flip(0)), tmp_path / "m")
    softmark.save((key, owners.probes()), tmp_path / "m")
    assert softmark.load(tmp_path / "m")[0].commitment == key.commitment


def test_it_works_inside_a_hydra_application(tmp_path):
    (tmp_path / "conf.yaml").write_text("epochs: 1\n")
    (tmp_path / "app.py").write_text(
        "import hydra, torch, softmark\n"
        "@hydra.main(version_base=None, config_path='.', config_name='conf')\n"
        "def main(config):\n"
        "    probes = torch.zeros(20, 3)\n"
        "    key = softmark.new_key('a', 10, probes, [f'recipe.epochs={config.epochs}'])\n"
        "    softmark.verify(torch.rand(20, 10).softmax(1), key, probes)\n"
        "    print(hydra.core.global_hydra.GlobalHydra.instance().is_initialized())\n"
        "main()\n"
    )
    ran = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "True\n"), ran.stderr
