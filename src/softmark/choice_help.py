"""What ``python run.py --help method=csp`` prints: what a choice is, and a sentence for each key.

The sentences stand below the fields of the classes that a config names. They are read from the
source: torch isn't imported.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra import compose
from hydra._internal.utils import get_args_parser
from omegaconf import DictConfig, OmegaConf

from softmark.nodes import OF_HYDRA
from softmark.settings import config_files, configs
from softmark.store.names import Place, bindings, find, home_of
from softmark.sweep.override_check import check_choice, parse_override
from softmark.sweep.spelling import folders_of

WIDTH = 100  # of a line that is printed
KEY_WIDTH = 36  # of a key with its value, where its sentence stands beside it
# What a plan or a record reads of a node, beside the fields of its class.
PLAN_SENTENCES = {
    "colluders": "Messages of other customers whose models are held, or how many copies are.",
    "certificate": "How far weights may move before a claim by triggers can be lost.",
    "control": "The same training without a mark: what a mark costs is measured against it.",
    "merges": "Whether all models that are held become one.",
    "steps": "Attacks that follow each other.",
}


# Choices of other groups inside of one: their keys are shown where somebody asks for them.
FOLDED = re.compile(
    r"(.+\.)?((attacks|methods|networks|simulated_attacks)\.\w+|candidates\.\w+\.attack)"
)


class Description(NamedTuple):
    """What the source says of a class: the first sentence of it, and one for each field."""

    summary: str
    fields: dict[str, str]


class Row(NamedTuple):
    """A config key, its value as text, and what it means."""

    key: str
    value: str
    sentence: str


def help_of_choices(arguments: Sequence[str]) -> str:
    """Return help on the choices that a command line with --help names; "" where it names none.

    Args:
        arguments: The words of the command line: ``--help``, and ``GROUP=CHOICE`` or ``GROUP``,
            which means the choice that the config makes. Other overrides change the values shown.

    Raises:
        InputError: A group has no such choice.
    """
    given = get_args_parser().parse_known_args(arguments)[0]
    if not given.help:
        return ""
    with configs(folders_of(arguments)):
        words = [word for word in given.overrides if _group_of(word)]
        # A group inside of another is shown as its YAML says: it may fit none of the other choices.
        overrides = [word for word in given.overrides if "=" in word and "/" not in _group_of(word)]
        for word in words:
            if "=" in word:
                check_choice(parse_override(word))
        if not words:
            return ""
        config = compose("config", overrides, return_hydra_config=True)
        return "\n\n".join(_help_of(_group_of(word), word, config) for word in words)


def _group_of(word: str) -> str:
    """Return the config group that a word of the command line names, "" where it names none."""
    group = word.partition("=")[0].lstrip("+")
    is_ours = group and "/hydra" not in f"/{group}"
    return group if is_ours and config_files().repository.group_exists(group) else ""


def _file_of(group: str, choice: str) -> Path:
    """Return the YAML of a choice, in conf/ or in the first folder beside it that has one."""
    name = f"{group}/{choice}.yaml"
    folders = (Path(source.path) for source in config_files().get_sources())
    return next(folder / name for folder in folders if (folder / name).is_file())


def _help_of(group: str, word: str, config: DictConfig) -> str:
    """Return the help on one choice: a heading, what it is, and a paragraph of keys."""
    choice = word.partition("=")[2] or config.hydra.runtime.choices[group]
    path = _file_of(group, choice)
    node = OmegaConf.select(config, group.replace("/", "."))
    if "/" in group or "@package _global_" in path.read_text(encoding="utf-8") or node is None:
        node = OmegaConf.load(path)
    plain = OmegaConf.to_container(node, resolve=False)
    if "hydra" in plain:  # a table
        plain["sweep"] = plain["hydra"]["sweeper"]["params"]
    summary = describe(plain["_target_"]).summary if "_target_" in plain else ""
    lines = [f"{group}={choice}: {summary}".rstrip(": "), *_opening_comment(path)]
    return "\n".join([*map(_wrapped, lines), "", *table_of(list(rows_of(plain, _comments(path))))])


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH)


def table_of(rows: Sequence[Row]) -> list[str]:
    """Return lines that show ``rows``: a key with its value, and its sentence beside or below."""
    lines = []
    for key, value, sentence in rows:
        left = f"  {key}: {value}".rstrip()
        sentences = textwrap.wrap(sentence, WIDTH - KEY_WIDTH)
        if len(left) < KEY_WIDTH and sentences:
            lines.append(f"{left:{KEY_WIDTH}}{sentences.pop(0)}")
        else:
            lines += textwrap.wrap(left, WIDTH, subsequent_indent=" " * 6)
        lines += [" " * KEY_WIDTH + line for line in sentences]
    return lines


def rows_of(node: dict[str, Any], comments: dict[str, str], above: str = "") -> Iterator[Row]:
    """Yield a row for each key of a config node, and of the nodes in it.

    Args:
        node: Plain containers.
        comments: What stands beside keys of the YAML, for those without a sentence in a class.
        above: What the keys begin with.
    """
    fields = describe(node["_target_"]).fields if "_target_" in node else {}
    for name, value in node.items():
        if name in (*OF_HYDRA, "name", "defaults", "hydra"):
            continue
        key = f"{above}{name}"
        sentence = fields.get(name) or PLAN_SENTENCES.get(name) or comments.get(key, "")
        is_node = isinstance(value, dict) and "_target_" in value
        if is_node:
            sentence = " ".join(filter(None, [sentence, describe(value["_target_"]).summary]))
        is_shown = FOLDED.fullmatch(key) is None
        if _has_target(value) or (isinstance(value, dict) and not sentence and not above):
            yield Row(key, "" if is_shown else "...", sentence)
            yield from rows_of(value, comments, f"{key}.") if is_shown else ()
        else:
            yield Row(key, _text(value), sentence)


def _has_target(value: Any) -> bool:
    """Return whether a node of a class is anywhere in ``value``."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_target, value.values()))
    return False


