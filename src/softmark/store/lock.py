"""Locks between processes: those of the file system, or where it has none one process at a time."""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from softmark.console import report
from softmark.errors import InputError

CLAIM = ".process"  # names the process that works in a folder without locks
# What flock raises on a file system that has none.
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextlib.contextmanager
def locked(path: Path, folder: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the lock ``path`` while this lasts; nobody else does meanwhile.

    Args:
        path: the lock's file.
        folder: on the same file system, and there already.
        timeout: seconds to wait for another process; -1: for as long as it takes.

    Raises:
        Timeout: another process held it all the time.
        InputError: the file system has no locks, and another process is at work in ``folder``.

    Example:
        >>> with locked(folder / "a.lock", folder):
        ...     pass
    """
    if can_lock(folder):
        with FileLock(path, timeout=timeout):
            yield
    else:
        _claim(folder, os.getpid())
        yield


@functools.cache
def can_lock(folder: Path) -> bool:
    """Return whether the file system of ``folder`` has locks; it is tried once.

    Where nothing can be written it is True: who writes there is told why not.
    """
    try:
        import fcntl
    except ImportError:  # Windows has locks of its own
        return True
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), folder)
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


@functools.cache
def _claim(folder: Path, process: int) -> None:
    """Claim ``folder`` for this process until it ends.

    Raises:
        InputError: another process has claimed it.
    """
    # It is by a file's being there, so that it outlives a process that is killed; filelock knows
    # that one is dead where it ran on this machine.
    lock = SoftFileLock(folder / CLAIM, timeout=1, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"{folder}: its file system has no locks, and another process is at work there; "
            f"output_dir=DIR works elsewhere (if there is no process: remove {folder / CLAIM})"
        ) from error
    atexit.register(lock.release)
    report(
        f"{folder}: its file system has no locks; until this process ends no other may work there"
    )
