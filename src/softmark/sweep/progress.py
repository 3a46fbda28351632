"""One live line about a sweep at the end of stderr, where that is a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from softmark.errors import InputError
from softmark.experiment.record import read_record
from softmark.store.store import manifest


class LiveLine:
    """stderr with a live line at its end; whatever is written comes before that line.

    It says that it is no terminal, so that nothing else draws a bar of its own there.
    """

    def __init__(self, screen: TextIO):
        self.screen = screen
        self.at_line_start = True
        self.lock = threading.RLock()

    def write(self, text: str) -> int:
        """Write ``text`` above the live line."""
        with self.lock:
            self.screen.write(f"\r\033[K{text}" if self.at_line_start else text)
            self.at_line_start = text.endswith("\n")
        return len(text)

    def draw(self, line: str) -> None:
        """Replace the live line."""
        with self.lock:
            if self.at_line_start:
                self.screen.write(f"\r\033[K{line[: self.num_columns - 1]}")
                self.screen.flush()

    @property
    def num_columns(self) -> int:
        """Return the screen's width: of a line that it wraps, only the last row is replaced."""
        try:
            return os.get_terminal_size(self.screen.fileno()).columns or 80
        except (OSError, ValueError):
            return 80

    def flush(self) -> None:
        """Flush the screen."""
        self.screen.flush()

    def isatty(self) -> bool:
        """Return False, so that no other progress bar is drawn."""
        return False


@contextlib.contextmanager
def live_stderr() -> Iterator[LiveLine | None]:
    """Give stderr a live line; yield None, and change nothing, where it is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.redirect_stderr(LiveLine(sys.stderr)) as stderr:
        yield stderr


def file_stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes as soon as the file is written anew; None where there is none.

    No clock is trusted.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


class SweepProgress:
    """Counts what a sweep has finished, from its files alone.

    Args:
        records: The paths of the records that its cells will write.
        stages: The role of each missing stage, by the folder that it will have.
    """

    def __init__(self, records: Sequence[Path], stages: Mapping[Path, str]):
        self.records = records
        self.stages = {folder: role.split("/")[0] for folder, role in stages.items()}
        self.looked = time.monotonic()
        self.seconds_at_work = 0.0  # in which a stage was in the making
        self.note = ""  # what a launcher has to say
        self.stamps = {path: file_stamp(path) for path in records}

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Renew the line each second while this lasts, where stderr is a terminal."""
        stopped = threading.Event()
        with live_stderr() as stderr:
            if stderr is None:
                yield
                return

            def renew() -> None:
                while not stopped.wait(1):
                    # Others write what it reads; the next second has another chance.
                    with contextlib.suppress(OSError, ValueError, KeyError):
                        stderr.draw(self.line())

            thread = threading.Thread(target=renew, daemon=True)
            thread.start()
            try:
                yield
            finally:
                stopped.set()
                thread.join()
                stderr.draw("")

    def line(self) -> str:
        """Return the cells done and failed, the stages made and begun, and the time left."""
        finished = [folder for folder in self.stages if folder.exists()]
        begun = sum(folder.with_suffix(".making").exists() for folder in self.stages)
        now = time.monotonic()
        # Neither the start of workers nor their time in a queue is work.
        self.seconds_at_work += (now - self.looked) * bool(begun)
        self.looked = now
        judged = [path for path in self.records if file_stamp(path) != self.stamps[path]]
        failed = sum(map(_has_failed, judged))
        parts = [
            f"cells {len(judged)}/{len(self.records)}" + f" ({failed} failed)" * bool(failed),
            f"stages {len(finished)}/{len(self.stages)}, {begun} in the making",
            self._time_left(finished),
            self.note,
        ]
        return " · ".join(filter(None, parts))

    def _time_left(self, finished: Sequence[Path]) -> str:
        """Return an estimate from the seconds that each role took; empty before there are any."""
        seconds: dict[str, list[float]] = {}
        for folder in finished:
            seconds.setdefault(self.stages[folder], []).append(manifest(folder)["seconds"])
        spent = [second for of_role in seconds.values() for second in of_role]
        if not spent or not self.seconds_at_work or len(finished) == len(self.stages):
            return ""
        mean = sum(spent) / len(spent)
        means = {role: sum(of_role) / len(of_role) for role, of_role in seconds.items()}
        missing = [role for folder, role in self.stages.items() if folder not in finished]
        work = sum(means.get(role, mean) for role in missing)
        # Several workers make more than a second's work in a second.
        left = work * self.seconds_at_work / sum(spent)
        minutes, rest = divmod(round(left), 60)
        return f"about {minutes}:{rest:02d} left"


def _has_failed(record: Path) -> bool:
    try:
        return (read_record(record) or {}).get("status") == "failed"
    except InputError:
        return False
