"""The example that comes with softmark: small, claimed where it should be, and ready at once."""

import time

import pytest

import softmark
from softmark import InputError, attacks
from softmark.accuracy import accuracy
from softmark.owner.commitment import read_publication
from softmark.owner.example import EXAMPLES, METHODS, write_example
from softmark.training import predict


def test_all_files_are_small_and_hold_nothing_of_this_machine():
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10**6
    assert len(files) == 1 + 6 * len(METHODS)
    assert not any(b"/work/" in path.read_bytes() for path in files)


@pytest.mark.parametrize("method", METHODS)
def test_model_and_student_are_claimed_and_the_unmarked_model_is_not(method):
    example = softmark.example(method)
    for suspect in (example.model, example.student):
        assert softmark.verify(suspect, example.key, example.probes).claimed
    assert not softmark.verify(example.unmarked, example.key, example.probes).claimed
    inputs, labels = example.data
    assert all(
        accuracy(predict(each, inputs), labels) > 0.93
        for each in (example.model, example.unmarked, example.student)
    )


def test_a_first_attack_takes_a_second_or_two():
    example, begin = softmark.example("csp"), time.monotonic()
    inputs, labels = example.data
    suspect = attacks.FineTune(epochs=1)(example.model, (inputs[:200], labels[:200]))
    assert softmark.verify(suspect, example.key, example.probes).claimed
    assert time.monotonic() - begin < 10


def test_the_command_writes_a_folder_that_verify_takes(tmp_path):
    written = write_example("csp", tmp_path / "e")
    assert {"student.safetensors", "unmarked.safetensors"} < {path.name for path in written}
    key, probes = softmark.load(tmp_path / "e")
    assert key.commitment == softmark.example("csp").key.commitment
    assert len(probes) == key.statement.probes.count
    assert read_publication(tmp_path / "e/softmark.commitment.json")["owner"]
    with pytest.raises(InputError, match="a new folder is needed"):
        write_example("csp", tmp_path / "e")
    with pytest.raises(InputError, match="an example of csp and of usp"):
        softmark.example("adi")
