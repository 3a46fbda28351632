"""scripts/mark.py, probes.py, verify.py and recheck.py, as somebody at a terminal uses them."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import ROOT, nearly
from helpers.scripts import run_script
from softmark.data.cache import open_data
from softmark.data.roles import Shares
from softmark.data.sources import Digits
from softmark.models.files import load_network, save_network
from softmark.models.networks import ConvNet, build
from softmark.owner.commitment import publication
from softmark.owner.evidence import evidence_of
from softmark.owner.key import Key
from softmark.owner.new_key import commit_key
from softmark.owner.verify import examine
from softmark.owner.watermarks import owner_config, watermark_of_config
from softmark.tails import compute_victim_stats
from softmark.training import Classifier, Fit, Recipe, predict

# A module of the owner's own, as a file beside the command.
BUILDER = """
from torch import nn

def build():
    return nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10))

def nothing():
    return 3
"""


# Secrets are the system's: no seed makes a weak mark repeatable.
STRONG = "method.marking.beta=1"


@pytest.fixture
def call(monkeypatch, capsys):
    """``call("verify", ...)``: the script in this process; its exit status and what it printed."""
    return functools.partial(run_script, monkeypatch, capsys)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a trained network of softmark's, and a builder."""
    folder = tmp_path_factory.mktemp("owner")
    roles = open_data(Digits(), Shares(0.5, 0.3333, 0, None, None, False), folder / "outputs/data")
    torch.manual_seed(0)
    network = build(functools.partial(ConvNet, width=8), roles.owner, 10)
    recipe = Recipe(8, 64, 0.1, 0.2, 0.9, 5e-4, 0.0, 1, False)
    fit = Fit("cpu", "32-true", nothing)
    save_network(
        fit(Classifier(network, recipe), roles.owner, "victim"), folder / "own.safetensors"
    )
    (folder / "mine.py").write_text(BUILDER)
    return folder


class nothing:
    def __init__(self, name):
        pass

    def __enter__(self):
        return None

    def __exit__(self, *error):
        return None


@pytest.fixture(autouse=True)
def at_home(home, monkeypatch):
    monkeypatch.chdir(home)
    # An example of the documentation may have left a module of this name.
    monkeypatch.delitem(sys.modules, "mine", raising=False)


@pytest.fixture
def marked(home, call):
    """The folder that mark.py makes of the owner's network: made once."""
    if not (home / "marked").exists():
        ran = call("mark", "own.safetensors", "--message", "licence 7", "--to", "marked",
                   "recipe.epochs=10", STRONG)  # fmt: skip
        assert ran.code == 0, ran.err
        assert "claimed" in ran.out
        assert "publish now: marked/softmark.commitment.json" in ran.out
    return home / "marked"


def answers_of(marked: Path, name: str = "model.safetensors") -> np.ndarray:
    probes = torch.from_numpy(np.load(marked / "probes.npz")["inputs"])
    return predict(load_network(marked / name), probes).numpy()


def both_p(printed: str) -> tuple[float, float]:
    """What recheck.py computed, and what the file says."""
    computed, said = re.match(r"p is (\S+); the file says (\S+),", printed).groups()
    return float(computed), float(said)


def test_help_comes_at_once():
    for name in ("mark", "probes", "verify"):
        start = time.monotonic()
        ran = subprocess.run([sys.executable, ROOT / f"scripts/{name}.py", "--help"], check=True,
                             capture_output=True, text=True)  # fmt: skip
        assert f"softmark {name} " in ran.stdout
        assert time.monotonic() - start < 1


def test_a_marked_folder_holds_all_and_the_key_is_private(marked):
    assert {path.name for path in marked.iterdir()} == {
        "model.safetensors", "key.safetensors", "softmark.commitment.json", "probes.npz",
        "certificate.html",
    }  # fmt: skip
    assert (marked / "key.safetensors").stat().st_mode & 0o077 == 0
    about = json.loads((marked / "softmark.commitment.json").read_text())
    assert about["commitment"] == Key.load(marked / "key.safetensors").commitment


