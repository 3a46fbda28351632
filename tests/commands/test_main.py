"""The command ``softmark``: its words, and completion at a shell."""

import os
import subprocess
import sys
from argparse import _SubParsersAction

import pytest

from softmark.commands import main as command
from softmark.commands.completion import override_completions


@pytest.mark.parametrize(("words", "code", "said"), [
    ([], 0, "COMMAND"),
    (["--help"], 0, "verify"),
    (["--version"], 0, "softmark 0"),
    (["veriy"], 1, "did you mean verify?"),
])  # fmt: skip
def test_words(words, code, said, capsys):
    status = 0
    try:
        command.main(words)
    except SystemExit as stop:
        status = stop.code
    printed = capsys.readouterr()
    assert (status, said in printed.out + printed.err) == (code, True)


@pytest.mark.parametrize("name", [name for name in command.SUMMARIES if name != "run"])
def test_each_word_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main([name, "--help"])
    assert stopped.value.code == 0
    assert name in capsys.readouterr().out


def test_words_without_a_command_are_those_of_an_experiment(monkeypatch, capsys):
    for words in (["attack=nothing"], ["run", "attack=nothing"]):
        with pytest.raises(SystemExit, match="1"):
            command.main(words)
        assert "attack=nothing" in capsys.readouterr().err


def test_a_shell_completes_words_and_options(tmp_path):
    def completed(line: str) -> list[str]:
        given = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out")}
        given |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
        code = "from softmark.commands.main import main; main()"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, **given}, check=True)
        return (tmp_path / "out").read_text().split()

    assert completed("softmark re") == ["recheck", "report"]
    assert completed("softmark verify --answer-") == ["--answer-log"]


def test_a_shell_completes_overrides():
    assert override_completions("config", "attack=distill_h") == [
        "attack=distill_hard", "attack=distill_hot",
    ]  # fmt: skip
    assert override_completions("owner", "recipe.epo") == ["recipe.epochs="]


def test_each_command_completes_its_options(monkeypatch):
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    (commands,) = (a for a in command.overview()._actions if isinstance(a, _SubParsersAction))
    known = {
        name: {option for action in parser._actions for option in action.option_strings}
        for name, parser in commands.choices.items()
    }
    assert {"--config-dir", "--multirun", "-m"} <= known["run"]
    assert {"--model", "--answers", "--published"} <= known["recheck"]
    assert all(known.values())


def test_a_recheck_is_called_by_its_name(capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["recheck"])
    assert capsys.readouterr().err.startswith("usage: softmark recheck ")
