"""Scripts in processes of their own: copies of one that has imported what they need, in .1 s.

A new Python takes four seconds of a core for torch and Lightning. Where what a script imports is
what is tested, a new Python it must be.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import tempfile
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from helpers import ROOT

_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(
    ["softmark.cli", "softmark.experiment.stages", "softmark.methods.csp", "softmark.report.export"]
)


@dataclass(frozen=True)
class Running:
    """A script that was started."""

    words: tuple[str, ...]
    process: BaseProcess
    folder: tempfile.TemporaryDirectory

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.is_alive()

    def stdout(self) -> str:
        """Return what it has printed so far."""
        return Path(self.folder.name, "stdout").read_text()

    def stderr(self) -> str:
        """Return what it has reported so far."""
        return Path(self.folder.name, "stderr").read_text()

    def wait(self, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Return how it ended and what it printed. Kill it after ``timeout`` seconds."""
        self.process.join(timeout)
        if self.process.is_alive():
            self.process.kill()
            raise subprocess.TimeoutExpired(self.words, timeout, self.stdout(), self.stderr())
        code, printed = self.process.exitcode, (self.stdout(), self.stderr())
        self.folder.cleanup()
        return subprocess.CompletedProcess(self.words, code, *printed)


def start(script: str, *words: object, env: dict[str, str] | None = None) -> Running:
    """Start ``python SCRIPT WORDS`` in the checkout; ``script`` is a path in it."""
    folder = tempfile.TemporaryDirectory()
    for name in ("stdout", "stderr"):
        Path(folder.name, name).touch()
    argv = (str(ROOT / script), *map(str, words))
    request = {"ARGV": argv, "ENVIRONMENT": env or dict(os.environ), "FOLDER": folder.name}
    child = str(Path(__file__).with_name("child.py"))
    process = _PROCESSES.Process(target=runpy.run_path, args=(child, request))
    process.start()
    return Running(argv, process, folder)


def run(script: str, *words: object, **given) -> subprocess.CompletedProcess[str]:
    """Return how ``python SCRIPT WORDS`` ended and what it printed; see ``start``."""
    return start(script, *words, **given).wait()
