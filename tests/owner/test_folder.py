"""The folder of an owner: nothing that was trained is lost, and nothing in it can be edited."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from torch import nn

import softmark
from helpers import owners
from softmark import InputError
from softmark.commands.mark import unfinished_kept
from softmark.owner import folder as folders
from softmark.owner import mark as marking
from softmark.owner.certificate import certificate_page
from softmark.owner.commitment import read_publication


@functools.cache
def marked() -> softmark.Marked:
    """A model that knows nothing of its key: nothing is trained here."""
    key = softmark.new_key("licence 7", 10, owners.labelled())
    verdict = softmark.verify(owners.victim(), key, owners.probes())
    return softmark.Marked(owners.victim(), key, owners.probes(), verdict)


@pytest.fixture
def saved(tmp_path) -> Path:
    softmark.save(marked(), tmp_path / "m", owner="Anna & Co.", name="digits 1")
    return tmp_path / "m"


def test_the_commitment_file_names_owner_model_and_the_files_hash(saved):
    published = read_publication(saved / "softmark.commitment.json")
    content = (saved / "model.safetensors").read_bytes()
    assert published["models"] == {"model.safetensors": hashlib.sha256(content).hexdigest()}
    assert (published["owner"], published["name"]) == ("Anna & Co.", "digits 1")
    key, _ = softmark.load(saved)
    assert len(key.published) == 64


@pytest.mark.parametrize(("part", "value"), [
    ("date", "2020-01-01T00:00:00+00:00"), ("owner", "Bert"), ("models", {}), ("softmark", "9"),
])  # fmt: skip
def test_a_commitment_that_was_edited_is_refused(part, value, saved):
    path = saved / "softmark.commitment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    with pytest.raises(InputError, match="edited after it was written"):
        softmark.load(saved)


@pytest.mark.parametrize(("part", "message"), [
    ({"level": 1e-13}, "isn't that of its statement"), ({"classes": 11}, "isn't that of its"),
])  # fmt: skip
def test_a_statement_that_was_edited_is_refused(part, message, saved):
    path = saved / "softmark.commitment.json"
    made = json.loads(path.read_text())
    made["statement"] |= part
    path.write_text(json.dumps(made))
    with pytest.raises(InputError, match=message):
        softmark.load(saved)


@pytest.mark.parametrize("part", [
    {"owner": 3}, {"owner": "x" * 201}, {"models": [1]}, {"models": {"a": "b"}},
])  # fmt: skip
def test_a_commitment_of_other_types_is_refused(part, saved):
    path = saved / "softmark.commitment.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **part}))
    with pytest.raises(InputError, match=r"owner and name|SHA-256 for each"):
        read_publication(path)


def test_files_of_secrets_are_private(saved):
    for name in ("key.safetensors", "probes.npz"):
        assert (saved / name).stat().st_mode & 0o077 == 0


def test_a_training_is_written_aside_where_the_folder_is_taken(saved, tmp_path):
    with pytest.raises(InputError, match="a new folder is needed; the marked model and") as said:
        softmark.save(marked(), saved)
    aside = Path(re.search(r"are in (.+)$", str(said.value))[1])
    assert aside.parent == tmp_path
    assert softmark.load(aside)[0].commitment == marked().key.commitment
    assert aside.stat().st_mode & 0o077 == 0
    # A key can be had again: it is not written elsewhere.
    with pytest.raises(InputError, match=r"a new folder is needed$"):
        softmark.save((marked().key, owners.probes()), saved)


def test_a_training_is_written_aside_where_the_disk_is_full(tmp_path, monkeypatch):
    real = folders.save_probes

    def full(probes, path):
        if path.is_relative_to(tmp_path / "m"):
            raise OSError(28, "No space left on device")
        real(probes, path)

    monkeypatch.setattr(folders, "save_probes", full)
    with pytest.raises(InputError, match=r"No space left.*are in ") as said:
        softmark.save(marked(), tmp_path / "m")
    assert softmark.load(Path(str(said.value).rpartition(" ")[2]))
    assert not (tmp_path / "m").exists()


def test_copies_that_are_done_are_kept_where_another_is_ended(tmp_path, capsys):
    options = argparse.Namespace(to=tmp_path / "m", owner="Anna", name=None, message=["a", "b"])

    def ended():
        error = KeyboardInterrupt()
        error.copies = [marked()]
        raise error

    with pytest.raises(KeyboardInterrupt), unfinished_kept(options, "right"):
        ended()
    said = capsys.readouterr().err
    aside = Path(re.search(r"1 of 2 copies were marked: (\S+) has them", said)[1])
    assert softmark.load(aside, "right")[0].commitment == marked().key.commitment


def test_an_error_holds_the_copies_that_are_done(monkeypatch):
    def trained(self, key, message):
        if message == "bert":
            raise MemoryError
        return message

    monkeypatch.setattr(marking.Marking, "marked", trained)
    with pytest.raises(MemoryError) as ended:
        softmark.mark_each(
            owners.victim(), owners.owned(), ["anna", "bert"], probes=owners.probes()
        )
    assert ended.value.copies == ["anna"]


def test_too_small_a_disk_is_seen_before_the_training(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    needed = folders.bytes_needed(nn.Linear(10, 10), 2, owners.probes())
    with pytest.raises(InputError, match=f"has 1,000 bytes, and {needed:,} are needed"):
        folders.check_new(tmp_path / "m", needed)
    assert not (tmp_path / "m").exists()


def test_a_second_process_is_refused_before_it_trains(tmp_path):
    taken = pytest.raises(InputError, match="another process")
    with folders.reserved(tmp_path / "m"), taken, folders.reserved(tmp_path / "m"):
        pass
    assert not list(tmp_path.iterdir())
    with folders.reserved(tmp_path / "m"):
        pass


def test_the_certificate_says_what_was_published_and_nothing_secret(saved):
    page = (saved / "certificate.html").read_text()
    published = read_publication(saved / "softmark.commitment.json")
    key, _ = softmark.load(saved)
    for said in ("Anna &amp; Co.", "digits 1", key.commitment, key.published, published["date"]):
        assert said in page
    assert published["models"]["model.safetensors"] in page
    assert "licence 7" not in page
    assert "http" not in page
    to_come = certificate_page({**published, "models": {}}, [])
    assert "still to be trained" in to_come


def test_a_model_that_was_trained_with_the_loss_is_bound_as_well(tmp_path):
    key = softmark.new_key("licence 7", 10, owners.labelled())
    softmark.save((key, owners.probes(), owners.victim()), tmp_path / "m", owner="Anna")
    content = (tmp_path / "m" / "model.safetensors").read_bytes()
    published = read_publication(tmp_path / "m" / "softmark.commitment.json")
    assert published["models"] == {"model.safetensors": hashlib.sha256(content).hexdigest()}
    assert published["commitment"] == key.commitment
    page = (tmp_path / "m" / "certificate.html").read_text()
    assert "too weak for a claim" in page  # nothing was marked
    with pytest.raises(InputError, match="and perhaps the model"):
        softmark.save((owners.victim(), key), tmp_path / "n")