def test_exit_status_says_claimed_or_not(marked, call):
    ran = call("verify", "marked", "marked/model.safetensors")
    assert (ran.code, ran.out.split(":")[0]) == (0, "claimed")
    count = len(np.load(marked / "probes.npz")["inputs"])
    assert f" on {count} probes (signs" in ran.out
    ran = call("verify", "marked", "own.safetensors")
    assert (ran.code, ran.out.split(":")[0]) == (3, "not claimed")


def test_probes_go_out_as_pictures_and_answers_come_back(marked, call, tmp_path):
    ran = call("probes", "marked", "--to", tmp_path / "pictures")
    assert ran.code == 0, ran.err
    files = sorted((tmp_path / "pictures").glob("*.png"))
    inputs = np.stack([np.array(Image.open(path)) for path in files])[:, None]
    assert (inputs == np.load(marked / "probes.npz")["inputs"]).all()
    answers = predict(load_network(marked / "model.safetensors"), torch.from_numpy(inputs))
    lines = [
        f"{p.name},{','.join(map(str, a))}" for p, a in zip(files, answers.tolist(), strict=True)
    ]
    np.random.default_rng(0).shuffle(lines)
    header = "probe," + ",".join(map(str, range(10)))
    (tmp_path / "answers.csv").write_text("\n".join([header, *lines]))
    assert call("verify", "marked", tmp_path / "answers.csv").code == 0
    # The second time nothing is written over the first.
    ran = call("probes", "marked", "--to", tmp_path / "pictures")
    assert (ran.code, "there already" in ran.err) == (2, True)
    assert call("probes", "marked", "--to", tmp_path / "p.npz").code == 0
    assert (np.load(tmp_path / "p.npz")["inputs"] == inputs).all()


def test_evidence_says_all_and_hides_the_secret(marked, call, tmp_path):
    ran = call("verify", "marked", "marked/model.safetensors", "--to", tmp_path, "--name", "<b>A&B")
    assert ran.code == 0, ran.err
    text, made = ((tmp_path / f"evidence.{kind}").read_text() for kind in ("html", "json"))
    assert {path.name for path in tmp_path.iterdir()} == {"evidence.html", "evidence.json"}
    assert "&lt;b&gt;A&amp;B" in text
    assert "<b>A" not in text
    assert "http" not in text.replace("http://www.w3.org", "")
    key = Key.load(marked / "key.safetensors")
    for content in (text, made):
        assert key.commitment in content
        for hidden in (key.secret, key.seed("licence 7")):
            assert hidden.hex() not in content
        assert "licence 7" not in content
    assert json.loads(made)["disclosed"] is None
    files = (tmp_path / "evidence.json", marked / "softmark.commitment.json", marked / "probes.npz")
    ran = call("recheck", *files)
    assert (ran.code, "aren't disclosed" in ran.err) == (2, True)
    ran = call("verify", "marked", "own.safetensors", "--to", tmp_path)
    assert (ran.code, "lies there already" in ran.err) == (2, True)


@pytest.mark.parametrize("method", ["csp", "usp_margin", "csp_margin"])
def test_numpy_alone_computes_the_same_p(marked, call, tmp_path, method):
    folder = marked if method == "csp" else tmp_path / method
    if method != "csp":
        ran = call("mark", "own.safetensors", "--message", "a", "--to", folder, f"method={method}",
                   "recipe.epochs=4", STRONG, "method.triggers.num_triggers=60")  # fmt: skip
        assert ran.code == 0, ran.err
        assert "with the triggers" in ran.out
        ran = call("probes", folder, "--to", tmp_path / "all.npz")
        assert (ran.code, "are the triggers" in ran.err) == (0, True)
        assert len(np.load(tmp_path / "all.npz")["inputs"]) == 599 + 60
    published = (folder / "softmark.commitment.json", folder / "probes.npz")
    for status, suspect in ((0, folder / "model.safetensors"), (3, "own.safetensors")):
        evidence = tmp_path / f"e{status}"
        call("verify", folder, suspect, "--to", evidence, "--disclose", "--keys-tried", 3)
        ran = call("recheck", evidence / "evidence.json", *published)
        computed, said = both_p(ran.out)
        assert computed == nearly(said, rel=0.02)
        assert ran.code == status
    # An accuser who found a seed, or usual tails, that fit an innocent, and says nothing of it.
    made = json.loads((evidence / "evidence.json").read_text())
    for part, why in (
        ({"seed": "00" * 32}, "the published"),
        ({"victim": None}, "isn't disclosed"),
    ):
        forged = {**made, "p": 1e-30, "disclosed": {**made["disclosed"], **part}}
        (evidence / "evidence.json").write_text(json.dumps(forged))
        ran = call("recheck", evidence / "evidence.json", *published)
        assert (ran.code, why in ran.err) == (3, True)
    for words in ((), (evidence / "evidence.json",), ("mine.py", *published), ("none", *published)):
        assert call("recheck", *words).code == 2


