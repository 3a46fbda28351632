"""Locks, and a file system that has none."""

import errno
import fcntl
import os
import subprocess
import sys
import textwrap

import pytest
from filelock import Timeout

from helpers.data import SHARES, Memory, numbered
from softmark.data import cache
from softmark.errors import InputError
from softmark.store import lock
from softmark.store.lock import can_lock, locked
from softmark.store.store import Stage, Store
from softmark.sweep.work_folder import WorkFolder
from softmark.sweep.workers import make_stages

STAGE = Stage("victim", {"seed": 0}, ())

# A second process on such a file system: it makes a stage, and works until it is told to end.
SECOND = """
    import errno, fcntl, sys
    from pathlib import Path

    def flock(*_):
        raise OSError(int(sys.argv[2]), "no locks")

    fcntl.flock = flock
    from softmark.errors import InputError
    from softmark.store.store import Stage, Store

    try:
        stage = Stage("victim", {"seed": int(sys.argv[3])}, ())
        Store(Path(sys.argv[1]), print).once(stage, lambda *_: {})
        print("made", flush=True)
    except InputError as error:
        print(error, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def no_locks(monkeypatch):
    """Let flock fail as it does on some network disks; what was found before is forgotten."""

    def forget():
        for cached in (can_lock, lock._claim):
            cached.cache_clear()

    def fail(number=errno.ENOSYS):
        def flock(*_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", flock)
        forget()

    yield fail
    forget()


def second(folder, seed):
    command = [
        sys.executable,
        "-c",
        textwrap.dedent(SECOND),
        str(folder),
        str(errno.ENOSYS),
        str(seed),
    ]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_lock_keeps_others_out(tmp_path):
    assert can_lock(tmp_path)
    assert can_lock(tmp_path / "not" / "there")
    path = tmp_path / "a.lock"
    with locked(path, tmp_path), pytest.raises(Timeout), locked(path, tmp_path, timeout=0):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["a.lock"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_says_so_once(tmp_path, no_locks, capsys, number):
    no_locks(number)
    store = Store(tmp_path, lambda line: None)
    for seed in range(3):
        store.once(Stage("victim", {"seed": seed}, ()), lambda *_: {})
    assert len(store.made) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{tmp_path}: its file system has no locks; until this process ends no other may work there"
    )
    # No worker is started: it would be the second process.
    stages = {str(seed): Stage("key", {"seed": seed}, ()) for seed in range(4)}
    trainer = {"workers": 2, "threads": 1, "accelerator": "cpu"}
    make_stages(stages, lambda address: {}, trainer, store)
    assert len(store.made) == 3
    with pytest.raises(InputError, match=r"no locks, by which workers share work; .*=basic"):
        WorkFolder.create(tmp_path, [], {}, "outputs")


def test_a_second_process_is_refused_until_the_first_ends(tmp_path, no_locks):
    first = second(tmp_path, 1)
    lines = [first.stdout.readline() for _ in range(2)]
    assert lines[1] == "made\n", lines
    no_locks()
    store = Store(tmp_path, lambda line: None)
    with pytest.raises(InputError, match=r"no locks, and another process is at work there.*DIR"):
        store.once(STAGE, lambda *_: {})
    with pytest.raises(InputError, match=r"remove .*\.process"):
        cache.open_data(Memory(numbered([30, 30])), SHARES, tmp_path)
    first.kill()  # what is left of it keeps nobody out
    first.communicate()
    assert (tmp_path / lock.CLAIM).exists()
    store.once(STAGE, lambda *_: {})
    assert store.has(STAGE)
    refused = second(tmp_path, 2)
    assert "another process is at work" in refused.stdout.readline()
    refused.communicate()


def test_an_error_of_a_lock_that_is_another_is_told(tmp_path, no_locks):
    no_locks(errno.EIO)
    assert can_lock(tmp_path)
    with pytest.raises(OSError, match="Input/output error"):
        Store(tmp_path, lambda line: None).once(STAGE, lambda *_: {})