def _text(value: Any) -> str:
    """Return ``value`` on one line, as YAML has it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...").strip("'\"")


def _opening_comment(path: Path) -> list[str]:
    """Return the comment that a YAML begins with as one line, if there is one."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.lstrip("# "))
    return [" ".join(lines)] if lines else []


def _comments(path: Path) -> dict[str, str]:
    """Return the comments beside the keys of a YAML, each by its whole key."""
    above: list[str] = []
    comments = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if parts := re.match(r"( *)([\w.]+):(?:[^#]*#\s*(.+))?", line):
            indent, name, comment = parts.groups()
            above[len(indent) // 2 :] = [name]
            if comment:
                comments[".".join(above)] = comment[0].upper() + comment[1:].rstrip(".") + "."
    return comments


@functools.cache
def describe(target: str) -> Description:
    """Return what the source says of the class or function ``target``, a full name.

    A field's sentence is the string below it, there or in a base class, or what the docstring's
    ``Args:`` says of it.
    """
    top, *names = target.split(".")
    place, attributes = find(Place(top, tuple(names)), home_of(top))
    if place is None or attributes or not place.names:
        return Description("", {})
    definition = bindings(place.module)[place.names[0]][-1]
    if not isinstance(definition, ast.ClassDef | ast.FunctionDef):
        return Description("", {})
    fields = {}
    for base in reversed(getattr(definition, "bases", [])):
        if isinstance(base, ast.Name | ast.Attribute):
            fields |= _described_base(ast.unparse(base), place.module).fields
    fields |= described_arguments(ast.get_docstring(definition) or "")
    body = definition.body
    for field, below in itertools.pairwise(body):
        is_field = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if is_field and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            fields[field.target.id] = " ".join(str(below.value.value).split())
    return Description(first_sentence(ast.get_docstring(definition) or ""), fields)


def described_arguments(docstring: str) -> dict[str, str]:
    """Return a sentence for each argument in the ``Args:`` of a docstring.

    Example:
        >>> described_arguments("Do it.\\n\\nArgs:\\n    lr: of Adam,\\n        above 0.")
        {'lr': 'Of Adam, above 0.'}
    """
    section = re.search(r"^Args:\n((?: .*\n?|\n)+)", docstring, re.MULTILINE)
    arguments = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section[1] if section else "", re.M)
    return {name: _sentence(text) for name, text in arguments}


def _sentence(text: str) -> str:
    words = " ".join(text.split())
    return f"{words[0].upper()}{words[1:].rstrip('.')}."


def _described_base(name: str, module: str) -> Description:
    """Return what the source says of ``name``, as code in ``module`` calls it."""
    return describe(f"{module}.{name}") if "." not in name else Description("", {})


def first_sentence(docstring: str) -> str:
    """Return the first sentence of a docstring on one line.

    Example:
        >>> first_sentence("Do it (as Li et al. 2021).\\nThen rest. More")
        'Do it (as Li et al. 2021).'
    """
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return re.split(r"(?<=[.!?])\s+(?=[A-Z`])", paragraph)[0]