def files_of_evidence(kind: str, classes: int, folder: Path, lean: float = 1.5, told: bool = False):
    """Evidence of answers that lean to a key's pattern, its commitment, probes, and labels."""
    config = owner_config(kind)
    random = torch.manual_seed(classes)
    probes = torch.rand(300, 3, generator=random)
    victim = labels = None
    if told:
        victim = compute_victim_stats(torch.randn(300, classes, generator=random).softmax(1))
        labels = torch.randint(classes, (300,), generator=random)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("secrets.token_bytes", Random(0).randbytes)
        key = commit_key(kind, config, ["a"], classes, probes, victim, labels, None)
    top = torch.randint(classes, (300,), generator=random)
    if told:  # a suspect that answers the task
        top = torch.where(torch.rand(300, generator=random) < 0.6, labels, top)
    pattern = watermark_of_config(config).pattern(key.pattern_key("a"))
    logits = lean * pattern[top] + torch.randn(300, classes, generator=random)
    answers = logits.scatter(1, top[:, None], 30.0).softmax(1)
    mine = None
    if told:
        right = torch.rand(300, generator=random) < 0.9
        mine = torch.where(right, labels, (labels + 1) % classes)
        (folder / "labels.txt").write_text("\n".join(map(str, mine.tolist())))
    found = examine(answers, key, probes, labels=mine)
    published = publication(key.statement)
    (folder / "e.json").write_text(json.dumps(evidence_of(found, "x", published, True)))
    (folder / "c.json").write_text(json.dumps(published))
    np.savez(folder / "p.npz", inputs=probes.numpy())
    np.save(folder / "a.npy", answers.numpy())
    files = [folder / "e.json", folder / "c.json", folder / "p.npz", "--answers", folder / "a.npy"]
    return [*files, *(["--labels", folder / "labels.txt"] if told else [])]


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("classes", [5, 8, 9, 20, 40])
@pytest.mark.parametrize("kind", ["csp", "usp"])
def test_numpy_alone_computes_the_same_p_for_any_number_of_classes(
    kind, classes, told, call, tmp_path
):
    ran = call("recheck", *files_of_evidence(kind, classes, tmp_path, 0.5, told))
    computed, said = both_p(ran.out)
    assert computed == nearly(said, rel=0.05)
    assert ran.code == (0 if said <= 1e-12 else 3)
    assert classes < 9 or said < 1e-6


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (lambda made: made.update(p=None), 3, "nothing could be tested"),
        (lambda made: made.update(p=1e-30), 3, "the file's p is WRONG"),
        (lambda made: made.update(ranks=made["ranks"][:-1]), 3, "(299, 10) ranks for 300 inputs"),
        (lambda made: made["disclosed"].update(seed="x"), 2, "not the files that are needed"),
        (lambda made: made["disclosed"].update(victim=[[1]]), 3, "isn't the one that was"),
        (lambda made: made.update(labels=[0] * 300), 3, "aren't the committed ones"),
        (lambda made: made.update(ranks=[["a"]]), 2, "not the files that are needed"),
        (lambda made: made["ranks"][7].__setitem__(0, 1e9), 3, "some ranks are no ranks"),
        (lambda made: made["ranks"].reverse(), 3, "the evidence is of other answers"),
        (lambda made: made.update(ranks=[[5.5] * 10] * 300), 3, "of other answers"),
        (lambda made: made.update(tried=0), 3, "the number of keys tried is"),
        (lambda made: made.update(tried=True), 3, "the number of keys tried is"),
        (lambda made: made["statement"].update(level=0.5), 3, "of another commitment"),
        (lambda made: made.update(format="softmark evidence 3"), 2, "of this version"),
    ],
)  # fmt: skip
def test_evidence_that_was_tampered_with_is_no_claim(change, code, message, call, tmp_path):
    evidence, *others = files_of_evidence("csp", 10, tmp_path)
    made = json.loads(evidence.read_text())
    change(made)
    evidence.write_text(json.dumps(made))
    ran = call("recheck", evidence, *others)
    assert (ran.code, message in ran.out + ran.err) == (code, True)


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:-9], lambda b: b[:99] + b[199:]])
def test_probes_that_are_no_whole_file_are_named(spoil, call, tmp_path):
    evidence, commitment, probes, *options = files_of_evidence("csp", 10, tmp_path)
    probes.write_bytes(spoil(probes.read_bytes()))
    ran = call("recheck", evidence, commitment, probes, *options)
    assert (ran.code, "not the files that are needed" in ran.err) == (2, True)


