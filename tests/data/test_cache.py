"""The cache of decoded pictures: decoded once, damage is named, nothing half-written counts."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

from helpers.data import SHARES, Memory, numbered, parts
from softmark.data import cache as caching
from softmark.data import roles as data
from softmark.data.sources import Digits
from softmark.errors import InputError


def test_a_source_is_decoded_once(tmp_path):
    source = Memory(numbered([30, 30]))
    first = caching.open_data(source, SHARES, tmp_path / "new" / "folder")
    assert parts(caching.open_data(source, SHARES, tmp_path / "new" / "folder")) == parts(first)
    assert parts(first) == parts(data.share(source.decoded, SHARES))
    assert first.classes == ("class 0", "class 1")
    assert source.reads == 1
    caching.open_data(replace(source, name="other"), SHARES, tmp_path / "new" / "folder")
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not list(tmp_path.rglob("*.partial"))


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    source = Memory(numbered([30, 30]))
    assert caching.fingerprint(source, tmp_path) is None
    assert caching.decode(source, tmp_path) == source.decoded.fingerprint
    assert caching.fingerprint(source, tmp_path) == source.decoded.fingerprint
    assert source.reads == 1
    images = source.decoded.images.copy()
    images[0, 0, 0, 7] = 1
    for other in (
        replace(source.decoded, images=images),
        replace(source.decoded, labels=source.decoded.labels[::-1]),
        replace(source.decoded, classes=("a", "b")),
        replace(source.decoded, train=30),
    ):
        assert other.fingerprint != source.decoded.fingerprint


def damage_cut(raw):
    return raw[: len(raw) // 2]


def damage_byte(raw):
    return raw[:-40] + bytes([raw[-40] ^ 1]) + raw[-39:]


def damage_all(raw):
    return b"nonsense" * 100


def damage_empty(raw):
    return b""


def damage_metadata(raw):
    return raw.replace(b'"fingerprint"', b'"fingerprant"')


@pytest.mark.parametrize(
    "damage", [damage_cut, damage_byte, damage_all, damage_empty, damage_metadata]
)
def test_a_damaged_cache_is_named_and_decoded_again(tmp_path, capsys, damage):
    source = Memory(numbered([30, 30]))
    first = caching.open_data(source, SHARES, tmp_path)
    (cache,) = tmp_path.glob("*.safetensors")
    cache.write_bytes(damage(cache.read_bytes()))
    assert parts(caching.open_data(source, SHARES, tmp_path)) == parts(first)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert str(cache) in lines[0]
    assert "damaged" in lines[0]
    caching.open_data(source, SHARES, tmp_path)
    assert source.reads == 2
    assert capsys.readouterr().err == ""


def test_a_damaged_cache_is_gone_even_if_decoding_fails(tmp_path):
    source = Memory(numbered([30, 30]))
    caching.open_data(source, SHARES, tmp_path)
    (cache,) = tmp_path.glob("*.safetensors")
    cache.write_bytes(b"")
    source.decoded = numbered([30])
    with pytest.raises(InputError, match=r"two are needed"):
        caching.open_data(source, SHARES, tmp_path)
    assert not cache.exists()


def test_what_a_killed_process_left_is_no_cache(tmp_path):
    source = Memory(numbered([30, 30]))
    caching.open_data(source, SHARES, tmp_path)
    (cache,) = tmp_path.glob("*.safetensors")
    cache.rename(cache.with_suffix(".partial"))
    caching.open_data(source, SHARES, tmp_path)
    assert source.reads == 2


def test_two_processes_decode_once(tmp_path):
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        import numpy as np
        from softmark.data import cache as caching
        from softmark.data.sources import Decoded

        class Slow:
            def signature(self):
                return {}

            def read(self):
                with open(f"{sys.argv[1]}/reads", "a") as log:
                    log.write("read ")
                time.sleep(1)
                images = np.zeros((8, 1, 8, 8), np.uint8)
                return Decoded(images, np.arange(8) % 2, ("a", "b"), 8)

        Path(sys.argv[1], f"ready{sys.argv[2]}").touch()
        while len(list(Path(sys.argv[1]).glob("ready*"))) < 2:
            time.sleep(0.01)
        print(caching.decode(Slow(), sys.argv[1]))
        """
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, tmp_path, str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].strip()) == 64
    assert (tmp_path / "reads").read_text() == "read "


def test_import_and_fingerprint_leave_torch_alone(tmp_path):
    script = (
        "import sys; from softmark.data import cache as caching, sources;"
        "heavy = {'torch', 'datasets', 'sklearn'};"
        "print(sorted(heavy & set(sys.modules)));"
        f"print(caching.decode(sources.Digits(), {str(tmp_path)!r}), 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    loaded, after = process.stdout.splitlines()
    assert loaded == "[]"
    assert after == f"{caching.fingerprint(Digits(), tmp_path)} False"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/cache") as raised:
        caching.open_data(Memory(numbered([30, 30])), SHARES, tmp_path / "file" / "cache")
    assert_short(raised)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=str(tmp_path)):
        caching.open_data(Memory(numbered([30, 30])), SHARES, tmp_path)


def test_a_disk_that_is_full_is_an_input_error(tmp_path, monkeypatch):
    def full(*_):
        raise caching.SafetensorError("No space left on device")

    monkeypatch.setattr(caching, "save_file", full)
    with pytest.raises(InputError, match=r"No space left"):
        caching.open_data(Memory(numbered([30, 30])), SHARES, tmp_path)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(InputError, match=r"class 0.*two are needed"):
        caching.open_data(Memory(numbered([30])), SHARES, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def assert_short(raised):
    lines = str(raised.value).splitlines()
    assert 1 <= len(lines) <= 3
    assert max(map(len, lines)) < 300
