"""What can stand at the cursor of a command line: choices and keys of configs."""

from __future__ import annotations

import argparse

from softmark.settings import configs

# Which config the overrides of a command are of.
CONFIGS = {"run": "config", "report": "config", "mark": "owner"}


def add_override_completers(parser: argparse.ArgumentParser) -> None:
    """Let the overrides of the commands of ``parser`` be completed."""
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        for action in command._actions:
            if action.dest == "overrides":
                action.completer = _completer(CONFIGS[name])


def _completer(config: str):
    """Return what argcomplete calls with the word at the cursor."""

    def complete(prefix: str, **_: object) -> list[str]:
        return override_completions(config, prefix)

    return complete


def override_completions(config: str, word: str) -> list[str]:
    """Return the overrides of ``conf/CONFIG.yaml`` that begin with ``word``.

    Example:
        >>> override_completions("config", "attack=distill_h")
        ['attack=distill_hard', 'attack=distill_hot']
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    with configs():
        loader = GlobalHydra.instance().config_loader()
        return DefaultCompletionPlugin(loader)._query(config, word)