def test_probes_that_declare_too_much_take_no_memory(call, tmp_path):
    evidence, commitment, probes, *options = files_of_evidence("csp", 10, tmp_path)
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**15,)}
    with zipfile.ZipFile(probes, "w") as archive, archive.open("inputs.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, header)
    ran = call("recheck", evidence, commitment, probes, *options)
    assert (ran.code, "aren't the probes and triggers" in ran.err) == (3, True)


def test_an_expert_learns_whether_a_file_is_the_marked_model(call, tmp_path):
    evidence, commitment, *others = files_of_evidence("csp", 10, tmp_path)
    (tmp_path / "model").write_bytes(b"weights")
    words = ("recheck", evidence, commitment, *others, "--model", tmp_path / "model")
    ran = call(*words)
    assert (ran.code, "isn't among those of the commitment" in ran.err) == (3, True)
    made = json.loads(commitment.read_text())
    made["models"] = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    commitment.write_text(json.dumps(made))
    ran = call(*words)
    assert (ran.code, "which model was marked" in ran.out) == (0, False)


def test_a_commitment_file_that_differs_from_the_one_beside_the_key_is_said(marked, call, tmp_path):
    path = tmp_path / "published.json"
    content = json.loads((marked / "softmark.commitment.json").read_text())
    path.write_text(json.dumps(content, indent=2))
    words = ("verify", "marked", "marked/model.safetensors", "--commitment", path)
    assert "isn't the one that was written" not in call(*words).out
    path.write_text(json.dumps({**content, "date": "2020-01-01T00:00:00+00:00"}))
    assert "note: the commitment file shown isn't the one that was written" in call(*words).out


def test_a_commitment_of_another_key_is_no_ground(marked, call, tmp_path):
    shutil.copytree(marked, tmp_path / "other")
    path = tmp_path / "other/softmark.commitment.json"
    path.write_text(path.read_text().replace('"commitment": "', '"commitment": "0'))
    ran = call("verify", tmp_path / "other", "own.safetensors")
    assert (ran.code, "no verdict can stand on it" in ran.err) == (2, True)
    call("mark", "own.safetensors", "--message", "b", "--to", tmp_path / "b", "recipe.epochs=1")
    shutil.copy(tmp_path / "b/softmark.commitment.json", path)
    ran = call("verify", tmp_path / "other", "own.safetensors")
    assert (ran.code, "isn't the key's" in ran.err) == (2, True)


def test_a_module_of_the_owners_own_with_weights(home, call, tmp_path):
    torch.manual_seed(0)
    module = runpy.run_path("mine.py")["build"]()
    torch.save(module.state_dict(), tmp_path / "state.pt")
    ran = call("mark", "mine:build", "--weights", tmp_path / "state.pt", "--message", "a",
               "--message", "b", "--to", tmp_path / "m", "recipe.epochs=30", STRONG)  # fmt: skip
    assert ran.code == 0, ran.err
    suspect = ("mine:build", "--weights", tmp_path / "m/model-2.safetensors")
    ran = call("verify", tmp_path / "m", *suspect, "--to", tmp_path / "e", "--disclose")
    assert (ran.code, ran.out.startswith("claimed, the copy of b")) == (0, True)
    published = (tmp_path / "m/softmark.commitment.json", tmp_path / "m/probes.npz")
    computed, said = both_p(call("recheck", tmp_path / "e/evidence.json", *published).out)
    assert computed == nearly(said, rel=0.02)


def test_a_locked_key_needs_its_passphrase(home, call, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTMARK_PASSPHRASE", "right")
    words = ("own.safetensors", "--message", "a", "--to", tmp_path / "m", "recipe.epochs=1")
    assert call("mark", *words).code in (0, 3)
    assert call("verify", tmp_path / "m", tmp_path / "m/model.safetensors").code in (0, 3)
    monkeypatch.setenv("SOFTMARK_PASSPHRASE", "wrong")
    ran = call("verify", tmp_path / "m", "own.safetensors")
    assert (ran.code, "another passphrase" in ran.err) == (2, True)
    monkeypatch.delenv("SOFTMARK_PASSPHRASE")
    ran = call("verify", tmp_path / "m", "own.safetensors")
    assert (ran.code, "its passphrase is needed" in ran.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("own.safetensors", "--message", ""), "message='': name the customer"),
        (
            ("none.safetensors", "--message", "a"),
            "none.safetensors: it can't be read (No such file",
        ),
        (("mine:nothing", "--message", "a"), "gives a int"),
        (("mine:absent", "--message", "a"), "absent"),
        (("own", "--message", "a"), "MODULE:FUNCTION is needed"),
        (("own.safetensors", "--message", "a", "method=adi"), "csp, usp, csp_margin or usp_margin"),
        (("own.safetensors", "--message", "a", "data=digit"), "did you mean digits?"),
        (("own.safetensors", "--message", "a", "recipe.epoch=3"), "did you mean recipe.epochs?"),
        (("own.safetensors", "--message", "a", "recipe.epochs=1.5"), "recipe.epochs=1.5"),
        (("own.safetensors", "--message", "a", "recipe.epochs=1,2"), "not a sweep"),
        (("own.safetensors", "--message", "a", "recipe.pad=8"), "padded by 7 at most"),
        (
            (
                "own.safetensors",
                "--message",
                "a",
                "method=usp",
                "method.marking.detector_weight=-1",
            ),
            "detector_weight=-1",
        ),
        (("own.safetensors", "--message", "a", "recipe.epochs=0"), r"recipe.epochs=0"),
        (("own.safetensors", "--message", "a", "verifier.probes=5000"), "599 pictures"),
        (("own.safetensors", "--weights", "x.pt", "--message", "a"), "has its own"),
        (("mine:build", "--weights", "mine.py", "--message", "a"), "without running code"),
        (("mine:build", "--weights", "own.safetensors", "--message", "a"), "weights of another"),
    ],
)
def test_what_cannot_be_marked_is_named_and_nothing_is_left(call, tmp_path, words, message):
    ran = call("mark", *words, "--to", tmp_path / "new")
    assert ran.code == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("marked", "none.csv"), "none.csv: there is no such file"),
        (("nowhere", "own.safetensors"), "nowhere: there is no such folder"),
        (("marked", "mine:nothing"), "gives a int"),
        (("marked", "answers.npy", "--weights", "x.pt"), "is no MODULE:FUNCTION"),
        (("marked", "http://127.0.0.1:9"), "--model NAME is needed"),
        (("marked", "answers.docx"), "answers.docx: a .safetensors file of softmark's, MODULE:"),
        (
            (
                "marked",
                "http://127.0.0.1:9",
                "--model",
                "m",
                "--header",
                "a=b",
                "--header",
                "token",
            ),
            "--header: NAME=VALUE",
        ),
        (("marked", "http://127.0.0.1:9", "--model", "m", "--retries", "0"), "127.0.0.1:9"),
        (
            ("marked", "own.safetensors", "--keys-tried", "0"),
            "keys_tried=0: a whole number from 1 on",
        ),
        (("marked", "own.safetensors", "--to", "mine.py"), "it can't be written"),
        (("marked", "own.safetensors", "--to", "/proc/new"), "it can't be written"),
    ],
)
def test_what_cannot_be_verified_is_named(marked, call, words, message):
    ran = call("verify", *words)
    assert ran.code == 2
    assert message in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: a[:-1], "598 answers with 10 classes"),
        (lambda a: a[:, :-1], "599 answers with 9 classes"),
        (lambda a: np.log(a), "--logits"),
    ],
)
def test_predictions_that_cannot_be_used_are_named(marked, call, tmp_path, spoil, message):
    np.save(tmp_path / "a.npy", spoil(answers_of(marked)))
    ran = call("verify", "marked", tmp_path / "a.npy")
    assert (ran.code, message in ran.err) == (2, True)
    if "logits" in message:
        assert call("verify", "marked", tmp_path / "a.npy", "--logits").code == 0


