"""The command ``softmark``: which word does what, and completion at a shell.

    softmark mark MODEL --message 'licence 7' --to marked data=digits
    softmark run -m method=usp,csp attack=finetune,prune,distill

Only what a word needs is imported: ``--help`` and a mistyped word answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

from softmark.console import conclude, quiet_streams

# As for ``run``: threads that wait actively stall those of another process. Read by torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# What each word does. The modules of this package have the words' names, but for "run".
SUMMARIES = {
    "mark": "mark a model of your own; write key, commitment, probes and certificate",
    "probes": "write the probes for whoever asks the suspect",
    "verify": "say whether a suspect derives from a marked model; write evidence",
    "recheck": "compute p again from disclosed evidence, with numpy alone",
    "run": "run experiments: mark, attack, judge; -m for a sweep",
    "report": "write tables, plots and pages of experiments",
    "example": "write a small marked model, its key and a stolen student, to try things",
    "store": "list or prune the stored stages of experiments",
}


@quiet_streams()
def main(words: Sequence[str] | None = None) -> None:
    """Do what a command line says, and exit with its status.

    Args:
        words: of the command line; those that the process was started with where None.
    """
    words = sys.argv[1:] if words is None else list(words)
    if "_ARGCOMPLETE" in os.environ:
        complete()
    name = words[0] if words else "--help"
    if name in ("-h", "--help"):
        print(overview().format_help(), end="")
    elif name == "--version":
        print(f"softmark {version('softmark')}")
    elif name == "recheck":
        recheck(words[1:])
    elif name in SUMMARIES and name != "run":
        run_command(name, words[1:])
    elif name == "run" or "=" in name or name.startswith("-"):
        from softmark.cli import main as run

        # Words without one in front are those of an experiment, as ``python run.py`` takes them.
        sys.argv[1:] = words[name == "run" :]
        run()
    else:
        from softmark.nodes import suggestion

        hint = suggestion(name, list(SUMMARIES))
        sys.exit(f"error: {name}: {', '.join(SUMMARIES)} are the commands{hint}")


def run_command(name: str, words: Sequence[str]) -> None:
    """Run the module of the command ``name``, and exit with its status."""
    module = _module(name)
    options = _parser(name, module).parse_intermixed_args(words)
    conclude(lambda: module.run(options), module.left_behind(options))


def recheck(words: Sequence[str]) -> None:
    """Run recheck.py, which knows nothing of softmark: whoever doubts it can read one file."""
    sys.argv = ["softmark recheck", *words]
    _recheck_file()["main"]()


def overview() -> argparse.ArgumentParser:
    """Return a parser that lists the commands, with all of their options."""
    parser = argparse.ArgumentParser(
        prog="softmark",
        description="Mark neural networks through their soft labels, and judge what is left.",
        epilog="softmark COMMAND --help says more. Completion: "
        'eval "$(register-python-argcomplete softmark)"',
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    for name, summary in SUMMARIES.items():
        if "_ARGCOMPLETE" not in os.environ:
            commands.add_parser(name, help=summary)
        elif name in ("run", "recheck"):
            commands.add_parser(name, parents=[_parser_of(name)], add_help=False)
        else:
            _module(name).add_arguments(commands.add_parser(name))
    return parser


def _parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser of a word that has no module here: Hydra's, or that of recheck.py."""
    if name == "recheck":
        return _recheck_file()["arguments"]()
    from hydra._internal.utils import get_args_parser

    return get_args_parser()


def _recheck_file() -> dict[str, Any]:
    import runpy

    from softmark.settings import RECHECK

    return runpy.run_path(str(RECHECK))


def complete() -> None:
    """Print what can stand at the cursor, for the shell, and exit; overrides as Hydra has them."""
    import argcomplete

    from softmark.commands.completion import add_override_completers

    parser = overview()
    add_override_completers(parser)
    argcomplete.autocomplete(parser)


def _module(name: str) -> ModuleType:
    return import_module(f"softmark.commands.{name}")


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"softmark {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser
