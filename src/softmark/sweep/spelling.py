"""Words of a command line as people and shells write them, spelled so that Hydra can read them."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString

from softmark.errors import InputError
from softmark.settings import absolute

# Keys whose values are folders.
PATHS = ("output_dir", "data.path", "data.source.path", "hydra.run.dir", "hydra.sweep.dir")
# Of a value: a text in quotes, a mark of Hydra's grammar, or what stands between those.
PIECES = re.compile(
    r"""'(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | [,()\[\]{}] | (?:\$\{[^}]*\}|[^,()\[\]{}])+""",
    re.VERBOSE,
)
# What Hydra reads without quotes.
READABLE = re.compile(r"(\$\{[^}]*\}|[\w/\-\\+.$%*@?|:= \t])+", re.ASCII)


def spelled(words: Sequence[str]) -> list[str]:
    """Return the words of a command line so that Hydra reads what was meant.

    ``~`` begins a path at the home folder, a value that Hydra's grammar has no letters for is put
    in quotes, and options come before all overrides.

    Raises:
        InputError: The words end in the middle, as those of a script with Windows' line ends do.

    Example:
        >>> spelled(["data.path=größe", "-m", "seed=0,1"])
        ['-m', "data.path='größe'", 'seed=0,1']
    """
    # bash leaves the \r of \r\n at the end of a line's last word; behind a \ it is a word itself,
    # and the lines below it are commands of their own.
    if "\r" in words:
        raise InputError(
            "the command ends where its first line does, before the overrides of the next: the "
            "script has Windows' line ends; sed -i 's/\\r$//' SCRIPT removes them"
        )
    words = [word.rstrip("\r") for word in words]
    given = get_args_parser().parse_known_intermixed_args(words)[0].overrides
    overrides = iter(given)
    following = next(overrides, None)
    options = []
    for word in words:
        if word == following:
            following = next(overrides, None)
        else:
            options.append(word)
    return [*options, *map(_spelled, given)]


def folders_of(words: Sequence[str]) -> list[str]:
    """Return the folders of configs that a command line names, in the order of Hydra's search.

    Raises:
        InputError: One isn't there, or the words replace conf/ itself.
    """
    options = get_args_parser().parse_known_args(words)[0]
    for option in ("config_path", "config_name"):
        if getattr(options, option) is not None:
            dashed = f"--{option.replace('_', '-')}"
            raise InputError(f"{dashed}: conf/config.yaml is needed; --config-dir DIR adds to it")
    folders = [] if options.config_dir is None else [absolute(options.config_dir)]
    if folders and not Path(folders[0]).is_dir():
        raise InputError(f"--config-dir {options.config_dir}: there is no such folder")
    for word in options.overrides:
        if word.startswith("hydra.searchpath=") and (override := _parsed(word)):
            value = override.value()
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise InputError(f"{word}: a list of folders is needed, as hydra.searchpath=[DIR]")
            for folder in value:
                if "://" not in folder and not Path(folder).is_dir():
                    raise InputError(f"hydra.searchpath={folder}: there is no such folder")
            folders += value
    return folders


def _spelled(word: str) -> str:
    key, equals, value = word.partition("=")
    if not equals or key.startswith("-"):
        return word
    is_path = key.lstrip("+") in PATHS
    if (is_path or key == "hydra.searchpath") and "~" in value:
        value = "".join(map(_at_home, PIECES.findall(value)))
    if _parsed(f"{key}={value}"):
        return f"{key}={value}"
    # A path with brackets; or, with a comma, one that is there.
    if is_path and not set(value) & set("'\"") and ("," not in value or Path(value).exists()):
        return f"{key}={quoted(value)}"
    pieces = [
        piece if piece[0] in "'\",()[]{}" or READABLE.fullmatch(piece) else quoted(piece)
        for piece in PIECES.findall(value)
    ]
    better = f"{key}={''.join(pieces)}"
    return better if _parsed(better) else word


def _at_home(piece: str) -> str:
    """Return ``piece``, of a path's value, with what ``~`` stands for."""
    quote = piece[0] if piece[0] in "'\"" else ""
    text = piece.strip(quote) if quote else piece
    return f"{quote}{absolute(text)}{quote}" if text.startswith("~") else piece


def quoted(text: str) -> str:
    """Return ``text`` as a value of an override, whatever letters it has.

    Example:
        >>> quoted("it's")
        "'it\\\\'s'"
    """
    return QuotedString(text, Quote.single).with_quotes()


def _parsed(word: str) -> Override | None:
    with contextlib.suppress(Exception):  # of Hydra, of its grammar, of a number's many digits
        return OverridesParser.create().parse_override(word)
    return None