def test_a_probe_that_was_changed_is_seen(marked, call, tmp_path):
    shutil.copytree(marked, tmp_path / "m")
    inputs = np.load(marked / "probes.npz")["inputs"]
    inputs[3, 0, 0, 0] ^= 1
    np.savez_compressed(tmp_path / "m/probes.npz", inputs=inputs)
    for words in (("verify", tmp_path / "m", "own.safetensors"),
                  ("probes", tmp_path / "m", "--to", tmp_path / "out")):  # fmt: skip
        ran = call(*words)
        assert (ran.code, "fingerprint" in ran.err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_probes_that_cannot_be_written_are_said(marked, call):
    for to in ("/proc/new", "/proc/new.npz"):
        ran = call("probes", "marked", "--to", to)
        assert (ran.code, "/proc/new" in ran.err, "Traceback" in ran.err) == (2, True, False)


def test_evidence_never_writes_through_a_link(marked, call, tmp_path):
    (tmp_path / "evidence.html").symlink_to("/dev/full")
    ran = call("verify", "marked", "own.safetensors", "--to", tmp_path)
    assert ran.code == 3
    assert not (tmp_path / "evidence.html").is_symlink()


def test_what_cannot_be_written_is_said_before_any_training(call, monkeypatch):
    words = ("own.safetensors", "--message", "a", "--to")
    for to in ("/proc/new", "mine.py/new"):
        ran = call("mark", *words, to)
        assert (ran.code, "it can't be written" in ran.err) == (2, True)
    ran = call("mark", *words, "new", "--lock")
    assert (ran.code, "SOFTMARK_PASSPHRASE" in ran.err) == (2, True)
    monkeypatch.setenv("SOFTMARK_PASSPHRASE", "")
    ran = call("mark", *words, "new")
    assert (ran.code, "it would lock nothing" in ran.err) == (2, True)
    assert not Path("new").exists()


def test_weights_that_nobody_gave_are_noticed(marked, call):
    ran = call("verify", "marked", "mine:build")
    assert (ran.code, "no --weights are given" in ran.err) == (2, True)
    assert ran.out.startswith("no verdict: it doesn't answer this task as asked")


def test_a_mark_too_weak_to_claim_says_so(call, tmp_path):
    ran = call("mark", "own.safetensors", "--message", "a", "--to", tmp_path / "m",
               "recipe.epochs=1", "recipe.lr=0.0001")  # fmt: skip
    assert ran.code == 3
    assert "raise recipe.epochs" in ran.out
